"""Interceptors of threads: what a user sees is the same on gRPC's channel and on ours.

`plain` is `grpc.intercept_channel` around gRPC's own channel and the reference; `ours` is
`sync_channel(..., interceptors=[...])`.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from balancer import ChannelConfig, MethodConfig, MethodConfigs
from balancer.call_status import Status
from balancer.sync_call import NeverSent
from balancer.sync_channel import sync_channel
from tests.balancer.echo import FAIL, STREAM_STREAM, UNARY_STREAM, UNARY_UNARY
from tests.balancer.sync.conftest import StartServer
from tests.balancer.sync.echo import EchoServer
from tests.balancer.sync.test_parity import ALL_STYLES, PATHS, Passing, finish, start
from tests.balancer.sync.waiting import eventually

Continuation = Callable[[Any, Any], Any]
Connect = Callable[..., grpc.Channel]

BLOCKING = pytest.mark.parametrize("style", ["unary_unary", "stream_unary.with_call"])
FUTURES = pytest.mark.parametrize("style", ["unary_unary.future", "stream_unary.future"])
STREAMS = pytest.mark.parametrize("style", ["unary_stream", "stream_stream"])


@pytest.fixture(params=["plain", "ours"])
def connect(request: pytest.FixtureRequest, server: EchoServer) -> Iterator[Connect]:
    """Makes a channel to the server with these interceptors."""
    with ExitStack() as channels:

        def made(*interceptors: Any) -> grpc.Channel:
            if request.param == "plain":
                plain = channels.enter_context(grpc.insecure_channel(server.address))
                return grpc.intercept_channel(plain, *interceptors)
            target = f"static:///{server.address}"
            return channels.enter_context(sync_channel(target, interceptors=interceptors))

        yield made


class Doing(Passing):
    """Does what a function says, for calls of all kinds."""

    def __init__(self, act: Callable[[Continuation, Any, Any], Any]) -> None:
        super().__init__()
        self._act = act

    def _intercept(self, continuation: Continuation, details: Any, request: Any) -> Any:
        self.calls += 1
        return self._act(continuation, details, request)

    intercept_unary_unary: Any = _intercept
    intercept_unary_stream: Any = _intercept
    intercept_stream_unary: Any = _intercept
    intercept_stream_stream: Any = _intercept


# As people write it: without the fields that gRPC added later.
class Rewritten(
    collections.namedtuple("Rewritten", ("method", "timeout", "metadata", "credentials")),  # noqa: PYI024 - as there
    grpc.ClientCallDetails,
):
    """The details of a call as an interceptor wants them."""


def rewrite(details: Any, **fields: Any) -> Rewritten:
    """`details` with other `fields`."""
    kept = {name: getattr(details, name) for name in Rewritten._fields}
    return Rewritten(**(kept | fields))


@ALL_STYLES
def test_the_first_is_outermost(connect: Connect, style: str) -> None:
    """Each runs once per call, in the order in which they were given, in the caller's thread."""
    seen: list[str] = []

    def note(name: str) -> Doing:
        def act(continuation: Continuation, details: Any, request: Any) -> Any:
            seen.append(f"{name} in")
            call = continuation(details, request)
            seen.append(f"{name} out")
            return call

        return Doing(act)

    channel = connect(note("a"), note("b"))
    assert b"server:x" == finish(style, start(channel, style, b"x"))[0]
    assert ["a in", "b in", "b out", "a out"] == seen


def test_only_calls_of_its_kind(connect: Connect) -> None:
    """An interceptor is not asked about calls of another kind."""

    class Unary(grpc.UnaryUnaryClientInterceptor):
        calls = 0

        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            self.calls += 1
            return continuation(details, request)

    interceptor = Unary()
    channel = connect(interceptor)
    finish("unary_stream", start(channel, "unary_stream", b"x"))
    assert 0 == interceptor.calls
    finish("unary_unary", start(channel, "unary_unary", b"x"))
    assert 1 == interceptor.calls


@ALL_STYLES
def test_details(connect: Connect, style: str) -> None:
    """It is told the method, the timeout, the metadata and the willingness to wait."""
    told: list[Any] = []

    def act(continuation: Continuation, details: Any, request: Any) -> Any:
        told.append(details)
        return continuation(details, request)

    metadata = (("key", "value"),)
    options: dict[str, Any] = {"timeout": 9.0, "metadata": metadata, "wait_for_ready": True}
    finish(style, start(connect(Doing(act)), style, b"x", **options))
    (details,) = told
    assert PATHS[style.partition(".")[0]] == details.method
    assert (9.0, metadata, True) == (details.timeout, details.metadata, details.wait_for_ready)
    assert (None, None) == (details.credentials, details.compression)


