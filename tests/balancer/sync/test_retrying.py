"""Calls of threads that are tried again at another endpoint, on real servers."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from balancer.config import ChannelConfig
from balancer.method_config import MethodConfig, MethodConfigs
from balancer.retry import RetryPolicy
from balancer.sync_channel import BalancedSyncChannel, sync_channel
from tests.balancer.echo import HANG, UNARY_STREAM, UNARY_UNARY
from tests.balancer.losing import losing
from tests.balancer.sync.conftest import StartServer
from tests.balancer.sync.echo import EchoServer
from tests.balancer.sync.waiting import TIMEOUT_S, eventually, in_thread, only

UNPROCESSED = (("tallystick-unprocessed", "true"),)
FAST = RetryPolicy(initial_backoff_s=0.001, max_backoff_s=0.001)
SLOW = RetryPolicy(initial_backoff_s=60.0, max_backoff_s=60.0)
STYLES = ("__call__", "with_call", "future")


def config_of(method: MethodConfig) -> ChannelConfig:
    """One method configuration for every method."""
    return ChannelConfig(methods=MethodConfigs({"": method}))


@pytest.fixture
def servers() -> Iterator[list[EchoServer]]:
    """Three servers, a, b and c."""
    started = [EchoServer(name) for name in (b"a", b"b", b"c")]
    for server in started:
        server.start()
    yield started
    for server in started:
        server.release()
        server.stop()


def _connected(servers: list[EchoServer], config: ChannelConfig) -> BalancedSyncChannel:
    target = "static:///" + ",".join(server.address for server in servers)
    channel = sync_channel(target, config=config)
    only(channel, "a", "b", "c")
    for server in servers:
        server.calls = 0
    return channel


@pytest.fixture
def channel(servers: list[EchoServer]) -> Iterator[BalancedSyncChannel]:
    """A channel to all three, with what is the default."""
    with _connected(servers, ChannelConfig()) as made:
        yield made


@pytest.fixture
def idempotent(servers: list[EchoServer]) -> Iterator[BalancedSyncChannel]:
    """A channel to all three whose methods are declared idempotent."""
    with _connected(servers, config_of(MethodConfig(idempotent=True, retry=FAST))) as made:
        yield made


def _answer(
    channel: grpc.Channel, style: str, request: bytes = b"x", timeout: float = TIMEOUT_S
) -> bytes:
    """What a call of that style is answered. Raises its error."""
    unary: Any = channel.unary_unary(UNARY_UNARY)
    return _response(getattr(unary, style)(request, timeout=timeout), style)


def _response(outcome: Any, style: str) -> bytes:
    if style == "with_call":
        outcome = outcome[0]
    response: bytes = outcome.result() if style == "future" else outcome
    return response


def _error(
    channel: grpc.Channel, style: str, request: bytes = b"x", timeout: float = TIMEOUT_S
) -> Any:
    """The error of a call of that style."""
    with pytest.raises(grpc.RpcError) as raised:
        _answer(channel, style, request, timeout)
    return raised.value


def _future(channel: grpc.Channel, timeout: float = TIMEOUT_S) -> Any:
    call: Any = channel.unary_unary(UNARY_UNARY)
    return call.future(b"x", timeout=timeout)


def _stream(channel: grpc.Channel, request: bytes = b"x") -> Any:
    call: Any = channel.unary_stream(UNARY_STREAM)
    return call(request, timeout=TIMEOUT_S)


def _refuse(servers: list[EchoServer], trailers: tuple[tuple[str, str], ...] = ()) -> None:
    for server in servers:
        server.refusal, server.refusal_trailers = StatusCode.UNAVAILABLE, trailers


def _seen(servers: list[EchoServer]) -> int:
    return sum(server.calls for server in servers)


@pytest.mark.parametrize("style", STYLES)
def test_what_a_server_did_not_begin_is_done_by_another(
    channel: BalancedSyncChannel, servers: list[EchoServer], style: str
) -> None:
    """The caller notices nothing."""
    _refuse(servers[:1], UNPROCESSED)

    answers = {_answer(channel, style) for _ in range(9)}

    assert {b"b:x", b"c:x"} == answers
    assert servers[0].calls >= 3


@pytest.mark.parametrize("style", STYLES)
def test_a_connection_lost_before_the_call_is_sent_costs_nothing(
    channel: BalancedSyncChannel, servers: list[EchoServer], style: str
) -> None:
    """It was READY when it was picked, and nothing has left: another endpoint answers."""
    unary: Any = channel.unary_unary(UNARY_UNARY, losing(channel, servers))
    answered = _response(getattr(unary, style)(b"x", timeout=TIMEOUT_S), style)

    assert answered.partition(b":")[0] in {server.name for server in servers if server.calls}
    assert 1 == _seen(servers)


@pytest.mark.parametrize("style", STYLES)
def test_what_a_server_may_have_begun_is_not_done_twice(
    channel: BalancedSyncChannel, servers: list[EchoServer], style: str
) -> None:
    """Without a word that it is idempotent a call that fails has failed."""
    _refuse(servers)

    assert StatusCode.UNAVAILABLE is _error(channel, style).code()
    assert 1 == _seen(servers)


@pytest.mark.parametrize("style", STYLES)
def test_an_idempotent_method_is_tried_elsewhere(
    idempotent: BalancedSyncChannel, servers: list[EchoServer], style: str
) -> None:
    """Each attempt goes to an endpoint that has not failed yet."""
    _refuse(servers[:2])

    assert [b"c:x"] * 6 == [_answer(idempotent, style) for _ in range(6)]


@pytest.mark.parametrize("style", STYLES)
def test_other_codes_are_answers(
    idempotent: BalancedSyncChannel, servers: list[EchoServer], style: str
) -> None:
    """Only what is declared retryable is tried again."""
    for server in servers:
        server.refusal = StatusCode.INTERNAL

    assert StatusCode.INTERNAL is _error(idempotent, style).code()
    assert 1 == _seen(servers)


def test_when_all_fail_little_is_added(
    idempotent: BalancedSyncChannel, servers: list[EchoServer]
) -> None:
    """The throttle is the channel's: however calls are made, attempts are at most 1.2 times."""
    _refuse(servers)

    blocking = [_error(idempotent, STYLES[n % 3]) for n in range(100)]
    errors = blocking + [call.exception() for call in [_future(idempotent) for _ in range(100)]]

    assert {StatusCode.UNAVAILABLE} == {error.code() for error in errors}
    assert _seen(servers) <= 240
    assert "turned away" == errors[-1].details()


