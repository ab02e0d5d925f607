"""What becomes of the connections when the list of endpoints changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from grpc import ChannelConnectivity, StatusCode

import balancer
from balancer import BalancedChannel, ChannelConfig
from discovery.endpoint import Endpoint
from discovery.testing import FakeResolver
from tests.balancer.calls import call, only, served_by
from tests.balancer.conftest import StartServer
from tests.balancer.echo import HANG, EchoServer
from tests.balancer.waiting import reaches
from tests.support.waiting import eventually

SERVICE = "tallystick/echo"
READY = ChannelConnectivity.READY
FAILED = ChannelConnectivity.TRANSIENT_FAILURE


@pytest.fixture
def resolver() -> FakeResolver:
    """Knows nothing until told."""
    return FakeResolver()


@pytest.fixture
async def channel(resolver: FakeResolver) -> AsyncIterator[BalancedChannel]:
    """A channel over `resolver`."""
    async with balancer.channel(f"etcd:///{SERVICE}", resolver=resolver) as made:
        yield made


@pytest.fixture
async def servers(start_server: StartServer) -> list[EchoServer]:
    """Three servers, a, b and c."""
    return [await start_server(name) for name in (b"a", b"b", b"c")]


async def test_round_robin_is_exact(
    channel: BalancedChannel, resolver: FakeResolver, servers: list[EchoServer]
) -> None:
    """Once all are connected each server gets the same number of calls."""
    resolver.set(SERVICE, [server.address for server in servers])
    await only(channel, "a", "b", "c")
    assert {"a": 10, "b": 10, "c": 10} == await served_by(channel, 30)


async def test_endpoints_come_and_go(
    channel: BalancedChannel, resolver: FakeResolver, servers: list[EchoServer]
) -> None:
    """Calls follow the list: an endpoint gets calls while it is on it."""
    a, b, c = (server.address for server in servers)
    resolver.set(SERVICE, [a])
    await only(channel, "a")
    resolver.set(SERVICE, [a, b])
    await only(channel, "a", "b")
    resolver.set(SERVICE, [c])
    await only(channel, "c")
    resolver.set(SERVICE, [])
    await reaches(channel, FAILED)
    resolver.set(SERVICE, [a])
    await reaches(channel, READY)
    await only(channel, "a")


async def test_a_removed_endpoint_finishes_its_calls(
    channel: BalancedChannel, resolver: FakeResolver, servers: list[EchoServer]
) -> None:
    """A call in flight on an endpoint that is removed ends as it would have."""
    a, b, _ = servers
    resolver.set(SERVICE, [a.address])
    in_flight = call(channel, HANG)
    await eventually(lambda: a.hanging == 1)
    resolver.set(SERVICE, [b.address])
    await only(channel, "b")
    assert not in_flight.done()
    a.release()
    assert b"a:hang" == await in_flight


async def test_an_endpoint_that_returns_soon_has_its_connection_still(
    channel: BalancedChannel, resolver: FakeResolver, servers: list[EchoServer]
) -> None:
    """What left undrained lingers without calls; calls in flight on it end as they would."""
    a, b, _ = servers
    resolver.set(SERVICE, [a.address, b.address])
    await only(channel, "a", "b")
    in_flight = [call(channel, HANG), call(channel, HANG)]
    await eventually(lambda: a.hanging == b.hanging == 1)
    before = dict(channel._pool._subchannels)

    resolver.set(SERVICE, [b.address])
    await only(channel, "b")
    resolver.set(SERVICE, [], withdrawn=[a.address, b.address])
    await only(channel, "a", "b")

    assert before == channel._pool._subchannels
    a.release()
    b.release()
    assert {b"a:hang", b"b:hang"} == {await each for each in in_flight}


async def test_a_flood_of_endpoints_pushes_out_nobody_who_works(
    resolver: FakeResolver, servers: list[EchoServer]
) -> None:
    """Beyond the limit those with a connection stay, wherever their addresses stand."""
    config = ChannelConfig(max_subchannels=5)
    addresses = [server.address for server in servers]
    async with balancer.channel(f"etcd:///{SERVICE}", resolver=resolver, config=config) as channel:
        resolver.set(SERVICE, addresses)
        await only(channel, "a", "b", "c")

        resolver.set(SERVICE, [*(f"127.0.0.1:{port}" for port in range(1, 9)), *addresses])

        assert {"a": 3, "b": 3, "c": 3} == await served_by(channel, 9)
        assert 5 == len(channel._pool._subchannels)


async def _lost(channel: BalancedChannel, address: str) -> None:
    """Returns when the channel knows that this connection is gone: a call on its way may fail."""

    def lost() -> bool:
        subchannel = channel._pool._subchannels.get(address)
        return subchannel is None or subchannel.state is not READY

    await eventually(lost)


async def test_a_withdrawn_endpoint_serves_while_its_connection_lasts(
    channel: BalancedChannel, resolver: FakeResolver, servers: list[EchoServer]
) -> None:
    """It gets calls as before, goes with its connection, and is not connected again."""
    a, b, c = (server.address for server in servers)
    resolver.set(SERVICE, [a, b])
    await only(channel, "a", "b")

    resolver.set(SERVICE, [], withdrawn=[a, b, c])
    assert {"a": 5, "b": 5} == await served_by(channel, 10)
    await servers[0].stop()
    await _lost(channel, a)
    await only(channel, "b")

    resolver.set(SERVICE, [c], withdrawn=[b])
    await only(channel, "b", "c")
    resolver.set(SERVICE, [c])
    await only(channel, "c")


async def test_a_withdrawn_endpoint_that_returns_is_never_away(
    channel: BalancedChannel, resolver: FakeResolver, servers: list[EchoServer]
) -> None:
    """Its connection is the one it had, and calls in flight end as they would have."""
    a, b, _ = servers
    resolver.set(SERVICE, [a.address, b.address])
    await only(channel, "a", "b")
    in_flight = [call(channel, HANG), call(channel, HANG)]
    await eventually(lambda: a.hanging == b.hanging == 1)

    resolver.set(SERVICE, [], withdrawn=[a.address, b.address])
    assert {"a": 2, "b": 2} == await served_by(channel, 4)
    resolver.set(SERVICE, [a.address, b.address])
    assert {"a": 2, "b": 2} == await served_by(channel, 4)

    a.release()
    b.release()
    assert {b"a:hang", b"b:hang"} == {await each for each in in_flight}


async def test_a_removed_endpoint_is_closed_after_the_grace(
    resolver: FakeResolver, server: EchoServer
) -> None:
    """A call that outlasts `drain_grace_s` on a removed endpoint is cancelled."""
    config = ChannelConfig(linger_s=0, drain_grace_s=0.05)
    async with balancer.channel(f"etcd:///{SERVICE}", resolver=resolver, config=config) as channel:
        resolver.set(SERVICE, [server.address])
        in_flight = call(channel, HANG)
        await eventually(lambda: server.hanging == 1)
        resolver.set(SERVICE, [])
        assert StatusCode.CANCELLED is await in_flight.code()
        await eventually(lambda: server.hanging == 0)


async def test_an_added_endpoint_disturbs_no_call(
    channel: BalancedChannel, resolver: FakeResolver, servers: list[EchoServer]
) -> None:
    """A call in flight goes on while endpoints are added."""
    a, b, c = servers
    resolver.set(SERVICE, [a.address])
    in_flight = call(channel, HANG)
    await eventually(lambda: a.hanging == 1)
    resolver.set(SERVICE, [a.address, b.address, c.address])
    await only(channel, "a", "b", "c")
    a.release()
    assert b"a:hang" == await in_flight


async def test_a_draining_endpoint_gets_no_new_calls(
    channel: BalancedChannel, resolver: FakeResolver, servers: list[EchoServer]
) -> None:
    """A draining endpoint finishes what it has, gets nothing new, and may return."""
    a, b, _ = servers
    draining = Endpoint(a.address, draining=True)
    resolver.set(SERVICE, [a.address])
    in_flight = call(channel, HANG)
    await eventually(lambda: a.hanging == 1)
    resolver.set(SERVICE, [draining, b.address])
    await only(channel, "b")
    assert {"b": 20} == await served_by(channel, 20)
    a.release()
    assert b"a:hang" == await in_flight
    resolver.set(SERVICE, [a.address, b.address])
    await only(channel, "a", "b")


async def test_all_draining_is_better_than_none(
    channel: BalancedChannel, resolver: FakeResolver, servers: list[EchoServer]
) -> None:
    """When every endpoint drains they go on serving."""
    a, b, _ = servers
    resolver.set(SERVICE, [Endpoint(each.address, draining=True) for each in (a, b)])
    await only(channel, "a", "b")


async def test_draining_endpoints_stand_in_for_dead_ones(
    channel: BalancedChannel, resolver: FakeResolver, servers: list[EchoServer]
) -> None:
    """A draining endpoint is used when no other can be reached, until one can."""
    a, b, _ = servers
    await b.stop()
    await _lost(channel, b.address)
    resolver.set(SERVICE, [Endpoint(a.address, draining=True), b.address])
    await only(channel, "a")
    await b.start()
    await only(channel, "b")


async def test_metadata_changes_keep_the_connection(
    channel: BalancedChannel, resolver: FakeResolver, server: EchoServer
) -> None:
    """An endpoint whose weight or version changes stays connected, its calls undisturbed."""
    endpoint = Endpoint(server.address, version="1")
    resolver.set(SERVICE, [endpoint])
    in_flight = call(channel, HANG)
    await eventually(lambda: server.hanging == 1)
    before = channel._pool._subchannels[server.address]
    resolver.set(SERVICE, [replace(endpoint, version="2", weight=5)])
    await eventually(lambda: before.endpoint.version == "2")
    assert before is channel._pool._subchannels[server.address]
    assert READY is channel.get_state()
    server.release()
    assert b"server:hang" == await in_flight


async def test_the_number_of_subchannels_is_limited(
    resolver: FakeResolver, servers: list[EchoServer]
) -> None:
    """No more endpoints are connected than `max_subchannels`."""
    config = ChannelConfig(max_subchannels=2)
    async with balancer.channel(f"etcd:///{SERVICE}", resolver=resolver, config=config) as channel:
        resolver.set(SERVICE, [server.address for server in servers])
        await channel.channel_ready()
        await asyncio.gather(*(call(channel, b"x") for _ in range(30)))
        assert 2 == len(channel._pool._subchannels)


async def test_a_changing_list_loses_no_call(
    channel: BalancedChannel, resolver: FakeResolver, servers: list[EchoServer]
) -> None:
    """Calls made all the while the list is being turned over all succeed."""
    addresses = [server.address for server in servers]
    resolver.set(SERVICE, addresses)
    finished = False

    async def turn_over() -> None:
        while not finished:
            for leaving in addresses:
                resolver.set(SERVICE, [each for each in addresses if each != leaving])
                await asyncio.sleep(0.002)

    turning = asyncio.ensure_future(turn_over())
    for _ in range(30):
        await asyncio.gather(*(call(channel) for _ in range(20)))
    finished = True
    await turning


async def test_a_rolling_restart_costs_no_call(
    channel: BalancedChannel, resolver: FakeResolver, servers: list[EchoServer]
) -> None:
    """Three servers deregister, finish and return one by one under load: no call fails."""
    endpoints = [Endpoint(server.address) for server in servers]
    resolver.set(SERVICE, endpoints)
    await only(channel, "a", "b", "c")
    codes: Counter[StatusCode] = Counter()
    over = asyncio.Event()

    async def load() -> None:
        while not over.is_set():
            codes[await call(channel).code()] += 1

    loads = [asyncio.ensure_future(load()) for _ in range(4)]
    for leaving, server in zip(endpoints, servers, strict=True):
        others = [each for each in endpoints if each is not leaving]
        resolver.set(SERVICE, [replace(leaving, draining=True), *others])
        await only(channel, *({"a", "b", "c"} - {server.name.decode()}))
        await server.stop(10.0)
        await server.start()
        resolver.set(SERVICE, endpoints)
        await only(channel, "a", "b", "c")
    over.set()
    await asyncio.gather(*loads)
    assert {StatusCode.OK} == set(codes)
    assert codes[StatusCode.OK] > len(servers)