@ALL_STYLES
def test_metadata_added(connect: Connect, server: EchoServer, style: str) -> None:
    """What it adds arrives; what its details lack stays as the caller had it."""

    def act(continuation: Continuation, details: Any, request: Any) -> Any:
        return continuation(rewrite(details, metadata=(("added", "1"),)), request)

    finish(style, start(connect(Doing(act)), style, b"x", wait_for_ready=True))
    assert ("added", "1") in [tuple(each) for each in server.metadata]


def test_another_method(connect: Connect) -> None:
    """A call is of the method that the interceptor names, every time."""

    def act(continuation: Continuation, details: Any, request: Any) -> Any:
        return continuation(rewrite(details, method="/no.Such/Method"), request)

    channel = connect(Doing(act))
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as raised:
            start(channel, "unary_unary", b"x")
        error: Any = raised.value
        assert StatusCode.UNIMPLEMENTED is error.code()


@BLOCKING
def test_errors_are_handed_over_as_calls(connect: Connect, style: str) -> None:
    """A continuation does not raise; it returns a call that has failed, and that is raised."""
    seen: list[StatusCode] = []

    def act(continuation: Continuation, details: Any, request: Any) -> Any:
        call = continuation(details, request)
        seen.append(call.code())
        return call

    with pytest.raises(grpc.RpcError) as raised:
        start(connect(Doing(act), Passing()), style, FAIL)
    error: Any = raised.value
    assert [StatusCode.FAILED_PRECONDITION] == seen
    assert (StatusCode.FAILED_PRECONDITION, "as asked") == (error.code(), error.details())


@BLOCKING
def test_an_interceptor_may_answer_for_a_failure(connect: Connect, style: str) -> None:
    """It may make the call again, and return the second."""

    def act(continuation: Continuation, details: Any, request: Any) -> Any:
        continuation(details, FAIL if request == b"x" else iter([FAIL]))
        return continuation(details, request)

    assert [b"server:x"] == finish(style, start(connect(Doing(act)), style, b"x"))


def _broken(continuation: Continuation, details: Any, request: Any) -> Any:
    raise LookupError("an interceptor's fault")


@BLOCKING
def test_an_interceptor_that_raises(connect: Connect, style: str) -> None:
    """The caller gets what it raised, an outer one a call that has failed with INTERNAL."""
    codes: list[StatusCode] = []

    def act(continuation: Continuation, details: Any, request: Any) -> Any:
        call = continuation(details, request)
        codes.append(call.code())
        return call

    with pytest.raises(LookupError, match="an interceptor's fault"):
        start(connect(Doing(act), Doing(_broken)), style, b"x")
    assert [StatusCode.INTERNAL] == codes


@FUTURES
def test_a_future_whose_interceptor_raises(connect: Connect, style: str) -> None:
    """The future has failed with that exception, and says so in every way one can ask."""
    call = start(connect(Doing(_broken)), style, b"x")
    seen: list[object] = []
    call.add_done_callback(seen.append)
    assert [call] == seen
    assert (True, False, False) == (call.done(), call.running(), call.cancelled())
    assert isinstance(call.exception(), LookupError)
    assert call.traceback() is not None
    assert StatusCode.INTERNAL is call.code()
    assert not call.is_active()
    assert not call.cancel()
    assert not call.add_callback(lambda: None)
    with pytest.raises(LookupError):
        call.result()


@STREAMS
def test_a_stream_whose_interceptor_raises(connect: Connect, style: str) -> None:
    """Iterating raises it."""
    call = start(connect(Doing(_broken)), style, b"x")
    with pytest.raises(LookupError):
        next(iter(call))
    assert StatusCode.INTERNAL is call.code()


@STREAMS
def test_responses_replaced(connect: Connect, style: str) -> None:
    """An iterator returned instead of a call gives the responses."""

    def act(continuation: Continuation, details: Any, request: Any) -> Any:
        return (response.upper() for response in continuation(details, request))

    responses = list(start(connect(Doing(act)), style, b"x"))
    assert {b"SERVER:X"} == set(responses)


def test_requests_replaced(connect: Connect) -> None:
    """An interceptor may put its own iterator around the requests."""

    def act(continuation: Continuation, details: Any, requests: Any) -> Any:
        return continuation(details, (request * 2 for request in requests))

    assert [b"server:xx"] == list(start(connect(Doing(act)), "stream_stream", b"x"))


@ALL_STYLES
def test_accessors(connect: Connect, style: str) -> None:
    """The call object behind interceptors has metadata, status and time as any other."""
    if style in ("unary_unary", "stream_unary"):
        style += ".with_call"
    outcome = start(connect(Passing(), Passing()), style, b"x", timeout=9.0)
    call: Any = outcome[1] if style.endswith(".with_call") else outcome
    finish(style, outcome)
    assert ("server", "server") in [tuple(each) for each in call.initial_metadata()]
    assert ("trailer", "end") in [tuple(each) for each in call.trailing_metadata()]
    assert (StatusCode.OK, "") == (call.code(), call.details())
    if call is outcome:
        # gRPC's own call of `with_call` does not know it.
        assert 0 < call.time_remaining() <= 9
    assert not call.is_active()
    assert not call.add_callback(lambda: None)


