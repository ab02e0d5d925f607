"""What a caller and an interceptor see of each other, the same on gRPC's channel and on ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc import StatusCode

import balancer
from balancer.multicallable import UnaryStream, UnaryUnary
from tests.balancer.calls import stream_stream, stream_unary, unary_stream, unary_unary
from tests.balancer.conftest import StartServer
from tests.balancer.echo import FAIL, HANG, SERVICE, UNARY_UNARY, EchoServer
from tests.support.waiting import eventually

Call = Any
Around = Callable[[Any, Any, Any], Any]
Open = Callable[..., grpc.aio.Channel]

ALL_KINDS = pytest.mark.parametrize(
    "kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
)
STREAM_IN = pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
STREAM_OUT = pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])


def interceptor(kind: str, around: Around) -> grpc.aio.ClientInterceptor:
    """An interceptor of calls of `kind` that does `around(continuation, details, request)`."""
    base = {
        "unary_unary": grpc.aio.UnaryUnaryClientInterceptor,
        "unary_stream": grpc.aio.UnaryStreamClientInterceptor,
        "stream_unary": grpc.aio.StreamUnaryClientInterceptor,
        "stream_stream": grpc.aio.StreamStreamClientInterceptor,
    }[kind]

    async def intercept(_: Any, continuation: Any, details: Any, request: Any) -> Any:
        return await around(continuation, details, request)

    made: grpc.aio.ClientInterceptor = type("Around", (base,), {f"intercept_{kind}": intercept})()
    return made


async def passing(continuation: Any, details: Any, request: Any) -> Any:
    """Does nothing."""
    return await continuation(details, request)


@pytest.fixture(params=["plain", "balanced", "deferred", "retrying"])
async def open_channel(request: pytest.FixtureRequest, server: EchoServer) -> AsyncIterator[Open]:
    """Opens the channel under test, with interceptors."""
    made: list[grpc.aio.Channel] = []

    def open_(*interceptors: grpc.aio.ClientInterceptor) -> grpc.aio.Channel:
        made.append(_channel(request.param, server.address, interceptors))
        return made[-1]

    yield open_
    for channel in made:
        await channel.close()


def _channel(
    name: str, address: str, interceptors: tuple[grpc.aio.ClientInterceptor, ...]
) -> grpc.aio.Channel:
    if name == "plain":
        return grpc.aio.insecure_channel(address, interceptors=interceptors)
    config = balancer.ChannelConfig()
    if name == "retrying":
        method = balancer.MethodConfig(retry=balancer.RetryPolicy(), idempotent=True)
        config = balancer.ChannelConfig(methods=balancer.MethodConfigs({"": method}))
    return balancer.channel(f"static:///{address}", config=config, interceptors=interceptors)


def start(channel: grpc.aio.Channel, kind: str, message: bytes, **options: Any) -> Call:
    """A call of `kind` with one request `message`."""
    if kind == "unary_unary":
        return unary_unary(channel)(message, **options)
    if kind == "unary_stream":
        return unary_stream(channel)(message, **options)
    if kind == "stream_unary":
        return stream_unary(channel)(iter([message]), **options)
    return stream_stream(channel)(iter([message]), **options)


async def finish(call: Call) -> list[bytes]:
    """Every response of `call`."""
    if hasattr(call, "__aiter__"):
        return [response async for response in call]
    return [await call]


@ALL_KINDS
async def test_passed_through(open_channel: Open, kind: str) -> None:
    """A call that is only passed on has its responses, status and metadata."""
    channel = open_channel(interceptor(kind, passing))
    call = start(channel, kind, b"x", timeout=30)
    assert {b"server:x"} == set(await finish(call))
    assert StatusCode.OK is await call.code()
    assert "" == await call.details()
    assert "server" == (await call.initial_metadata())["server"]
    assert "end" == (await call.trailing_metadata())["trailer"]
    assert (True, False, False) == (call.done(), call.cancelled(), call.cancel())


@ALL_KINDS
async def test_order(open_channel: Open, kind: str) -> None:
    """The first interceptor is outermost, and each runs once."""
    seen: list[str] = []

    def named(name: str) -> Around:
        async def around(continuation: Any, details: Any, request: Any) -> Any:
            seen.append(name)
            call = await continuation(details, request)
            seen.append(f"/{name}")
            return call

        return around

    channel = open_channel(interceptor(kind, named("a")), interceptor(kind, named("b")))
    await finish(start(channel, kind, b"x"))
    assert ["a", "b", "/b", "/a"] == seen


@ALL_KINDS
async def test_only_its_kind(open_channel: Open, kind: str) -> None:
    """An interceptor is not asked about calls of another kind."""

    async def never(*_: Any) -> Any:
        raise AssertionError

    others = {"unary_unary", "unary_stream", "stream_unary", "stream_stream"} - {kind}
    channel = open_channel(*(interceptor(other, never) for other in others))
    assert {b"server:x"} == set(await finish(start(channel, kind, b"x")))


@ALL_KINDS
async def test_details(open_channel: Open, kind: str) -> None:
    """It is told the method, the timeout, the metadata and the willingness to wait."""
    seen: list[Any] = []

    async def look(continuation: Any, details: Any, request: Any) -> Any:
        seen.append(details)
        return await continuation(details, request)

    channel = open_channel(interceptor(kind, look))
    await finish(
        start(channel, kind, b"x", timeout=30.0, metadata=(("a", "1"),), wait_for_ready=True)
    )
    path = f"/{SERVICE}/{kind.title().replace('_', '')}".encode()
    metadata = grpc.aio.Metadata(("a", "1"))
    assert [(path, 30.0, metadata, None, True)] == [tuple(details) for details in seen]


@ALL_KINDS
async def test_metadata_is_changed(open_channel: Open, server: EchoServer, kind: str) -> None:
    """What it adds to the metadata arrives at the server, also if the caller gave none."""

    async def add(continuation: Any, details: Any, request: Any) -> Any:
        details.metadata.add("added", "yes")
        return await continuation(details, request)

    await finish(start(open_channel(interceptor(kind, add)), kind, b"x"))
    assert ("added", "yes") in server.metadata


@ALL_KINDS
async def test_timeout_is_changed(open_channel: Open, kind: str) -> None:
    """The timeout that it sets is the one that counts."""

    async def shorten(continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details._replace(timeout=0.05), request)

    call = start(open_channel(interceptor(kind, shorten)), kind, HANG, timeout=60)
    assert StatusCode.DEADLINE_EXCEEDED is await call.code()


async def test_method_is_changed(open_channel: Open) -> None:
    """A call is of the method that the interceptor names, every time."""

    async def elsewhere(continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details._replace(method=UNARY_UNARY.encode()), request)

    channel = open_channel(interceptor("unary_unary", elsewhere))
    call: Any = channel.unary_unary(f"/{SERVICE}/Missing")
    assert [b"server:1", b"server:2"] == [await call(b"1"), await call(b"2")]


async def test_request_is_changed(open_channel: Open) -> None:
    """The request that it passes on is the one that is sent."""

    async def other(continuation: Any, details: Any, _: Any) -> Any:
        return await continuation(details, b"other")

    assert b"server:other" == await unary_unary(open_channel(interceptor("unary_unary", other)))(
        b"x"
    )


async def test_bare_response(open_channel: Open, server: EchoServer) -> None:
    """A response returned instead of a call is the caller's, and the call was a success."""

    async def answer(*_: Any) -> Any:
        return b"made up"

    channel = open_channel(interceptor("unary_unary", passing), interceptor("unary_unary", answer))
    call = unary_unary(channel)(b"x")
    assert b"made up" == await call
    assert (StatusCode.OK, "") == (await call.code(), await call.details())
    assert not await call.initial_metadata()
    assert not await call.trailing_metadata()
    assert (True, False, False) == (call.done(), call.cancelled(), call.cancel())
    assert 0 == server.calls


