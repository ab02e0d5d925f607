"""A server to call, as a process of its own, that does as little as a server can.

It answers every unary call with the request. A request that is WAIT is answered after the
server's own `delay_s`, one that is REFUSE with UNAVAILABLE and the trailer that says that
nothing was done. On "count" it tells how many calls it has had.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health

from bench.peers import Peer, commands, run_role, tell

METHOD: Final = "/tallystick.bench.Echo/Unary"
REQUEST: Final = b"x" * 100
WAIT: Final = b"wait"
REFUSE: Final = b"refuse"
UNPROCESSED: Final = (("tallystick-unprocessed", "1"),)


class Echo:
    """The servicer."""

    def __init__(self, delay_s: float) -> None:
        self.calls = 0
        self._delay_s = delay_s

    async def unary(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        """The request."""
        self.calls += 1
        if request == REFUSE:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "as asked", UNPROCESSED)
        if request == WAIT:
            await asyncio.sleep(self._delay_s)
        return request


async def serve(delay_s: float) -> None:
    """Serves until told to end; tells its address first."""
    echo, server = Echo(delay_s), grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(echo.unary)
    _, service, method = METHOD.split("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    health_pb2_grpc.add_HealthServicer_to_server(grpc_health.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    tell(address=f"127.0.0.1:{port}")
    async for _ in commands():
        tell(calls=echo.calls)
    await server.stop(None)


class Fleet:
    """Servers that run, their addresses and how many calls they had."""

    def __init__(self, peers: list[Peer], addresses: list[str]) -> None:
        self.addresses = addresses
        self._peers = peers

    async def calls(self) -> int:
        """Calls that all of them have had."""
        return sum([(await peer.ask("count"))["calls"] for peer in self._peers])


@contextlib.asynccontextmanager
async def fleet(*delays_s: float) -> AsyncIterator[Fleet]:
    """One server for each of the delays."""
    async with contextlib.AsyncExitStack() as stack:
        peers = [
            await stack.enter_async_context(Peer("bench.echo", "serve", delay_s=delay_s))
            for delay_s in delays_s
        ]
        yield Fleet(peers, [(await peer.hear())["address"] for peer in peers])


if __name__ == "__main__":
    asyncio.run(run_role({"serve": serve}))
