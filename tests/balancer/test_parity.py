"""What a caller sees of a call, the same on three channels.

`plain` is gRPC's own channel and the reference. `balanced` has a connection, so that the
call is gRPC's own; `deferred` has none when the call is made, so that the call is ours;
`intercepted` has an interceptor that passes everything on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc import StatusCode

import balancer
from tests.balancer.calls import stream_stream, stream_unary, unary_stream, unary_unary
from tests.balancer.echo import (
    FAIL,
    FAIL_LATER,
    HANG,
    UNARY_UNARY,
    EchoServer,
)
from tests.balancer.waiting import TIMEOUT_S
from tests.support.waiting import eventually

Call = Any


class Passing(
    grpc.aio.UnaryUnaryClientInterceptor,
    grpc.aio.UnaryStreamClientInterceptor,
    grpc.aio.StreamUnaryClientInterceptor,
    grpc.aio.StreamStreamClientInterceptor,
):
    """Passes the calls of all kinds on."""

    async def _intercept(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details, request)

    intercept_unary_unary: Any = _intercept
    intercept_unary_stream: Any = _intercept
    intercept_stream_unary: Any = _intercept
    intercept_stream_stream: Any = _intercept


@pytest.fixture(params=["plain", "balanced", "deferred", "intercepted"])
async def channel(
    request: pytest.FixtureRequest, server: EchoServer
) -> AsyncIterator[grpc.aio.Channel]:
    """The channel under test."""
    if request.param == "plain":
        made = grpc.aio.insecure_channel(server.address)
    elif request.param in ("balanced", "intercepted"):
        interceptors = [Passing()] if request.param == "intercepted" else []
        made = balancer.channel(f"static:///{server.address}", interceptors=interceptors)
        await made.channel_ready()
    else:
        made = balancer.channel(f"static:///{server.address}")
    async with made:
        yield made


ALL_KINDS = pytest.mark.parametrize(
    "kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
)


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


async def numbers() -> AsyncIterator[bytes]:
    """Two requests."""
    for number in (b"1", b"2"):
        yield number


async def test_unary_unary(channel: grpc.aio.Channel) -> None:
    """Awaiting the call gives the response, as often as one asks."""
    call = unary_unary(channel)(b"hello")
    assert b"server:hello" == await call
    assert b"server:hello" == await call


async def test_unary_stream_iterated(channel: grpc.aio.Channel) -> None:
    """Iterating gives each response in order."""
    call = unary_stream(channel)(b"x")
    assert [b"server:x"] * 3 == [response async for response in call]


async def test_unary_stream_read(channel: grpc.aio.Channel) -> None:
    """Reading gives each response and then EOF, and EOF again."""
    call = unary_stream(channel)(b"x")
    assert [b"server:x"] * 3 == [await call.read() for _ in range(3)]
    assert grpc.aio.EOF is await call.read()
    assert grpc.aio.EOF is await call.read()


@pytest.mark.parametrize("form", ["async", "list", "generator"])
async def test_stream_unary_from_an_iterator(channel: grpc.aio.Channel, form: str) -> None:
    """Requests may come from an asynchronous or a plain iterable."""

    def plain() -> Iterator[bytes]:
        yield from (b"1", b"2")

    requests: Any = {"async": numbers(), "list": [b"1", b"2"], "generator": plain()}[form]
    assert b"server:1,server:2" == await stream_unary(channel)(requests)


async def test_stream_unary_written(channel: grpc.aio.Channel) -> None:
    """Requests may be written one by one, and done_writing may be repeated."""
    call = stream_unary(channel)()
    await call.write(b"1")
    await call.write(b"2")
    await call.done_writing()
    await call.done_writing()
    assert b"server:1,server:2" == await call


async def test_writing_after_the_end(channel: grpc.aio.Channel) -> None:
    """A write after the call has ended is an invalid state, done_writing is nothing."""
    call = stream_unary(channel)()
    await call.done_writing()
    await call
    await call.done_writing()
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(b"late")


async def test_stream_stream_iterated(channel: grpc.aio.Channel) -> None:
    """Both directions may be iterated."""
    call = stream_stream(channel)(numbers())
    assert [b"server:1", b"server:2"] == [response async for response in call]


async def test_stream_stream_ping_pong(channel: grpc.aio.Channel) -> None:
    """Reads and writes may alternate."""
    call = stream_stream(channel)()
    for message in (b"1", b"2"):
        await call.write(message)
        assert b"server:" + message == await call.read()
    await call.done_writing()
    assert grpc.aio.EOF is await call.read()
    assert StatusCode.OK is await call.code()


async def test_styles_do_not_mix(channel: grpc.aio.Channel) -> None:
    """Writing to a call that was given an iterator is a usage error."""
    call = stream_unary(channel)(numbers())
    with pytest.raises(grpc.aio.UsageError):
        await call.write(b"3")
    await call


async def test_a_request_iterator_that_raises(channel: grpc.aio.Channel) -> None:
    """A request iterator that raises cancels the call."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"1"
        raise ValueError("broken")

    call = stream_unary(channel)(broken())
    with pytest.raises(asyncio.CancelledError):
        await call
    assert StatusCode.CANCELLED is await call.code()