async def test_awaited_response(open_channel: Open) -> None:
    """An interceptor may await the call and return what it makes of the response."""

    async def louder(continuation: Any, details: Any, request: Any) -> Any:
        return (await (await continuation(details, request))).upper()

    channel = open_channel(interceptor("unary_unary", louder))
    assert b"SERVER:X" == await unary_unary(channel)(b"x")


@STREAM_OUT
async def test_iterator_of_responses(open_channel: Open, kind: str) -> None:
    """An iterator returned instead of a call gives the responses; the status is the call's."""

    async def louder(continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)
        return (response.upper() async for response in call)

    channel = open_channel(interceptor(kind, passing), interceptor(kind, louder))
    call = start(channel, kind, b"x")
    assert b"SERVER:X" == await call.read()
    assert {b"SERVER:X"} >= set(await finish(call))
    assert grpc.aio.EOF is await call.read()
    assert StatusCode.OK is await call.code()
    assert "server" == (await call.initial_metadata())["server"]


@STREAM_IN
async def test_written_requests(open_channel: Open, kind: str) -> None:
    """Requests are written one by one, and none after the last."""
    channel = open_channel(interceptor(kind, passing))
    call: Any = stream_unary(channel)() if kind == "stream_unary" else stream_stream(channel)()
    for message in (b"1", b"2"):
        await call.write(message)
    await call.done_writing()
    responses = await finish(call)
    assert b"server:1,server:2" == b",".join(responses)
    await call.done_writing()
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(b"3")


