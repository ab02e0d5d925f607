"""Calls of threads that do not wait for one slow endpoint, on real servers."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from balancer import ChannelConfig
from balancer.hedging import HedgingPolicy
from balancer.method_config import MethodConfig, MethodConfigs
from balancer.sync_channel import BalancedSyncChannel, sync_channel
from tests.balancer.echo import HANG, UNARY_UNARY
from tests.balancer.sync.conftest import StartServer
from tests.balancer.sync.echo import EchoServer
from tests.balancer.sync.waiting import TIMEOUT_S, eventually, only


def hedged(delay_s: float, max_attempts: int = 3) -> ChannelConfig:
    """Every method is hedged like this."""
    policy = HedgingPolicy(hedging_delay_s=delay_s, max_attempts=max_attempts)
    return ChannelConfig(methods=MethodConfigs({"": MethodConfig(idempotent=True, hedging=policy)}))


@pytest.fixture
def servers(start_server: StartServer) -> list[EchoServer]:
    """Three servers, a, b and c."""
    return [start_server(name) for name in (b"a", b"b", b"c")]


def target_of(servers: list[EchoServer]) -> str:
    """All of them."""
    return "static:///" + ",".join(server.address for server in servers)


@pytest.fixture
def channel(servers: list[EchoServer]) -> Iterator[BalancedSyncChannel]:
    """A channel to all three whose calls are hedged."""
    with sync_channel(target_of(servers), config=hedged(0.02)) as made:
        only(made, "a", "b", "c")
        yield made


STYLES = pytest.mark.parametrize("style", ["__call__", "with_call", "future"])


def call(channel: grpc.Channel, style: str, message: bytes = b"x", **options: Any) -> bytes:
    """The response of a call made in that style."""
    unary: Any = channel.unary_unary(UNARY_UNARY)
    made = getattr(unary, style)(message, **{"timeout": TIMEOUT_S, **options})
    response: bytes = {
        "__call__": lambda: made,
        "with_call": lambda: made[0],
        "future": lambda: made.result(),
    }[style]()
    return response


@STYLES
def test_a_slow_endpoint_slows_no_call(
    channel: BalancedSyncChannel, servers: list[EchoServer], style: str
) -> None:
    """Another answers for it, and what hangs is cancelled."""
    servers[1].release()
    servers[2].release()

    answers = {call(channel, style, HANG) for _ in range(6)}

    assert answers <= {b"b:hang", b"c:hang"}
    eventually(lambda: servers[0].hanging == 0)


@STYLES
def test_a_failure_brings_the_next_attempt_forward(servers: list[EchoServer], style: str) -> None:
    """The call succeeds as long as one of its attempts does, without waiting for the delay."""
    for server in servers[:2]:
        server.refusal = StatusCode.UNAVAILABLE
    with sync_channel(target_of(servers), config=hedged(3600.0)) as channel:
        eventually(lambda: "3 of 3" in channel.describe())
        assert [b"c:x"] * 5 == [call(channel, style) for _ in range(5)]


@STYLES
def test_when_all_attempts_fail_the_call_has(
    channel: BalancedSyncChannel, servers: list[EchoServer], style: str
) -> None:
    """It has the status of its last attempt, and no more attempts than allowed."""
    before = sum(server.calls for server in servers)
    for server in servers:
        server.refusal = StatusCode.UNAVAILABLE

    with pytest.raises(grpc.RpcError) as raised:
        call(channel, style)

    error: Any = raised.value
    assert StatusCode.UNAVAILABLE is error.code()
    assert "turned away" == error.details()
    assert 3 == sum(server.calls for server in servers) - before


def test_a_fatal_failure_is_the_call(
    channel: BalancedSyncChannel, servers: list[EchoServer]
) -> None:
    """A code that does not speak of the server is not tried elsewhere."""
    before = sum(server.calls for server in servers)
    for server in servers:
        server.refusal = StatusCode.INVALID_ARGUMENT

    with pytest.raises(grpc.RpcError) as raised:
        call(channel, "__call__")

    error: Any = raised.value
    assert StatusCode.INVALID_ARGUMENT is error.code()
    assert 1 == sum(server.calls for server in servers) - before


def test_cancelling_ends_every_attempt(
    channel: BalancedSyncChannel, servers: list[EchoServer]
) -> None:
    """Nothing of a cancelled call goes on, and it says so in every way one can ask."""
    unary: Any = channel.unary_unary(UNARY_UNARY)
    under_way = unary.future(HANG)
    seen: list[object] = []
    under_way.add_done_callback(seen.append)
    eventually(lambda: sum(server.hanging for server in servers) == 3)
    assert not under_way.done()
    assert under_way.running()

    assert under_way.cancel()
    assert not under_way.cancel()

    assert under_way.cancelled()
    assert under_way.done()
    assert StatusCode.CANCELLED is under_way.code()
    assert [under_way] == seen
    with pytest.raises(grpc.FutureCancelledError):
        under_way.result()
    eventually(lambda: not any(server.hanging for server in servers))


def test_who_lets_go_of_a_call_ends_every_attempt(
    channel: BalancedSyncChannel, servers: list[EchoServer]
) -> None:
    """A call that nobody holds is cancelled, as gRPC's are."""
    unary: Any = channel.unary_unary(UNARY_UNARY)
    dropped = unary.future(HANG)
    eventually(lambda: sum(server.hanging for server in servers) == 3)
    del dropped
    gc.collect()
    eventually(lambda: not any(server.hanging for server in servers))


