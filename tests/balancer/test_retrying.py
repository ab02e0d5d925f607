"""Calls that are tried again at another endpoint, on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import grpc
import pytest
from grpc import StatusCode

import balancer
from balancer import BalancedChannel, ChannelConfig
from balancer.method_config import MethodConfig, MethodConfigs
from balancer.retry import RetryPolicy
from tests.balancer.calls import call, served_by, unary_stream
from tests.balancer.conftest import StartServer
from tests.balancer.echo import HANG, HANG_LATER, SERVICE, UNARY_UNARY, EchoServer
from tests.balancer.losing import losing
from tests.balancer.sync.echo import EchoServer as ThreadedServer
from tests.balancer.waiting import TIMEOUT_S
from tests.support.waiting import eventually

UNPROCESSED = (("tallystick-unprocessed", "true"),)
FAST = RetryPolicy(initial_backoff_s=0.001, max_backoff_s=0.001)


def config_of(method: MethodConfig) -> ChannelConfig:
    """One method configuration for every method."""
    return ChannelConfig(methods=MethodConfigs({"": method}))


IDEMPOTENT = config_of(MethodConfig(idempotent=True, retry=FAST))


@pytest.fixture
async def servers(start_server: StartServer) -> list[EchoServer]:
    """Three servers, a, b and c."""
    return [await start_server(name) for name in (b"a", b"b", b"c")]


async def _connected(
    servers: Sequence[EchoServer | ThreadedServer], config: ChannelConfig
) -> BalancedChannel:
    target = "static:///" + ",".join(server.address for server in servers)
    channel = balancer.channel(target, config=config)
    async with asyncio.timeout(10):
        while len(await served_by(channel, 6)) < len(servers):  # noqa: ASYNC110 - it is by calls that one sees it
            await asyncio.sleep(0)
    for server in servers:
        server.calls = 0
    return channel


@pytest.fixture
async def channel(servers: list[EchoServer]) -> AsyncIterator[BalancedChannel]:
    """A channel to all three, with what is the default."""
    async with await _connected(servers, ChannelConfig()) as made:
        yield made


@pytest.fixture
async def idempotent(servers: list[EchoServer]) -> AsyncIterator[BalancedChannel]:
    """A channel to all three whose methods are declared idempotent."""
    async with await _connected(servers, IDEMPOTENT) as made:
        yield made


async def test_what_a_server_did_not_begin_is_done_by_another(
    channel: BalancedChannel, servers: list[EchoServer]
) -> None:
    """The caller notices nothing."""
    servers[0].refusal, servers[0].refusal_trailers = StatusCode.UNAVAILABLE, UNPROCESSED

    answers = {await call(channel) for _ in range(9)}

    assert {b"b:x", b"c:x"} == answers
    assert servers[0].calls >= 3


@pytest.fixture
def threaded() -> Iterator[list[ThreadedServer]]:
    """Three servers, a, b and c, that a test can stop without leaving the event loop."""
    started = [ThreadedServer(name).start() for name in (b"a", b"b", b"c")]
    yield started
    for server in started:
        server.stop()


async def test_a_connection_lost_before_the_call_is_sent_costs_nothing(
    threaded: list[ThreadedServer],
) -> None:
    """It was READY when it was picked, and nothing has left: another endpoint answers."""
    async with await _connected(threaded, ChannelConfig()) as channel:
        unary: Any = channel.unary_unary(UNARY_UNARY, losing(channel, threaded))
        answered: bytes = await unary(b"x", timeout=TIMEOUT_S)

    assert answered.partition(b":")[0] in {each.name for each in threaded if each.calls}
    assert 1 == sum(each.calls for each in threaded)


async def test_what_a_server_may_have_begun_is_not_done_twice(
    channel: BalancedChannel, servers: list[EchoServer]
) -> None:
    """Without a word that it is idempotent a call that fails has failed."""
    for server in servers:
        server.refusal = StatusCode.UNAVAILABLE

    under_way = call(channel)

    assert StatusCode.UNAVAILABLE is await under_way.code()
    assert 1 == sum(server.calls for server in servers)


async def test_an_idempotent_method_is_tried_elsewhere(
    idempotent: BalancedChannel, servers: list[EchoServer]
) -> None:
    """Each attempt goes to an endpoint that has not failed yet."""
    for server in servers[:2]:
        server.refusal = StatusCode.UNAVAILABLE

    assert [b"c:x"] * 6 == [await call(idempotent) for _ in range(6)]


async def test_other_codes_are_answers(
    idempotent: BalancedChannel, servers: list[EchoServer]
) -> None:
    """Only what is declared retryable is tried again."""
    for server in servers:
        server.refusal = StatusCode.INTERNAL

    assert StatusCode.INTERNAL is await call(idempotent).code()
    assert 1 == sum(server.calls for server in servers)


async def test_when_all_fail_little_is_added(
    idempotent: BalancedChannel, servers: list[EchoServer]
) -> None:
    """Attempts are at most 1.2 times the calls, and the last error is the call's."""
    for server in servers:
        server.refusal = StatusCode.UNAVAILABLE

    calls = [call(idempotent) for _ in range(200)]
    codes = [await each.code() for each in calls]

    assert {StatusCode.UNAVAILABLE} == set(codes)
    assert sum(server.calls for server in servers) <= 240
    assert "turned away" == await calls[-1].details()