async def test_conversation(open_channel: Open) -> None:
    """A response can be read before the next request is written."""
    call = stream_stream(open_channel(interceptor("stream_stream", passing)))()
    for message in (b"1", b"2", b"3"):
        await call.write(message)
        assert b"server:" + message == await call.read()
    await call.done_writing()
    assert grpc.aio.EOF is await call.read()


@STREAM_IN
async def test_requests_are_changed(open_channel: Open, kind: str) -> None:
    """An interceptor may put its own iterator around the requests."""

    async def louder(continuation: Any, details: Any, requests: Any) -> Any:
        async def upper() -> AsyncIterator[bytes]:
            async for request in requests:
                yield request.upper()

        return await continuation(details, upper())

    channel = open_channel(interceptor(kind, louder))
    call: Any = stream_unary(channel)() if kind == "stream_unary" else stream_stream(channel)()
    await call.write(b"x")
    await call.done_writing()
    assert [b"server:X"] == await finish(call)


@STREAM_IN
async def test_styles_are_not_mixed(open_channel: Open, kind: str) -> None:
    """Who gave an iterator of requests cannot write."""
    call = start(open_channel(interceptor(kind, passing)), kind, b"x")
    with pytest.raises(grpc.aio.UsageError):
        await call.write(b"y")
    with pytest.raises(grpc.aio.UsageError):
        await call.done_writing()
    await finish(call)


async def test_writer_is_let_go(open_channel: Open) -> None:
    """A writer learns that the call has ended, however far behind the server is."""
    call = stream_stream(open_channel(interceptor("stream_stream", passing)))()

    async def write_on() -> None:
        await call.write(FAIL)
        while True:
            await call.write(b"x" * 100_000)

    with pytest.raises(asyncio.InvalidStateError):
        await asyncio.wait_for(write_on(), 10)
    assert call.done()


@ALL_KINDS
async def test_failure(open_channel: Open, kind: str) -> None:
    """A call that fails raises its status and tells it."""
    call = start(open_channel(interceptor(kind, passing)), kind, FAIL)
    with pytest.raises(grpc.aio.AioRpcError, match="as asked"):
        await finish(call)
    assert StatusCode.FAILED_PRECONDITION is await call.code()
    assert "as asked" == await call.details()