def test_the_call_has_every_accessor(
    channel: BalancedSyncChannel, servers: list[EchoServer]
) -> None:
    """They speak of the attempt that answered."""
    unary: Any = channel.unary_unary(UNARY_UNARY)
    response, ended = unary.with_call(b"x", timeout=TIMEOUT_S)
    server = response.partition(b":")[0].decode()
    assert ("server", server) in [tuple(each) for each in ended.initial_metadata()]
    assert ("trailer", "end") in [tuple(each) for each in ended.trailing_metadata()]
    assert (StatusCode.OK, "") == (ended.code(), ended.details())
    assert 0 < ended.time_remaining() <= TIMEOUT_S
    assert (True, False, False) == (ended.done(), ended.is_active(), ended.cancel())
    assert not ended.add_callback(lambda: None)
    assert ended.exception() is None
    assert ended.traceback() is None


@STYLES
def test_a_deadline_holds_for_all_attempts(channel: BalancedSyncChannel, style: str) -> None:
    """Hedges do not prolong a call."""
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, style, HANG, timeout=0.2)
    error: Any = raised.value
    assert StatusCode.DEADLINE_EXCEEDED is error.code()


def test_a_server_that_asks_for_a_pause_gets_it(servers: list[EchoServer]) -> None:
    """A pushback that is negative ends the hedging, and the failure stands."""
    with sync_channel(target_of(servers), config=hedged(0.01)) as channel:
        only(channel, "a", "b", "c")
        before = sum(server.calls for server in servers)
        for server in servers:
            server.refusal = StatusCode.UNAVAILABLE
            server.refusal_trailers = (("grpc-retry-pushback-ms", "-1"),)
        with pytest.raises(grpc.RpcError):
            call(channel, "__call__")
        assert 1 == sum(server.calls for server in servers) - before


def test_a_call_that_finds_nobody_waits_for_a_connection(server: EchoServer) -> None:
    """It is placed as soon as there is one, in either style."""
    server.stop()
    with (
        sync_channel(f"static:///{server.address}", config=hedged(0.01)) as channel,
        ThreadPoolExecutor(2) as threads,
    ):
        waiting = [
            threads.submit(call, channel, style, wait_for_ready=True)
            for style in ("__call__", "future")
        ]
        eventually(lambda: channel.facts().waiting >= 2)
        server.start()
        assert [b"server:x"] * 2 == [each.result() for each in waiting]


def test_closing_the_channel_ends_them(
    channel: BalancedSyncChannel, servers: list[EchoServer]
) -> None:
    """A blocking call in another thread, and a future."""
    unary: Any = channel.unary_unary(UNARY_UNARY)
    codes: list[StatusCode] = []

    def block() -> None:
        try:
            unary(HANG)
        except grpc.RpcError as error:
            ended: Any = error
            codes.append(ended.code())

    blocked = threading.Thread(target=block)
    blocked.start()
    under_way = unary.future(HANG)
    eventually(lambda: sum(server.hanging for server in servers) == 6)
    channel.close()
    blocked.join(TIMEOUT_S)
    assert [StatusCode.CANCELLED] == codes
    assert StatusCode.CANCELLED is under_way.code()
    with pytest.raises(ValueError, match="closed"):
        unary.future(b"x")
