"""What a thread sees of a call, the same on three channels.

`plain` is gRPC's own channel and the reference. `balanced` has a connection, so that the
call is gRPC's own; `deferred` has none when the call is made, so that it has to wait; `intercepted`
has an interceptor that passes everything on.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc import ChannelConnectivity, StatusCode

from balancer.sync_channel import sync_channel
from tests.balancer.echo import (
    FAIL,
    HANG,
    STREAM_STREAM,
    STREAM_UNARY,
    UNARY_STREAM,
    UNARY_UNARY,
)
from tests.balancer.sync.echo import EchoServer
from tests.balancer.sync.waiting import TIMEOUT_S, eventually, in_thread, reaches

Call = Any


class Passing(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Passes the calls of all kinds on, and counts them."""

    def __init__(self) -> None:
        self.calls = 0

    def _intercept(self, continuation: Any, details: Any, request: Any) -> Any:
        self.calls += 1
        return continuation(details, request)

    intercept_unary_unary: Any = _intercept
    intercept_unary_stream: Any = _intercept
    intercept_stream_unary: Any = _intercept
    intercept_stream_stream: Any = _intercept


@pytest.fixture(params=["plain", "balanced", "deferred", "intercepted"])
def channel(request: pytest.FixtureRequest, server: EchoServer) -> Iterator[grpc.Channel]:
    """The channel under test."""
    if request.param == "plain":
        made = grpc.insecure_channel(server.address)
    else:
        interceptors = [Passing()] if request.param == "intercepted" else []
        balanced = made = sync_channel(f"static:///{server.address}", interceptors=interceptors)
        if request.param != "deferred":
            reaches(balanced, ChannelConnectivity.READY)
    with made:
        yield made


# Every way to make a call: the kind, and how.
BLOCKING = ["unary_unary", "unary_unary.with_call", "stream_unary", "stream_unary.with_call"]
OBJECTS = ["unary_unary.future", "unary_stream", "stream_unary.future", "stream_stream"]
PATHS = {
    "unary_unary": UNARY_UNARY,
    "unary_stream": UNARY_STREAM,
    "stream_unary": STREAM_UNARY,
    "stream_stream": STREAM_STREAM,
}

BLOCKING_STYLES = pytest.mark.parametrize("style", BLOCKING)
OBJECT_STYLES = pytest.mark.parametrize("style", OBJECTS)
ALL_STYLES = pytest.mark.parametrize("style", BLOCKING + OBJECTS)


# gRPC's own thread may find the channel closed between two looks at it.
_PLAIN_MAY_TRIP = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def start(channel: grpc.Channel, style: str, message: bytes, **options: Any) -> Any:
    """What a call with one request `message` returns."""
    kind, _, method = style.partition(".")
    multicallable: Any = getattr(channel, kind)(PATHS[kind])
    request = iter([message]) if kind.startswith("stream") else message
    return (getattr(multicallable, method) if method else multicallable)(request, **options)


def finish(style: str, outcome: Any) -> list[bytes]:
    """Every response of what `start` returned."""
    if style in ("unary_stream", "stream_stream"):
        return list(outcome)
    if style.endswith(".future"):
        return [outcome.result()]
    return [outcome[0]] if style.endswith(".with_call") else [outcome]


def _raise(_: object) -> None:
    raise ValueError("a listener's fault")


def error_of(channel: grpc.Channel, style: str, message: bytes, **options: Any) -> Any:
    """What a call that fails raises."""
    with pytest.raises(grpc.RpcError) as raised:
        finish(style, start(channel, style, message, **options))
    return raised.value


@ALL_STYLES
def test_responses(channel: grpc.Channel, style: str) -> None:
    """A call gives each response, in order."""
    expected = [b"server:x"] * (3 if style == "unary_stream" else 1)
    assert expected == finish(style, start(channel, style, b"x"))


def test_many_requests(channel: grpc.Channel) -> None:
    """Requests come from an iterator, and both directions may be streamed."""
    joined: Any = channel.stream_unary(STREAM_UNARY)
    assert b"server:1,server:2" == joined(iter([b"1", b"2"]))
    echoed: Any = channel.stream_stream(STREAM_STREAM)
    responses = echoed(iter([b"1", b"2"]))
    assert [b"server:1", b"server:2"] == list(responses)


