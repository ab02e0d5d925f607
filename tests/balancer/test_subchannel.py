"""Connections that break and come back."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

import pytest
from grpc import ChannelConnectivity

import balancer
from balancer import BalancedChannel, ChannelConfig
from balancer.subchannel import AioSubchannel, grpc_target
from discovery.endpoint import Endpoint
from tests.balancer.calls import call, only, served_by
from tests.balancer.conftest import StartServer
from tests.balancer.echo import HANG, EchoServer
from tests.balancer.waiting import reaches
from tests.support.waiting import eventually

EMPTY_SETTINGS_FRAME = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
READY = ChannelConnectivity.READY
FAILED = ChannelConnectivity.TRANSIENT_FAILURE


@pytest.fixture
async def servers(start_server: StartServer) -> list[EchoServer]:
    """Two servers, a and b."""
    return [await start_server(name) for name in (b"a", b"b")]


@pytest.fixture
async def channel(servers: list[EchoServer]) -> AsyncIterator[BalancedChannel]:
    """A channel that is connected to both."""
    target = "static:///" + ",".join(server.address for server in servers)
    async with balancer.channel(target) as made:
        await only(made, "a", "b")
        yield made


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:5", "ipv4:127.0.0.1:5"),
        ("[::1]:5", "ipv6:[::1]:5"),
        ("ledger.internal:5", "dns:///ledger.internal:5"),
        ("localhost:5", "dns:///localhost:5"),
        ("1.2.3:5", "dns:///1.2.3:5"),
    ],
)
def test_grpc_target(address: str, expected: str) -> None:
    """Only names are looked up."""
    assert expected == grpc_target(address)


async def test_a_dead_server_is_left_out(
    channel: BalancedChannel, servers: list[EchoServer]
) -> None:
    """After one server has died the other gets every call."""
    await servers[0].stop()
    await eventually(lambda: states(channel)[servers[0].address] is not READY)
    assert {"b": 20} == await served_by(channel, 20)
    assert READY is channel.get_state()


async def test_a_server_that_comes_back(
    channel: BalancedChannel, servers: list[EchoServer]
) -> None:
    """A server that listens again gets calls again."""
    await servers[0].stop()
    await eventually(lambda: states(channel)[servers[0].address] is FAILED)
    await servers[0].start()
    await only(channel, "a", "b")
    assert {"a": 10, "b": 10} == await served_by(channel, 20)


async def test_all_servers_die_and_one_comes_back(
    channel: BalancedChannel, servers: list[EchoServer]
) -> None:
    """The channel fails when all have died and is READY again with the first."""
    for server in servers:
        await server.stop()
    await reaches(channel, FAILED)
    await servers[1].start()
    await reaches(channel, READY)
    assert {"b": 5} == await served_by(channel, 5)


async def test_a_loss_is_seen_by_the_very_next_pick(
    channel: BalancedChannel, servers: list[EchoServer]
) -> None:
    """A pick does not wait for the event loop to tell that a connection is lost."""
    lost = channel._pool._subchannels[servers[0].address]
    assert isinstance(lost, AioSubchannel)
    stopping = asyncio.ensure_future(servers[0].stop())
    await asyncio.sleep(0)
    give_up = time.monotonic() + 10
    while lost._channel.get_state() is READY and time.monotonic() < give_up:
        pass
    calls = [call(channel) for _ in range(6)]
    assert [b"b:x"] * 6 == await asyncio.gather(*calls)
    await stopping


async def test_why_it_failed(server: EchoServer) -> None:
    """A subchannel that cannot connect knows the reason."""
    await server.stop()
    subchannel = AioSubchannel(Endpoint(server.address), ChannelConfig(), None, lambda: None)
    await eventually(lambda: subchannel.state is FAILED)
    assert "refused" in subchannel.last_error
    await subchannel.close()


async def test_changes_are_reported(server: EchoServer) -> None:
    """Each change of state is reported once."""
    seen: list[ChannelConnectivity] = []
    subchannel = AioSubchannel(
        Endpoint(server.address), ChannelConfig(), None, lambda: seen.append(subchannel.state)
    )
    await eventually(lambda: subchannel.state is READY)
    await server.stop()
    await eventually(lambda: subchannel.state is FAILED)
    assert all(before is not after for before, after in itertools.pairwise(seen))
    assert (READY, FAILED) == (seen[seen.index(READY)], seen[-1])
    await subchannel.close()
    await subchannel.close()
    assert ChannelConnectivity.SHUTDOWN is subchannel.state


async def test_no_storm_of_connections(server: EchoServer) -> None:
    """A server that accepts and hangs up is not connected again at once."""
    connections: list[asyncio.StreamWriter] = []

    def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.write(EMPTY_SETTINGS_FRAME)
        writer.close()

    listener = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    patient = ChannelConfig(initial_backoff_s=60, max_backoff_s=60)
    subchannel = AioSubchannel(Endpoint(address), patient, None, lambda: None)
    await eventually(lambda: connections)
    await eventually(lambda: subchannel.state is not READY)
    async with balancer.channel(f"static:///{server.address}") as channel:
        assert {"server": 100} == await served_by(channel, 100)
    assert 1 == len(connections)
    await subchannel.close()
    listener.close()


async def test_in_flight_calls_are_counted(server: EchoServer) -> None:
    """A call counts as in flight until it is done."""
    async with balancer.channel(f"static:///{server.address}") as channel:
        await channel.channel_ready()
        (subchannel,) = channel._pool._subchannels.values()
        hanging = call(channel, HANG)
        assert 1 == subchannel.in_flight
        server.release()
        await hanging
        assert 0 == subchannel.in_flight


def states(channel: BalancedChannel) -> dict[str, ChannelConnectivity]:
    """The state of each subchannel."""
    return {address: each.state for address, each in channel._pool._subchannels.items()}