def test_what_is_no_interceptor(connect: Connect) -> None:
    """It is refused when the channel is made."""
    with pytest.raises(TypeError, match="must be"):
        connect(object())


@STREAMS
def test_replaced_responses_leave_the_call_its_accessors(server: EchoServer, style: str) -> None:
    """Where gRPC's channel returns a bare iterator, ours is still a call, as a failure too."""

    def act(continuation: Continuation, details: Any, request: Any) -> Any:
        return (response.upper() for response in continuation(details, request))

    target = f"static:///{server.address}"
    with sync_channel(target, interceptors=[Doing(act)]) as channel:
        call = start(channel, style, b"x", timeout=9.0)
        assert issubclass(type(call), grpc.Call)
        ended: list[None] = []
        assert call.add_callback(lambda: ended.append(None))
        assert 0 < call.time_remaining() <= 9
        assert ("server", "server") in [tuple(each) for each in call.initial_metadata()]
        assert {b"SERVER:X"} == set(call)
        assert StatusCode.OK is call.code()
        assert "" == call.details()
        assert ("trailer", "end") in [tuple(each) for each in call.trailing_metadata()]
        eventually(lambda: ended == [None])
        assert not call.is_active()
        assert not call.cancel()
        assert call.done()
        failed = start(channel, style, FAIL)
        with pytest.raises(grpc.RpcError):
            list(failed)
        assert StatusCode.FAILED_PRECONDITION is failed.code()


def test_responses_made_up(server: EchoServer) -> None:
    """An interceptor that makes no call and returns responses gives a call that went well."""

    def act(continuation: Continuation, details: Any, request: Any) -> Any:
        return iter([b"cached"])

    target = f"static:///{server.address}"
    with sync_channel(target, interceptors=[Doing(act)]) as channel:
        call: Any = start(channel, "unary_stream", b"x")
        assert [b"cached"] == list(call)
        assert StatusCode.OK is call.code()
    assert 0 == server.calls


def test_an_interceptors_rpc_error_is_the_status(server: EchoServer) -> None:
    """A future that ends by an RpcError of an interceptor has its code and details."""

    def act(continuation: Continuation, details: Any, request: Any) -> Any:
        raise NeverSent(Status(StatusCode.UNAUTHENTICATED, "no token"))

    target = f"static:///{server.address}"
    with sync_channel(target, interceptors=[Doing(act)]) as channel:
        call = start(channel, "unary_unary.future", b"x")
        assert (StatusCode.UNAUTHENTICATED, "no token") == (call.code(), call.details())


@pytest.mark.parametrize("style", ["unary_unary", "unary_unary.future", "unary_stream"])
def test_they_run_once_around_all_attempts(start_server: StartServer, style: str) -> None:
    """A call that is tried again elsewhere passes its interceptors once."""
    servers = [start_server(name) for name in (b"a", b"b")]
    target = "static:///" + ",".join(server.address for server in servers)
    config = ChannelConfig(methods=MethodConfigs({"": MethodConfig(idempotent=True)}))
    interceptor = Passing()
    with sync_channel(target, config=config, interceptors=[interceptor]) as channel:
        eventually(lambda: "2 of 2" in channel.describe())
        servers[0].refusal = StatusCode.UNAVAILABLE
        for calls in range(1, 5):
            assert b"b:x" == finish(style, start(channel, style, b"x"))[0]
            assert calls == interceptor.calls
        assert servers[0].calls >= 1


def test_streamed_requests_by_name(server: EchoServer) -> None:
    """The parameters have the names that gRPC's have."""
    with sync_channel(f"static:///{server.address}", interceptors=[Passing()]) as channel:
        echoed: Any = channel.stream_stream(STREAM_STREAM)
        assert [b"server:x"] == list(echoed(request_iterator=iter([b"x"])))
        unary: Any = channel.unary_unary(UNARY_UNARY)
        assert b"server:x" == unary(request=b"x", timeout=9.0)


def test_without_any_of_the_kind_nothing_is_added(server: EchoServer) -> None:
    """A kind without interceptors has the same multicallable as a channel without any."""

    class Unary(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return continuation(details, request)

    target = f"static:///{server.address}"
    with sync_channel(target, interceptors=[Unary()]) as some, sync_channel(target) as none:
        assert type(some.unary_stream(UNARY_STREAM)) is type(none.unary_stream(UNARY_STREAM))
        assert type(some.unary_unary(UNARY_UNARY)) is not type(none.unary_unary(UNARY_UNARY))
