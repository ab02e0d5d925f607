"""Calls that do not wait for one slow endpoint, on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from grpc import StatusCode

from balancer import BalancedChannel, ChannelConfig
from balancer.hedging import HedgingPolicy
from balancer.method_config import MethodConfig, MethodConfigs
from tests.balancer.calls import call
from tests.balancer.conftest import StartServer
from tests.balancer.echo import HANG, EchoServer
from tests.balancer.test_guard import channel_to
from tests.support.waiting import eventually

HEDGED = ChannelConfig(
    methods=MethodConfigs(
        {
            "": MethodConfig(
                idempotent=True, hedging=HedgingPolicy(hedging_delay_s=0.02, max_attempts=3)
            )
        }
    )
)


@pytest.fixture
async def servers(start_server: StartServer) -> list[EchoServer]:
    """Three servers, a, b and c."""
    return [await start_server(name) for name in (b"a", b"b", b"c")]


@pytest.fixture
async def channel(servers: list[EchoServer]) -> AsyncIterator[BalancedChannel]:
    """A channel to all three whose calls are hedged."""
    async with channel_to(servers, HEDGED) as made:
        yield made


async def test_a_slow_endpoint_slows_no_call(
    channel: BalancedChannel, servers: list[EchoServer]
) -> None:
    """Another answers for it, and what hangs is cancelled."""
    servers[1].release()
    servers[2].release()

    answers = {await call(channel, HANG) for _ in range(6)}

    assert answers <= {b"b:hang", b"c:hang"}
    await eventually(lambda: servers[0].hanging == 0)


async def test_a_failure_brings_the_next_attempt_forward(
    channel: BalancedChannel, servers: list[EchoServer]
) -> None:
    """The call succeeds as long as one of its attempts does."""
    for server in servers[:2]:
        server.refusal = StatusCode.UNAVAILABLE

    assert [b"c:x"] * 5 == [await call(channel) for _ in range(5)]


async def test_when_all_attempts_fail_the_call_has(
    channel: BalancedChannel, servers: list[EchoServer]
) -> None:
    """It has the status of its last attempt, and no more attempts than allowed."""
    before = sum(server.calls for server in servers)
    for server in servers:
        server.refusal = StatusCode.UNAVAILABLE

    assert StatusCode.UNAVAILABLE is await call(channel).code()
    assert 3 == sum(server.calls for server in servers) - before


async def test_cancelling_ends_every_attempt(
    channel: BalancedChannel, servers: list[EchoServer]
) -> None:
    """Nothing of a cancelled call goes on."""
    under_way = call(channel, HANG)
    await eventually(lambda: sum(server.hanging for server in servers) == 3)

    assert under_way.cancel()
    assert not under_way.cancel()

    assert under_way.cancelled()
    assert StatusCode.CANCELLED is await under_way.code()
    with pytest.raises(asyncio.CancelledError):
        await under_way
    await eventually(lambda: not any(server.hanging for server in servers))


async def test_a_deadline_holds_for_all_attempts(channel: BalancedChannel) -> None:
    """Hedges do not prolong a call."""
    assert StatusCode.DEADLINE_EXCEEDED is await call(channel, HANG, timeout=0.2).code()