@ALL_KINDS
async def test_interceptor_fails_the_call(open_channel: Open, kind: str) -> None:
    """An AioRpcError that it raises is the call's status."""
    trailers = grpc.aio.Metadata(("why", "so"))

    async def refuse(*_: Any) -> Any:
        code = StatusCode.PERMISSION_DENIED
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, "not you", "")

    call = start(open_channel(interceptor(kind, refuse)), kind, b"x")
    with pytest.raises(grpc.aio.AioRpcError, match="not you"):
        await finish(call)
    assert StatusCode.PERMISSION_DENIED is await call.code()
    assert "not you" == await call.details()
    assert trailers == await call.trailing_metadata()
    assert not await call.initial_metadata()
    assert (True, False, False) == (call.done(), call.cancelled(), call.cancel())


@ALL_KINDS
async def test_interceptor_is_broken(open_channel: Open, kind: str) -> None:
    """Any other exception of an interceptor reaches the caller as it is."""

    async def broken(*_: Any) -> Any:
        raise LookupError("broken")

    call = start(open_channel(interceptor(kind, broken)), kind, b"x")
    with pytest.raises(LookupError, match="broken"):
        await finish(call)
    with pytest.raises(LookupError, match="broken"):
        await call.code()
    assert (True, False) == (call.done(), call.cancelled())


@ALL_KINDS
async def test_cancel_in_the_interceptor(open_channel: Open, server: EchoServer, kind: str) -> None:
    """A call can be cancelled while an interceptor holds it, before it has begun."""
    entered = asyncio.Event()

    async def hold(*_: Any) -> Any:
        entered.set()
        await asyncio.Event().wait()

    call = start(open_channel(interceptor(kind, hold)), kind, b"x")
    async with asyncio.timeout(10):
        await entered.wait()
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finish(call)
    assert StatusCode.CANCELLED is await call.code()
    assert "Locally cancelled by application!" == await call.details()
    assert (True, True, False) == (call.done(), call.cancelled(), call.cancel())
    assert 0 == server.calls


@ALL_KINDS
async def test_cancel_under_way(open_channel: Open, server: EchoServer, kind: str) -> None:
    """A call can be cancelled once the interceptors are through."""
    call = start(open_channel(interceptor(kind, passing)), kind, HANG)
    await eventually(lambda: server.hanging == 1)
    assert call.cancel()
    assert StatusCode.CANCELLED is await call.code()
    assert (True, True) == (call.done(), call.cancelled())
    await eventually(lambda: server.hanging == 0)


@ALL_KINDS
async def test_cancel_while_it_keeps_the_call(server: EchoServer, kind: str) -> None:
    """Cancelling ends the call that an interceptor has begun; gRPC's channel lets it go on."""

    async def keep(continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)
        await asyncio.Event().wait()
        return call

    async with _channel("balanced", server.address, (interceptor(kind, keep),)) as channel:
        call = start(channel, kind, HANG)
        await eventually(lambda: server.hanging == 1)
        assert call.cancel()
        assert StatusCode.CANCELLED is await call.code()
        await eventually(lambda: server.hanging == 0)


