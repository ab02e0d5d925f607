"""Channels that connect at the first call and not before."""

from __future__ import annotations

import asyncio

from grpc import ChannelConnectivity

import balancer
from balancer import ChannelConfig
from tests.balancer.calls import call
from tests.balancer.conftest import StartServer
from tests.balancer.echo import EchoServer
from tests.balancer.waiting import reaches

IDLE = ChannelConnectivity.IDLE
READY = ChannelConnectivity.READY
LAZY = ChannelConfig(lazy=True)


async def test_it_is_idle_until_the_first_call(start_server: StartServer) -> None:
    """The first call connects every endpoint, waits for one and is answered."""
    servers = [await start_server(name) for name in (b"a", b"b")]
    target = "static:///" + ",".join(server.address for server in servers)
    async with balancer.channel(target, config=LAZY) as channel:
        await reaches(channel, IDLE)
        # Time enough to connect, for one that does.
        async with balancer.channel(target) as eager:
            await reaches(eager, READY)
        assert {"IDLE"} == {each.state for each in channel.facts().endpoints}
        assert IDLE is channel.get_state()
        assert (await call(channel)).endswith(b":x")
        await reaches(channel, READY)


async def test_it_connects_when_asked_to(server: EchoServer) -> None:
    """By `get_state(try_to_connect=True)`, and by waiting for it to be ready."""
    target = f"static:///{server.address}"
    async with balancer.channel(target, config=LAZY) as channel:
        await reaches(channel, IDLE)
        channel.get_state(try_to_connect=True)
        await reaches(channel, READY)
    async with balancer.channel(target, config=LAZY) as channel, asyncio.timeout(10):
        await channel.channel_ready()


async def test_a_lazy_channel_may_be_closed_unused(server: EchoServer) -> None:
    """It has connected nowhere, and leaves nothing behind."""
    async with balancer.channel(f"static:///{server.address}", config=LAZY) as channel:
        await reaches(channel, IDLE)
    assert 0 == server.calls