def test_a_generator_of_requests_runs_beside(channel: grpc.Channel) -> None:
    """Each request may depend on the response before it."""
    responses: list[bytes] = []
    got = threading.Semaphore(1)

    def requests() -> Iterator[bytes]:
        for number in range(3):
            assert got.acquire(timeout=TIMEOUT_S)
            yield b"%d after %d" % (number, len(responses))

    echoed: Any = channel.stream_stream(STREAM_STREAM)
    for response in echoed(requests()):
        responses.append(response)
        got.release()
    assert [b"server:0 after 0", b"server:1 after 1", b"server:2 after 2"] == responses


@OBJECT_STYLES
def test_a_result_may_be_asked_for_again(channel: grpc.Channel, style: str) -> None:
    """A future gives its result, and a stream its end, as often as one asks."""
    call = start(channel, style, b"x")
    finish(style, call)
    assert finish(style, call) == ([b"server:x"] if style.endswith(".future") else [])


@pytest.mark.parametrize("style", ["stream_unary", "stream_unary.future", "stream_stream"])
def test_a_request_iterator_that_raises(channel: grpc.Channel, style: str) -> None:
    """A request iterator that raises ends the call with UNKNOWN."""

    def broken() -> Iterator[bytes]:
        yield b"1"
        raise ValueError("broken")

    kind, _, method = style.partition(".")
    multicallable: Any = getattr(channel, kind)(PATHS[kind])
    with pytest.raises(grpc.RpcError) as raised:
        finish(style, (getattr(multicallable, method) if method else multicallable)(broken()))
    error: Any = raised.value
    assert StatusCode.UNKNOWN is error.code()


@pytest.mark.parametrize("style", ["unary_unary.with_call", "stream_unary.with_call", *OBJECTS])
def test_metadata(channel: grpc.Channel, server: EchoServer, style: str) -> None:
    """Metadata travels both ways and is there before and after the responses."""
    sent = (("key", "value"), ("key-bin", b"\x00\xff"))
    outcome = start(channel, style, b"x", metadata=sent)
    call = outcome[1] if style.endswith(".with_call") else outcome
    assert ("server", "server") in call.initial_metadata()
    finish(style, outcome)
    assert ("trailer", "end") in call.trailing_metadata()
    assert set(sent) <= set(server.metadata)


@pytest.mark.parametrize("style", ["unary_unary.with_call", "stream_unary.with_call", *OBJECTS])
def test_status_of_a_success(channel: grpc.Channel, style: str) -> None:
    """A call that succeeded is done, not cancelled, OK and without details."""
    outcome = start(channel, style, b"x")
    call = outcome[1] if style.endswith(".with_call") else outcome
    finish(style, outcome)
    assert (StatusCode.OK, "") == (call.code(), call.details())
    assert (True, False, False) == (call.done(), call.running(), call.cancelled())
    assert (False, False) == (call.is_active(), call.cancel())
    assert (None, None) == (call.exception(), call.traceback())


@ALL_STYLES
def test_status_of_a_failure(channel: grpc.Channel, style: str) -> None:
    """A server's error is raised with its code, details and metadata."""
    error = error_of(channel, style, FAIL)
    assert (StatusCode.FAILED_PRECONDITION, "as asked") == (error.code(), error.details())
    assert ("server", "server") in error.initial_metadata()
    assert ("trailer", "end") in error.trailing_metadata()
    assert "as asked" in error.debug_error_string()
    assert isinstance(error, grpc.Call)


@OBJECT_STYLES
def test_a_failure_asked_of_the_call(channel: grpc.Channel, style: str) -> None:
    """The call object of a failed call says so, and its exception is the one raised."""
    call = start(channel, style, FAIL)
    with pytest.raises(grpc.RpcError) as raised:
        finish(style, call)
    assert StatusCode.FAILED_PRECONDITION is call.code()
    assert "as asked" in call.debug_error_string()
    assert raised.value is call.exception()
    assert call.traceback() is not None
    assert (True, False) == (call.done(), call.cancelled())


def test_unknown_method(channel: grpc.Channel) -> None:
    """A method that the server lacks is UNIMPLEMENTED."""
    missing: Any = channel.unary_unary("/no.Such/Method")
    assert StatusCode.UNIMPLEMENTED is missing.future(b"").code()


@ALL_STYLES
def test_deadline(channel: grpc.Channel, style: str) -> None:
    """A call that outlasts its timeout ends with DEADLINE_EXCEEDED."""
    assert StatusCode.DEADLINE_EXCEEDED is error_of(channel, style, HANG, timeout=0.1).code()


@ALL_STYLES
def test_a_timeout_in_the_past(channel: grpc.Channel, style: str) -> None:
    """A call whose time is up from the start ends with DEADLINE_EXCEEDED."""
    assert StatusCode.DEADLINE_EXCEEDED is error_of(channel, style, b"x", timeout=-1).code()


