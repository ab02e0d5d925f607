"""The echo service of `tests.balancer.echo`, on a server that has threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from tests.balancer.echo import DEFAULT_STREAM_LENGTH, FAIL, HANG, SERVICE
from tests.support.ports import free_port

THREADS = 12


class EchoServer:
    """One server on a port of its own, also from start to start."""

    def __init__(self, name: bytes = b"server") -> None:
        self.name = name
        self.port = free_port()
        self.calls = 0
        self.hanging = 0
        self.metadata: list[tuple[str, Any]] = []
        # Set before `start` to have the health service as well.
        self.health: health.HealthServicer | None = None
        # Set to turn calls away at once: the status, and the trailers with it.
        self.refusal: grpc.StatusCode | None = None
        self.refusal_trailers: tuple[tuple[str, str], ...] = ()
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._server: grpc.Server | None = None

    @property
    def address(self) -> str:
        """Where it listens, `host:port`."""
        return f"127.0.0.1:{self.port}"

    def start(self, credentials: grpc.ServerCredentials | None = None) -> EchoServer:
        """Listens. Raises RuntimeError where somebody else does."""
        server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((self._handler(),))
        if self.health is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        if credentials is None:
            server.add_insecure_port(self.address)
        else:
            server.add_secure_port(self.address, credentials)
        server.start()
        self._server = server
        return self

    def stop(self, grace_s: float | None = None) -> None:
        """Closes the port; calls under way may take `grace_s` more."""
        if self._server is not None:
            server, self._server = self._server, None
            server.stop(grace_s).wait()

    def release(self) -> None:
        """Lets every hanging call go on."""
        self._released.set()

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

    def _begin(self, context: grpc.ServicerContext) -> None:
        with self._lock:
            self.calls += 1
        self.metadata = list(context.invocation_metadata())
        if self.refusal is not None:
            context.set_trailing_metadata(self.refusal_trailers)
            context.abort(self.refusal, "turned away")
        context.send_initial_metadata((("server", self.name.decode()),))
        context.set_trailing_metadata((("trailer", "end"),))

    def _obey(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if request == FAIL:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked")
        if request == HANG:
            self._hang(context)
        return self.name + b":" + request

    def _hang(self, context: grpc.ServicerContext) -> None:
        wake = threading.Event()
        context.add_callback(wake.set)
        with self._lock:
            self.hanging += 1
        while not self._released.is_set() and not wake.wait(0.01):
            pass
        with self._lock:
            self.hanging -= 1

    def _unary_unary(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._begin(context)
        return self._obey(request, context)

    def _unary_stream(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self._begin(context)
        for _ in range(DEFAULT_STREAM_LENGTH):
            yield self._obey(request, context)

    def _stream_unary(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        self._begin(context)
        return b",".join([self._obey(request, context) for request in requests])

    def _stream_stream(
        self, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        self._begin(context)
        for request in requests:
            yield self._obey(request, context)
