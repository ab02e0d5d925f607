"""Endpoints that are connected and get no calls all the same, on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

import balancer
from balancer import BalancedChannel, ChannelConfig
from balancer.breaker import BreakerConfig
from balancer.eligibility import EligibilityConfig, Reason
from balancer.guard import Guard
from balancer.health import HealthConfig
from balancer.outlier import FailurePercentageEjection, OutlierConfig
from balancer.policies import PickFirst
from balancer.subsetting import SubsetConfig
from balancer.zones import ZoneConfig
from discovery.endpoint import Endpoint
from discovery.testing import FakeResolver
from tests.balancer.calls import call, only, served_by
from tests.balancer.conftest import StartServer
from tests.balancer.echo import EchoServer
from tests.balancer.policies.simulation import INFO, context, fakes
from tests.support.waiting import eventually

SERVICE = "tallystick/echo"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def servers(start_server: StartServer) -> list[EchoServer]:
    """Three servers, a, b and c."""
    return [await start_server(name) for name in (b"a", b"b", b"c")]


NOTICED_WITHIN_S = 1.0


@asynccontextmanager
async def channel_to(
    servers: list[EchoServer], config: ChannelConfig
) -> AsyncIterator[BalancedChannel]:
    """A channel that is connected to all of them."""
    target = "static:///" + ",".join(server.address for server in servers)
    async with balancer.channel(target, config=config) as channel:
        await only(channel, *(server.name.decode() for server in servers))
        yield channel


async def test_who_does_not_serve_gets_nothing() -> None:
    """A server that says NOT_SERVING is left out within a second, until it says otherwise."""
    servers = []
    for name in (b"a", b"b"):
        server = EchoServer(name)
        server.health = HealthServicer()
        await server.health.set("", SERVING)
        servers.append(await server.start())
    async with channel_to(servers, ChannelConfig(health=HealthConfig())) as channel:
        assert servers[0].health is not None
        async with asyncio.timeout(NOTICED_WITHIN_S):
            await servers[0].health.set("", NOT_SERVING)
            await only(channel, "b")
        reasons = channel._pool.reasons()
        assert Reason.NOT_SERVING is reasons[servers[0].address]

        await servers[0].health.set("", SERVING)
        await only(channel, "a", "b")
    for server in servers:
        await server.stop()


async def test_a_server_without_the_health_service_counts_as_healthy(
    servers: list[EchoServer],
) -> None:
    """Asking costs it nothing."""
    async with channel_to(servers, ChannelConfig(health=HealthConfig())) as channel:
        assert {"a": 2, "b": 2, "c": 2} == await served_by(channel, 6)


async def test_who_fails_time_after_time_is_left_alone_and_probed(
    servers: list[EchoServer],
) -> None:
    """A breaker opens after five failures in a row, and one good probe closes it."""
    config = ChannelConfig(breaker=BreakerConfig(open_s=0.05, max_open_s=0.1))
    async with channel_to(servers, config) as channel:
        servers[0].refusal = StatusCode.UNAVAILABLE
        codes = [await call(channel).code() for _ in range(24)]
        assert 5 <= codes.count(StatusCode.UNAVAILABLE) <= 7

        servers[0].refusal = None
        await only(channel, "a", "b", "c")


def test_a_new_picker_takes_no_probe() -> None:
    """When the wait of a breaker is over, building pickers leaves its probe to a call."""
    now, (one, other) = 0.0, fakes(1, 1)
    config = BreakerConfig(consecutive_failures=1, open_s=1.0)
    guard = Guard(config, None, rng=context().rng, clock=lambda: now, refresh=lambda: None)
    inner = PickFirst(context()).build((one, other))
    failing = guard.picker(inner, (one, other), overrules=False).pick(INFO)
    assert failing.on_done is not None
    failing.on_done(StatusCode.UNAVAILABLE)
    now = 1.0

    for _ in range(2):
        picker = guard.picker(inner, (one, other), overrules=False)

    assert [one, other] == [picker.pick(INFO).subchannel for _ in range(2)]


async def test_who_is_full_gets_no_more(servers: list[EchoServer]) -> None:
    """Calls in flight at one endpoint are limited; the others have room."""
    config = ChannelConfig(breaker=BreakerConfig(max_in_flight=1))
    async with channel_to(servers, config) as channel:
        hanging = [call(channel, b"hang") for _ in range(2)]
        await eventually(lambda: sum(server.hanging for server in servers) == 2)
        free = next(server for server in servers if not server.hanging)

        assert {free.name.decode(): 4} == await served_by(channel, 4)

        for server in servers:
            server.release()
        for each in hanging:
            await each


async def test_who_does_worse_than_the_others_is_ejected(servers: list[EchoServer]) -> None:
    """More failures than are allowed in an interval, and it gets nothing for a while."""
    failures = FailurePercentageEjection(threshold=50, minimum_hosts=3, request_volume=5)
    outlier = OutlierConfig(
        interval_s=0.1, max_ejection_percent=50, failure_percentage=failures, success_rate=None
    )
    async with channel_to(servers, ChannelConfig(outlier=outlier)) as channel:
        servers[0].refusal = StatusCode.UNAVAILABLE

        async def left_out() -> bool:
            for _ in range(30):
                await call(channel).code()
            return Reason.EJECTED is channel._pool.reasons()[servers[0].address]

        for _ in range(200):
            if await left_out():
                break
        assert {"b": 3, "c": 3} == await served_by(channel, 6)


async def test_when_too_many_are_suspected_all_are_used(servers: list[EchoServer]) -> None:
    """Below the threshold of panic suspicion is overlooked."""
    config = ChannelConfig(
        breaker=BreakerConfig(open_s=60.0, max_open_s=60.0),
        eligibility=EligibilityConfig(panic_threshold_percent=50),
    )
    async with channel_to(servers, config) as channel:
        for server in servers[:2]:
            server.refusal = StatusCode.UNAVAILABLE
        for _ in range(40):
            await call(channel).code()
        for server in servers:
            server.refusal = None

        await only(channel, "a", "b", "c")


async def test_ones_own_zone_is_preferred(servers: list[EchoServer]) -> None:
    """While it can carry its share, calls stay in it."""
    resolver = FakeResolver()
    config = ChannelConfig(zones=ZoneConfig(zone="near", min_local_endpoints=1))
    a, b, c = (server.address for server in servers)
    resolver.set(SERVICE, [Endpoint(a, zone="near"), Endpoint(b, zone="near"), Endpoint(c)])
    async with balancer.channel(f"etcd:///{SERVICE}", resolver=resolver, config=config) as channel:
        await only(channel, "a", "b")

        resolver.set(SERVICE, [Endpoint(c)])
        await only(channel, "c")


async def test_a_subset_of_a_fleet_is_used(servers: list[EchoServer]) -> None:
    """As many as configured are connected, the same ones for the same client."""
    resolver = FakeResolver()
    resolver.set(SERVICE, [server.address for server in servers])
    config = ChannelConfig(subset=SubsetConfig(size=2, client_id="me"))
    used = []
    for _ in range(2):
        async with balancer.channel(f"etcd:///{SERVICE}", resolver=resolver, config=config) as one:
            await one.channel_ready()
            used.append(set(one._pool._subchannels))

    assert used[0] == used[1]
    assert len(used[0]) == 2