@OBJECT_STYLES
def test_time_remaining(channel: grpc.Channel, style: str) -> None:
    """The time remaining is at most the timeout, and not negative."""
    call = start(channel, style, b"x", timeout=20)
    assert 0 < call.time_remaining() <= 20
    finish(style, call)
    assert 0 < call.time_remaining() <= 20


def test_no_deadline_on_streams(channel: grpc.Channel) -> None:
    """A stream without a timeout has none."""
    call = start(channel, "unary_stream", b"x")
    assert call.time_remaining() is None
    finish("unary_stream", call)


@pytest.mark.parametrize("style", ["unary_unary.future", "stream_unary.future"])
def test_a_result_waited_for_too_briefly(
    channel: grpc.Channel, server: EchoServer, style: str
) -> None:
    """Who stops waiting for a future is told so, and the call goes on."""
    call = start(channel, style, HANG)
    for ask in (call.result, call.exception, call.traceback):
        with pytest.raises(grpc.FutureTimeoutError):
            ask(timeout=0.01)
    assert (True, False, True) == (call.running(), call.done(), call.is_active())
    server.release()
    assert b"server:hang" == call.result(timeout=TIMEOUT_S)


@OBJECT_STYLES
def test_cancel_at_once(channel: grpc.Channel, style: str) -> None:
    """A call cancelled as soon as it is made says so, in every way one can ask."""
    call = start(channel, style, HANG)
    assert call.cancel()
    assert (True, True, False) == (call.cancelled(), call.done(), call.cancel())
    assert StatusCode.CANCELLED is call.code()
    assert "Locally cancelled by application!" == call.details()
    for ask in (call.result, call.exception, call.traceback):
        with pytest.raises(grpc.FutureCancelledError):
            ask()
    with pytest.raises(grpc.RpcError):
        next(call)


@OBJECT_STYLES
def test_cancel_under_way(channel: grpc.Channel, server: EchoServer, style: str) -> None:
    """Cancelling a call that a server is working on ends it there too."""
    call = start(channel, style, HANG)
    eventually(lambda: server.hanging == 1)
    assert call.cancel()
    assert StatusCode.CANCELLED is call.code()
    eventually(lambda: server.hanging == 0)


@OBJECT_STYLES
def test_a_call_that_nobody_holds_is_cancelled(
    channel: grpc.Channel, server: EchoServer, style: str
) -> None:
    """Letting go of a call object ends the call."""
    call = start(channel, style, HANG)
    eventually(lambda: server.hanging == 1)
    del call
    gc.collect()
    eventually(lambda: server.hanging == 0)


@OBJECT_STYLES
def test_done_callbacks(channel: grpc.Channel, style: str) -> None:
    """A callback gets the call itself, once, whether added before or after the end."""
    seen: list[Call] = []
    call = start(channel, style, b"x")
    call.add_done_callback(seen.append)
    finish(style, call)
    eventually(lambda: len(seen) == 1)
    call.add_done_callback(seen.append)
    assert [call, call] == seen


@OBJECT_STYLES
def test_callbacks_of_the_context(channel: grpc.Channel, server: EchoServer, style: str) -> None:
    """A termination callback is called once, and refused after the end."""
    seen: list[int] = []
    call = start(channel, style, HANG)
    assert call.add_callback(lambda: seen.append(1))
    server.release()
    finish(style, call)
    eventually(lambda: seen == [1])
    assert not call.add_callback(lambda: seen.append(2))


@OBJECT_STYLES
def test_a_callback_that_raises(channel: grpc.Channel, server: EchoServer, style: str) -> None:
    """It costs neither the call nor the other callbacks."""
    seen: list[Call] = []
    call = start(channel, style, HANG)
    call.add_done_callback(_raise)
    call.add_done_callback(seen.append)
    server.release()
    finish(style, call)
    eventually(lambda: seen == [call])


@ALL_STYLES
@pytest.mark.parametrize("wait_for_ready", [True, False, None])
def test_wait_for_ready(channel: grpc.Channel, style: str, wait_for_ready: bool | None) -> None:
    """With a server that can be reached it makes no difference."""
    outcome = start(channel, style, b"x", wait_for_ready=wait_for_ready)
    assert b"server:x" == finish(style, outcome)[0]


@ALL_STYLES
def test_compression(channel: grpc.Channel, style: str) -> None:
    """Compressed messages arrive."""
    outcome = start(channel, style, b"x" * 5000, compression=grpc.Compression.Gzip)
    assert b"server:" + b"x" * 5000 == finish(style, outcome)[0]