async def test_cancelled_awaiter_cancels(open_channel: Open, server: EchoServer) -> None:
    """Who is cancelled while awaiting the response cancels the call."""
    call = unary_unary(open_channel(interceptor("unary_unary", passing)))(HANG)
    task = asyncio.ensure_future(finish(call))
    await eventually(lambda: server.hanging == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert StatusCode.CANCELLED is await call.code()


@ALL_KINDS
async def test_done_callback(open_channel: Open, kind: str) -> None:
    """A callback gets the caller's call object, whether it is added before or after the end."""
    seen: list[Any] = []
    call = start(open_channel(interceptor(kind, passing)), kind, b"x")
    call.add_done_callback(seen.append)
    await finish(call)
    await eventually(lambda: seen == [call])
    call.add_done_callback(seen.append)
    assert [call, call] == seen


async def test_done_callback_of_a_cancelled_call(open_channel: Open) -> None:
    """A call that is cancelled in an interceptor tells so, too."""
    seen: list[Any] = []

    async def hold(*_: Any) -> Any:
        await asyncio.Event().wait()

    call = unary_unary(open_channel(interceptor("unary_unary", hold)))(b"x")
    call.add_done_callback(seen.append)
    call.cancel()
    await eventually(lambda: seen == [call])


@ALL_KINDS
async def test_close_cancels_an_interceptor(open_channel: Open, kind: str) -> None:
    """Closing the channel ends the calls that are still with an interceptor."""
    entered = asyncio.Event()

    async def hold(*_: Any) -> Any:
        entered.set()
        await asyncio.Event().wait()

    channel = open_channel(interceptor(kind, hold))
    call = start(channel, kind, b"x")
    async with asyncio.timeout(10):
        await entered.wait()
    await channel.close()
    assert StatusCode.CANCELLED is await call.code()


async def test_close_with_grace(open_channel: Open, server: EchoServer) -> None:
    """Closing with grace lets an interceptor finish that awaits its call."""

    async def louder(continuation: Any, details: Any, request: Any) -> Any:
        return (await (await continuation(details, request))).upper()

    channel = open_channel(interceptor("unary_unary", louder))
    call = unary_unary(channel)(HANG)
    await eventually(lambda: server.hanging == 1)
    closing = asyncio.ensure_future(channel.close(grace=30))
    await asyncio.sleep(0)
    server.release()
    assert b"SERVER:HANG" == await call
    async with asyncio.timeout(10):
        await closing


async def test_closed_channel(open_channel: Open) -> None:
    """A closed channel is of no use with interceptors, either."""
    channel = open_channel(interceptor("unary_unary", passing))
    call = unary_unary(channel)
    await channel.close()
    with pytest.raises(grpc.aio.UsageError):
        await call(b"x")


async def test_no_interceptor(open_channel: Open) -> None:
    """What is no interceptor is refused when the channel is made."""
    with pytest.raises(ValueError, match="UnaryUnaryClientInterceptor"):
        open_channel(object())


async def test_time_remaining(server: EchoServer) -> None:
    """It counts from the start, in the interceptors too; gRPC's channel does not tell."""
    channel = _channel("balanced", server.address, (interceptor("unary_unary", passing),))
    async with channel:
        call = unary_unary(channel)(b"x", timeout=30)
        before: Any = call.time_remaining()
        await call
        after: Any = call.time_remaining()
    assert 0 <= after <= before <= 30


async def test_once_per_call(start_server: StartServer) -> None:
    """The interceptors run once, however often the call is tried."""
    runs = 0
    servers = [await start_server(), await start_server()]
    for server in servers:
        server.refusal = StatusCode.UNAVAILABLE

    async def count(continuation: Any, details: Any, request: Any) -> Any:
        nonlocal runs
        runs += 1
        return await continuation(details, request)

    address = ",".join(server.address for server in servers)
    async with _channel("retrying", address, (interceptor("unary_unary", count),)) as channel:
        assert StatusCode.UNAVAILABLE is await unary_unary(channel)(b"x").code()
    assert 1 == runs
    assert 1 < sum(server.calls for server in servers)


async def test_several_kinds(server: EchoServer) -> None:
    """An interceptor of several kinds serves each; gRPC's channel knows only the first."""
    runs: list[str] = []

    class Both(grpc.aio.UnaryUnaryClientInterceptor, grpc.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_unary(
            self, continuation: Any, client_call_details: Any, request: Any
        ) -> Any:
            runs.append("unary")
            return await continuation(client_call_details, request)

        async def intercept_unary_stream(
            self, continuation: Any, client_call_details: Any, request: Any
        ) -> Any:
            runs.append("stream")
            return await continuation(client_call_details, request)

    async with _channel("balanced", server.address, (Both(),)) as channel:
        await finish(start(channel, "unary_unary", b"x"))
        await finish(start(channel, "unary_stream", b"x"))
    assert ["unary", "stream"] == runs


async def test_without_interceptors_nothing_is_added(server: EchoServer) -> None:
    """A kind without interceptors has the same multicallable as a channel without any."""
    channel = _channel("balanced", server.address, (interceptor("unary_stream", passing),))
    async with channel:
        assert UnaryUnary is type(unary_unary(channel))
        assert UnaryStream is not type(unary_stream(channel))