@ALL_KINDS
async def test_metadata(channel: grpc.aio.Channel, server: EchoServer, kind: str) -> None:
    """Metadata travels both ways and is there before and after the responses."""
    call = start(channel, kind, b"x", metadata=(("key", "value"), ("key-bin", b"\x00\xff")))
    assert "server" == (await call.initial_metadata())["server"]
    await finish(call)
    assert "end" == (await call.trailing_metadata())["trailer"]
    assert ("key", "value") in server.metadata
    assert ("key-bin", b"\x00\xff") in server.metadata


@ALL_KINDS
async def test_status_of_a_success(channel: grpc.aio.Channel, kind: str) -> None:
    """A call that succeeded is done, not cancelled, OK and without details."""
    call = start(channel, kind, b"x")
    await finish(call)
    assert StatusCode.OK is await call.code()
    assert "" == await call.details()
    assert (True, False, False) == (call.done(), call.cancelled(), call.cancel())


@ALL_KINDS
async def test_status_of_a_failure(
    channel: grpc.aio.Channel, server: EchoServer, kind: str
) -> None:
    """A server's error is raised with its code, details and metadata, as the call has them."""
    call = start(channel, kind, FAIL if kind == "unary_unary" else FAIL_LATER)
    if kind != "unary_unary":
        # In gRPC a status that is there first stands for the end of a stream without metadata.
        await call.initial_metadata()
        server.release()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await finish(call)
    error = raised.value
    assert StatusCode.FAILED_PRECONDITION is error.code() is await call.code()
    assert "as asked" == error.details() == await call.details()
    assert "server" == error.initial_metadata()["server"]
    assert "end" == error.trailing_metadata()["trailer"]
    assert "as asked" in await call.debug_error_string()


async def test_unknown_method(channel: grpc.aio.Channel) -> None:
    """A method that the server lacks is UNIMPLEMENTED."""
    missing: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/no.Such/Method")
    assert StatusCode.UNIMPLEMENTED is await missing(b"").code()


@ALL_KINDS
async def test_deadline(channel: grpc.aio.Channel, kind: str) -> None:
    """A call that outlasts its timeout ends with DEADLINE_EXCEEDED."""
    call = start(channel, kind, HANG, timeout=0.3)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await finish(call)
    assert StatusCode.DEADLINE_EXCEEDED is raised.value.code()
    assert not call.cancelled()


@ALL_KINDS
async def test_a_timeout_in_the_past(channel: grpc.aio.Channel, kind: str) -> None:
    """A call whose time is up from the start ends with DEADLINE_EXCEEDED."""
    call = start(channel, kind, b"x", timeout=-1)
    assert StatusCode.DEADLINE_EXCEEDED is await call.code()


@ALL_KINDS
async def test_time_remaining(channel: grpc.aio.Channel, kind: str) -> None:
    """The time remaining is at most the timeout, and not negative."""
    call = start(channel, kind, b"x", timeout=20)
    assert 0 < call.time_remaining() <= 20
    await finish(call)
    assert 0 < call.time_remaining() <= 20


async def test_no_deadline_on_streams(channel: grpc.aio.Channel) -> None:
    """A stream without a timeout has none."""
    call = unary_stream(channel)(b"x")
    assert call.time_remaining() is None
    await finish(call)


@ALL_KINDS
async def test_cancel_at_once(channel: grpc.aio.Channel, kind: str) -> None:
    """A call cancelled as soon as it is made raises CancelledError and has that status."""
    call = start(channel, kind, b"x")
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finish(call)
    assert call.cancelled()
    assert call.done()
    assert not call.cancel()
    assert StatusCode.CANCELLED is await call.code()
    assert "Locally cancelled by application!" == await call.details()


@ALL_KINDS
async def test_cancel_under_way(channel: grpc.aio.Channel, server: EchoServer, kind: str) -> None:
    """Cancelling a call that a server is working on ends it there too."""
    call = start(channel, kind, HANG)
    await eventually(lambda: server.hanging == 1)
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finish(call)
    assert StatusCode.CANCELLED is await call.code()
    await eventually(lambda: server.hanging == 0)


# Not for streamed responses: grpc.aio 1.85 itself now and then loses that cancellation.
@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary"])
async def test_cancelling_the_caller(
    channel: grpc.aio.Channel, server: EchoServer, kind: str
) -> None:
    """A task that is cancelled while it waits for a response takes the call with it."""
    call = start(channel, kind, HANG)
    caller = asyncio.ensure_future(finish(call))
    await eventually(lambda: server.hanging == 1)
    caller.cancel()
    async with asyncio.timeout(TIMEOUT_S):
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert StatusCode.CANCELLED is await call.code()
    await eventually(lambda: server.hanging == 0)