@OBJECT_STYLES
def test_call_classes(channel: grpc.Channel, style: str) -> None:
    """A call object is a grpc.Call and a grpc.Future."""
    call = start(channel, style, b"x")
    assert isinstance(call, grpc.Call)
    assert isinstance(call, grpc.Future)
    finish(style, call)


def test_serializers(channel: grpc.Channel) -> None:
    """Requests and responses go through the stub's functions."""
    length = channel.unary_unary(
        UNARY_UNARY, request_serializer=str.encode, response_deserializer=len
    )
    assert len(b"server:abc") == length("abc")


def test_a_serializer_that_raises(channel: grpc.Channel) -> None:
    """A request that cannot be serialized is INTERNAL."""

    def broken(_: object) -> bytes:
        raise ValueError("broken")

    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(UNARY_UNARY, request_serializer=broken)(object())
    error: Any = raised.value
    assert StatusCode.INTERNAL is error.code()


def test_many_threads(channel: grpc.Channel) -> None:
    """Calls of many threads each get their own response."""
    unary: Any = channel.unary_unary(UNARY_UNARY)
    requests = [b"%d" % number for number in range(200)]
    with ThreadPoolExecutor(16) as threads:
        responses = list(threads.map(unary, requests))
    assert [b"server:" + request for request in requests] == responses


@ALL_STYLES
def test_interceptors(channel: grpc.Channel, style: str) -> None:
    """grpc.intercept_channel takes the channel as it is; failures pass through too."""
    interceptor = Passing()
    intercepted = grpc.intercept_channel(channel, interceptor)
    assert b"server:x" == finish(style, start(intercepted, style, b"x"))[0]
    assert StatusCode.FAILED_PRECONDITION is error_of(intercepted, style, FAIL).code()
    assert 2 == interceptor.calls


@_PLAIN_MAY_TRIP
def test_channel_ready_future(channel: grpc.Channel) -> None:
    """grpc.channel_ready_future works on the channel, and may be cancelled."""
    grpc.channel_ready_future(channel).result(timeout=TIMEOUT_S)
    future = grpc.channel_ready_future(channel)
    future.cancel()


@_PLAIN_MAY_TRIP
def test_states_are_told(channel: grpc.Channel) -> None:
    """A subscriber is told of READY, and of nothing once it has unsubscribed."""
    states: list[ChannelConnectivity] = []
    channel.subscribe(states.append, try_to_connect=True)
    eventually(lambda: ChannelConnectivity.READY in states)
    channel.unsubscribe(states.append)
    channel.unsubscribe(states.append)


@_PLAIN_MAY_TRIP
def test_a_subscriber_that_raises(channel: grpc.Channel) -> None:
    """It does not cost the others their news."""
    states: list[ChannelConnectivity] = []
    channel.subscribe(_raise, try_to_connect=True)
    channel.subscribe(states.append, try_to_connect=True)
    eventually(lambda: ChannelConnectivity.READY in states)


@ALL_STYLES
def test_calls_after_close(channel: grpc.Channel, style: str) -> None:
    """A closed channel is of no use, and may be closed again."""
    channel.close()
    channel.close()
    with pytest.raises(ValueError, match="closed"):
        start(channel, style, b"x")


@OBJECT_STYLES
def test_close_cancels(channel: grpc.Channel, server: EchoServer, style: str) -> None:
    """Closing cancels the calls under way."""
    call = start(channel, style, HANG)
    eventually(lambda: server.hanging == 1)
    channel.close()
    assert StatusCode.CANCELLED is call.code()
    assert "Channel closed!" in call.details()


@BLOCKING_STYLES
def test_close_ends_blocking_calls(channel: grpc.Channel, server: EchoServer, style: str) -> None:
    """A call that blocks another thread is cancelled by closing the channel."""
    errors: list[Any] = []
    thread = in_thread(lambda: errors.append(error_of(channel, style, HANG)))
    eventually(lambda: server.hanging == 1)
    channel.close()
    thread.join(TIMEOUT_S)
    assert [StatusCode.CANCELLED] == [error.code() for error in errors]


def test_a_callback_that_calls(channel: grpc.Channel) -> None:
    """A done callback may itself make a blocking call."""
    unary: Any = channel.unary_unary(UNARY_UNARY)
    responses: list[bytes] = []
    call = unary.future(b"1")
    call.add_done_callback(lambda _: responses.append(unary(b"2", timeout=TIMEOUT_S)))
    eventually(lambda: responses == [b"server:2"])