@pytest.mark.parametrize("style", STYLES)
def test_a_server_that_asks_not_to_be_retried_is_obeyed(
    idempotent: BalancedSyncChannel, servers: list[EchoServer], style: str
) -> None:
    """A pushback below zero ends it."""
    _refuse(servers, (("grpc-retry-pushback-ms", "-1"),))

    assert StatusCode.UNAVAILABLE is _error(idempotent, style).code()
    assert 1 == _seen(servers)


def test_a_future_that_nobody_holds_is_tried_again_for_its_callbacks(
    channel: BalancedSyncChannel, servers: list[EchoServer]
) -> None:
    """Attempts follow each other by themselves; callbacks hear of the last."""
    _refuse(servers[:2], UNPROCESSED)
    ended: list[Any] = []

    for _ in range(3):
        _future(channel).add_done_callback(ended.append)
    gc.collect()
    eventually(lambda: len(ended) == 3)

    assert [StatusCode.OK] * 3 == [call.code() for call in ended]
    assert [b"c:x"] * 3 == [call.result() for call in ended]


def test_a_stream_that_nobody_holds_is_cancelled(
    channel: BalancedSyncChannel, servers: list[EchoServer]
) -> None:
    """As gRPC's are: who lets go of it does not want it."""
    stream = _stream(channel, HANG)
    eventually(lambda: sum(server.hanging for server in servers) == 1)
    gone = weakref.ref(stream)
    del stream
    eventually(lambda: gc.collect() is not None and gone() is None)
    eventually(lambda: sum(server.hanging for server in servers) == 0)


def test_cancelling_between_attempts_ends_it(servers: list[EchoServer]) -> None:
    """A call that waits for its next attempt is cancelled at once and for good."""
    config = config_of(MethodConfig(idempotent=True, retry=SLOW, timeout_s=600.0))
    with _connected(servers, config) as channel:
        _refuse(servers)
        call = _future(channel, timeout=500.0)
        eventually(lambda: channel._waiting._count == 1)

        assert call.running()
        assert call.cancel()

        assert call.cancelled()
        assert call.done()
        assert StatusCode.CANCELLED is call.code()
        assert not call.cancel()
        with pytest.raises(grpc.FutureCancelledError):
            call.result()
    assert 1 == _seen(servers)