async def test_a_server_that_asks_not_to_be_retried_is_obeyed(
    idempotent: BalancedChannel, servers: list[EchoServer]
) -> None:
    """A pushback below zero ends it."""
    for server in servers:
        server.refusal = StatusCode.UNAVAILABLE
        server.refusal_trailers = (("grpc-retry-pushback-ms", "-1"),)

    assert StatusCode.UNAVAILABLE is await call(idempotent).code()
    assert 1 == sum(server.calls for server in servers)


async def test_a_call_that_nobody_awaits_is_tried_again_too(
    channel: BalancedChannel, servers: list[EchoServer]
) -> None:
    """Attempts follow each other by themselves; callbacks hear of the last."""
    for server in servers[:2]:
        server.refusal, server.refusal_trailers = StatusCode.UNAVAILABLE, UNPROCESSED
    ended: list[object] = []

    calls = [call(channel) for _ in range(3)]
    for each in calls:
        each.add_done_callback(ended.append)
    await eventually(lambda: len(ended) == 3)

    assert set(map(id, calls)) == set(map(id, ended))
    assert [StatusCode.OK] * 3 == [await each.code() for each in calls]


async def test_cancelling_between_attempts_ends_it(servers: list[EchoServer]) -> None:
    """A call that waits for its next attempt is cancelled at once and for good."""
    slow = RetryPolicy(initial_backoff_s=60.0, max_backoff_s=60.0)
    config = config_of(MethodConfig(idempotent=True, retry=slow, timeout_s=600.0))
    async with await _connected(servers, config) as channel:
        for server in servers:
            server.refusal = StatusCode.UNAVAILABLE
        under_way = call(channel, timeout=500.0)
        await eventually(lambda: sum(server.calls for server in servers) == 1)
        await eventually(lambda: under_way._next is not None)

        assert under_way.cancel()

        assert under_way.cancelled()
        assert StatusCode.CANCELLED is await under_way.code()
        with pytest.raises(asyncio.CancelledError):
            await under_way


async def test_retries_stay_within_the_deadline(servers: list[EchoServer]) -> None:
    """A retry that would come too late is not waited for."""
    slow = RetryPolicy(initial_backoff_s=60.0, max_backoff_s=60.0)
    config = config_of(MethodConfig(idempotent=True, retry=slow))
    async with await _connected(servers, config) as channel:
        for server in servers:
            server.refusal = StatusCode.UNAVAILABLE

        assert StatusCode.UNAVAILABLE is await call(channel, timeout=5.0).code()


async def test_a_deadline_is_the_calls_and_not_the_attempts(
    idempotent: BalancedChannel, servers: list[EchoServer]
) -> None:
    """An attempt that hangs after another has failed has only what is left."""
    servers[0].refusal = StatusCode.UNAVAILABLE

    under_way = [call(idempotent, HANG, timeout=0.3) for _ in range(3)]

    assert {StatusCode.DEADLINE_EXCEEDED} == {await each.code() for each in under_way}


async def test_a_stream_is_tried_again_before_its_first_response(
    channel: BalancedChannel, servers: list[EchoServer]
) -> None:
    """Iterating and reading both get what the second server sends."""
    for server in servers[:2]:
        server.refusal, server.refusal_trailers = StatusCode.UNAVAILABLE, UNPROCESSED

    for _ in range(3):
        stream = unary_stream(channel)(b"x")
        assert [b"c:x"] * 3 == [response async for response in stream]
        stream = unary_stream(channel)(b"x")
        assert [b"c:x"] * 3 == [await stream.read() for _ in range(3)]
        assert grpc.aio.EOF is await stream.read()


async def test_a_stream_that_has_begun_is_not_tried_again(
    idempotent: BalancedChannel, servers: list[EchoServer]
) -> None:
    """What was handed out cannot be taken back."""
    stream = unary_stream(idempotent)(HANG_LATER)
    first = await stream.read()
    for server in servers:
        await server.stop()

    with pytest.raises(grpc.aio.AioRpcError):
        await stream.read()

    assert first in {b"a:hang later", b"b:hang later", b"c:hang later"}
    assert 1 == sum(server.calls for server in servers)


def test_the_names_of_methods_choose_their_configuration() -> None:
    """The whole path counts before the service, the service before all."""
    one, two = MethodConfig(timeout_s=1.0), MethodConfig(timeout_s=2.0)
    configs = MethodConfigs({f"/{SERVICE}/UnaryUnary": one, SERVICE: two})

    assert one is configs.of(f"/{SERVICE}/UnaryUnary")
    assert two is configs.of(f"/{SERVICE}/UnaryStream")
