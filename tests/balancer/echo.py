"""A small gRPC service of all four kinds, and servers of it that come and go.

Messages are bytes. Every response names the server, so that a test sees who answered.
What a server does is told by the request: see `_obey`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from tests.support.ports import free_port

SERVICE = "tallystick.test.Echo"
UNARY_UNARY = f"/{SERVICE}/UnaryUnary"
UNARY_STREAM = f"/{SERVICE}/UnaryStream"
STREAM_UNARY = f"/{SERVICE}/StreamUnary"
STREAM_STREAM = f"/{SERVICE}/StreamStream"

FAIL = b"fail"
FAIL_LATER = b"fail later"
HANG = b"hang"
HANG_LATER = b"hang later"
DEFAULT_STREAM_LENGTH = 3

_OPTIONS = [
    ("grpc.so_reuseport", 0),
    # A client may ping as often as gRPC Core can.
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
]

Context = grpc.aio.ServicerContext[bytes, bytes]


class EchoServer:
    """One server on a port of its own, also from start to start."""

    def __init__(self, name: bytes = b"server") -> None:
        self.name = name
        self.port = free_port()
        self.calls = 0
        self.hanging = 0
        self.metadata: list[tuple[str, Any]] = []
        self.released = asyncio.Event()
        # Set to turn calls away at once: the status, and the trailers with it.
        self.refusal: grpc.StatusCode | None = None
        self.refusal_trailers: tuple[tuple[str, str], ...] = ()
        # Set before `start` to have the health service as well.
        self.health: HealthServicer | None = None
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        """Where it listens, `host:port`."""
        return f"127.0.0.1:{self.port}"

    async def start(self, credentials: grpc.ServerCredentials | None = None) -> EchoServer:
        """Listens. Raises RuntimeError where somebody else does."""
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((self._handler(),))
        if self.health is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        if credentials is None:
            self._server.add_insecure_port(self.address)
        else:
            self._server.add_secure_port(self.address, credentials)
        await self._server.start()
        return self

    async def stop(self, grace_s: float | None = None) -> None:
        """Closes the port; calls under way may take `grace_s` more."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(grace_s)

    def release(self) -> None:
        """Lets every hanging call go on."""
        self.released.set()

    def _handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "UnaryUnary": grpc.unary_unary_rpc_method_handler(self._unary_unary),
                "UnaryStream": grpc.unary_stream_rpc_method_handler(self._unary_stream),
                "StreamUnary": grpc.stream_unary_rpc_method_handler(self._stream_unary),
                "StreamStream": grpc.stream_stream_rpc_method_handler(self._stream_stream),
            },
        )

    async def _begin(self, context: Context) -> None:
        self.calls += 1
        self.metadata = list(context.invocation_metadata() or ())
        if self.refusal is not None:
            await context.abort(self.refusal, "turned away", self.refusal_trailers)
        await context.send_initial_metadata((("server", self.name.decode()),))
        context.set_trailing_metadata((("trailer", "end"),))

    async def _obey(self, request: bytes, context: Context) -> bytes:
        if request in (HANG, FAIL_LATER):
            self.hanging += 1
            try:
                await self.released.wait()
            finally:
                self.hanging -= 1
        if request in (FAIL, FAIL_LATER):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked")
        return self.name + b":" + request

    async def _unary_unary(self, request: bytes, context: Context) -> bytes:
        await self._begin(context)
        return await self._obey(request, context)

    async def _unary_stream(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        await self._begin(context)
        for _ in range(DEFAULT_STREAM_LENGTH):
            yield await self._obey(request, context)
            if request == HANG_LATER:
                await self._obey(HANG, context)

    async def _stream_unary(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        await self._begin(context)
        return b",".join([await self._obey(request, context) async for request in requests])

    async def _stream_stream(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        await self._begin(context)
        async for request in requests:
            yield await self._obey(request, context)