def test_closing_the_channel_ends_what_waits_for_its_next_attempt(
    servers: list[EchoServer],
) -> None:
    """Blocking calls and futures are CANCELLED, as any other call of a closed channel."""
    config = config_of(MethodConfig(idempotent=True, retry=SLOW))
    codes: list[StatusCode] = []
    with _connected(servers, config) as channel:
        _refuse(servers)
        thread = in_thread(lambda: codes.append(_error(channel, "__call__", timeout=500.0).code()))
        call = _future(channel, timeout=500.0)
        eventually(lambda: channel._waiting._count == 1 and _seen(servers) == 2)
    thread.join(TIMEOUT_S)

    assert [StatusCode.CANCELLED] * 2 == [*codes, call.code()]


@pytest.mark.parametrize("style", STYLES)
def test_retries_stay_within_the_deadline(servers: list[EchoServer], style: str) -> None:
    """A retry that would come too late is not waited for."""
    config = config_of(MethodConfig(idempotent=True, retry=SLOW))
    with _connected(servers, config) as channel:
        _refuse(servers)

        assert StatusCode.UNAVAILABLE is _error(channel, style, timeout=5.0).code()


@pytest.mark.parametrize("style", STYLES)
def test_a_deadline_is_the_calls_and_not_the_attempts(
    idempotent: BalancedSyncChannel, servers: list[EchoServer], style: str
) -> None:
    """An attempt that hangs after another has failed has only what is left."""
    _refuse(servers[:1])

    codes = [_error(idempotent, style, HANG, timeout=0.2).code() for _ in range(3)]

    assert [StatusCode.DEADLINE_EXCEEDED] * 3 == codes


@pytest.mark.parametrize("style", STYLES)
def test_the_timeout_of_a_method_bounds_what_is_asked(
    servers: list[EchoServer], style: str
) -> None:
    """The shorter one counts."""
    with _connected(servers, config_of(MethodConfig(timeout_s=0.2))) as channel:
        code = _error(channel, style, HANG, timeout=500.0).code()

    assert StatusCode.DEADLINE_EXCEEDED is code


@pytest.mark.parametrize("style", STYLES)
def test_a_method_may_wait_for_a_connection_by_configuration(
    start_server: StartServer, style: str
) -> None:
    """A call that says nothing waits where nobody can be reached, and is answered later."""
    server = start_server(b"late")
    server.stop()
    answers: list[bytes] = []
    config = config_of(MethodConfig(wait_for_ready=True))
    with sync_channel(f"static:///{server.address}", config=config) as channel:
        eventually(lambda: channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE)
        thread = in_thread(lambda: answers.append(_answer(channel, style)))
        eventually(lambda: channel._waiting._count == 1)
        server.start()
        thread.join(TIMEOUT_S)

    assert [b"late:x"] == answers


def test_threads_retry_at_the_same_time(
    idempotent: BalancedSyncChannel, servers: list[EchoServer]
) -> None:
    """Calls of several threads do not disturb each other's attempts."""
    _refuse(servers[:1])
    answers: list[bytes] = []
    together = threading.Barrier(4)

    def work() -> None:
        together.wait(TIMEOUT_S)
        answers.extend(_answer(idempotent, STYLES[n % 3]) for n in range(9))

    for thread in [in_thread(work) for _ in range(4)]:
        thread.join(TIMEOUT_S)

    assert 36 == len(answers)
    assert {b"b:x", b"c:x"} == set(answers)


def test_a_stream_is_tried_again_before_its_first_response(
    channel: BalancedSyncChannel, servers: list[EchoServer]
) -> None:
    """Who iterates gets what the third server sends, and its metadata."""
    _refuse(servers[:2], UNPROCESSED)

    for _ in range(3):
        stream = _stream(channel)
        assert [b"c:x"] * 3 == list(stream)
        assert StatusCode.OK is stream.code()
        assert ("server", "c") in [tuple(item) for item in stream.initial_metadata()]
        assert ("trailer", "end") in [tuple(item) for item in stream.trailing_metadata()]


def test_a_stream_that_has_begun_is_not_tried_again(
    idempotent: BalancedSyncChannel, servers: list[EchoServer]
) -> None:
    """What was handed out cannot be taken back."""
    stream = _stream(idempotent, HANG)
    assert "server" in dict(stream.initial_metadata())
    for server in servers:
        server.stop()

    with pytest.raises(grpc.RpcError):
        next(stream)

    assert 1 == _seen(servers)