@ALL_KINDS
async def test_asking_for_the_status_does_not_cancel(channel: grpc.aio.Channel, kind: str) -> None:
    """Who stops waiting for the status leaves the call alone."""
    call = start(channel, kind, b"x")
    watcher = asyncio.ensure_future(call.code())
    await asyncio.sleep(0)
    watcher.cancel()
    await finish(call)
    assert StatusCode.OK is await call.code()


@ALL_KINDS
async def test_done_callbacks(channel: grpc.aio.Channel, kind: str) -> None:
    """A callback gets the call itself, once, whether added before or after the end."""
    seen: list[Call] = []
    call = start(channel, kind, b"x")
    call.add_done_callback(seen.append)
    await finish(call)
    await call.code()
    assert [call] == seen
    call.add_done_callback(seen.append)
    await eventually(lambda: len(seen) == 2)
    assert [call, call] == seen


@ALL_KINDS
async def test_wait_for_connection(channel: grpc.aio.Channel, kind: str) -> None:
    """Waiting for the connection returns, and the call goes on."""
    call = start(channel, kind, b"x")
    await call.wait_for_connection()
    assert b"server:x" == (await finish(call))[0]


@ALL_KINDS
@pytest.mark.parametrize("wait_for_ready", [True, False, None])
async def test_wait_for_ready(
    channel: grpc.aio.Channel, kind: str, wait_for_ready: bool | None
) -> None:
    """With a server that can be reached it makes no difference."""
    responses = await finish(start(channel, kind, b"x", wait_for_ready=wait_for_ready))
    assert b"server:x" == responses[0]


@ALL_KINDS
async def test_compression(channel: grpc.aio.Channel, server: EchoServer, kind: str) -> None:
    """The compression asked for is announced to the server."""
    call = start(channel, kind, b"x" * 5000, compression=grpc.Compression.Gzip)
    assert b"server:" + b"x" * 5000 == (await finish(call))[0]


@ALL_KINDS
async def test_call_classes(channel: grpc.aio.Channel, kind: str) -> None:
    """A call is an instance of the grpc.aio class of its kind."""
    classes = {
        "unary_unary": grpc.aio.UnaryUnaryCall,
        "unary_stream": grpc.aio.UnaryStreamCall,
        "stream_unary": grpc.aio.StreamUnaryCall,
        "stream_stream": grpc.aio.StreamStreamCall,
    }
    call = start(channel, kind, b"x")
    assert isinstance(call, classes[kind])
    await finish(call)


async def test_serializers(channel: grpc.aio.Channel) -> None:
    """Requests and responses go through the stub's functions."""
    length: grpc.aio.UnaryUnaryMultiCallable[str, int] = channel.unary_unary(
        UNARY_UNARY, request_serializer=str.encode, response_deserializer=len
    )
    assert len(b"server:abc") == await length("abc")


async def test_many_calls_at_once(channel: grpc.aio.Channel) -> None:
    """Concurrent calls each get their own response."""
    call = unary_unary(channel)
    responses = await asyncio.gather(*(call(b"%d" % number) for number in range(200)))
    assert [b"server:%d" % number for number in range(200)] == responses


async def test_states(channel: grpc.aio.Channel) -> None:
    """A channel becomes READY, and is SHUTDOWN and of no use once closed."""
    async with asyncio.timeout(10):
        await channel.channel_ready()
    assert grpc.ChannelConnectivity.READY is channel.get_state()
    watch = asyncio.ensure_future(channel.wait_for_state_change(grpc.ChannelConnectivity.READY))
    await asyncio.sleep(0)
    await channel.close()
    async with asyncio.timeout(10):
        await watch
    assert grpc.ChannelConnectivity.SHUTDOWN is channel.get_state()
    with pytest.raises(grpc.aio.UsageError):
        unary_unary(channel)(b"x")


@ALL_KINDS
async def test_close_cancels(channel: grpc.aio.Channel, server: EchoServer, kind: str) -> None:
    """Closing without grace cancels the calls under way."""
    call = start(channel, kind, HANG)
    await eventually(lambda: server.hanging == 1)
    await channel.close()
    assert StatusCode.CANCELLED is await call.code()


async def test_close_with_grace(channel: grpc.aio.Channel, server: EchoServer) -> None:
    """Closing with grace lets a call under way finish, and returns then."""
    call = unary_unary(channel)(HANG)
    await eventually(lambda: server.hanging == 1)
    closing = asyncio.ensure_future(channel.close(grace=30))
    server.release()
    assert b"server:hang" == await call
    async with asyncio.timeout(10):
        await closing


async def test_close_cancels_after_the_grace(channel: grpc.aio.Channel, server: EchoServer) -> None:
    """What is not done when the grace is over is cancelled."""
    call = unary_unary(channel)(HANG)
    await eventually(lambda: server.hanging == 1)
    await channel.close(grace=0.05)
    assert StatusCode.CANCELLED is await call.code()


async def test_negative_grace(channel: grpc.aio.Channel) -> None:
    """A negative grace is refused."""
    with pytest.raises(ValueError, match="grace"):
        await channel.close(grace=-1)
