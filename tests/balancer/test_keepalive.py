"""Connections to who stands still: only pings tell that from who takes long."""

from __future__ import annotations

import asyncio

import grpc

import balancer
from balancer import ChannelConfig
from tests.balancer.calls import call
from tests.balancer.conftest import StartServer
from tests.balancer.echo import HANG
from tests.balancer.waiting import TIMEOUT_S
from tests.discovery.proxy import TcpProxy

# gRPC Core sends no more than one a second, and of itself only two to who says nothing.
PING_S = 1.0
MORE_PINGS_THAN_TWO_S = 3.5


async def test_only_who_answers_no_ping_is_left(start_server: StartServer) -> None:
    """A call may take as long as it likes; it ends when nobody is there any more."""
    server = await start_server()
    config = ChannelConfig(keepalive_time_s=PING_S, keepalive_timeout_s=PING_S / 2)
    async with (
        TcpProxy(server.address) as path,
        balancer.channel(f"static:///{path.endpoint}", config=config) as channel,
    ):
        asked = asyncio.ensure_future(call(channel, HANG).code())
        assert (set(), {asked}) == await asyncio.wait({asked}, timeout=MORE_PINGS_THAN_TWO_S)
        path.freeze()
        async with asyncio.timeout(TIMEOUT_S):
            assert grpc.StatusCode.UNAVAILABLE is await asked
