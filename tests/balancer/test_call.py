"""Calls that have to wait: what they wait for, what ends them, how many may wait."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc import StatusCode

import balancer
from balancer import BalancedChannel, ChannelConfig, PickInfo, PickResult, Subchannel
from discovery.testing import FakeResolver
from tests.balancer.calls import call, stream_stream, unary_stream
from tests.balancer.echo import EchoServer
from tests.balancer.waiting import reaches
from tests.support.waiting import eventually

SERVICE = "tallystick/echo"
TARGET = f"etcd:///{SERVICE}"
FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE

MakeChannel = Callable[..., BalancedChannel]


@pytest.fixture
def resolver() -> FakeResolver:
    """Knows nothing until told."""
    return FakeResolver()


@pytest.fixture
async def make_channel(resolver: FakeResolver) -> AsyncIterator[MakeChannel]:
    """Makes channels over `resolver` and closes them afterwards."""
    made: list[BalancedChannel] = []

    def make(*, policy: Any = "round_robin", **limits: Any) -> BalancedChannel:
        config = ChannelConfig(**limits)
        made.append(balancer.channel(TARGET, resolver=resolver, policy=policy, config=config))
        return made[-1]

    yield make
    for channel in made:
        await channel.close()


@pytest.fixture
async def channel(make_channel: MakeChannel) -> BalancedChannel:
    """A channel whose target is not resolved yet."""
    return make_channel()


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Connections are made and nothing is ever said: gRPC stays CONNECTING."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def error_of(call: Awaitable[Any]) -> tuple[StatusCode, str]:
    """Code and details of the error that `call` raises."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), raised.value.details() or ""


async def unused_address(server: EchoServer) -> str:
    """An address where nobody listens any more."""
    await server.stop()
    return server.address


async def test_unresolved_calls_wait_for_endpoints(
    channel: BalancedChannel, resolver: FakeResolver, server: EchoServer
) -> None:
    """Calls made before the first answer of the registry go through after it."""
    calls = [call(channel, b"%d" % number) for number in range(20)]
    await asyncio.sleep(0)
    resolver.set(SERVICE, [server.address])
    assert [b"server:%d" % number for number in range(20)] == await asyncio.gather(*calls)


async def test_unresolved_until_the_deadline(channel: BalancedChannel) -> None:
    """A call to an unresolved target waits until its deadline and no longer."""
    code, details = await error_of(call(channel, timeout=0.1))
    assert StatusCode.DEADLINE_EXCEEDED is code
    assert "waiting for a connection" in details


async def test_connecting_until_the_deadline(
    channel: BalancedChannel, resolver: FakeResolver, silent_address: str
) -> None:
    """A call waits while an endpoint is being connected, until its deadline."""
    resolver.set(SERVICE, [silent_address])
    code, _ = await error_of(call(channel, timeout=0.2))
    assert StatusCode.DEADLINE_EXCEEDED is code


async def test_the_default_timeout(make_channel: MakeChannel) -> None:
    """A unary call without a timeout has the channel's, waiting included."""
    code, _ = await error_of(call(make_channel(default_timeout_s=0.1)))
    assert StatusCode.DEADLINE_EXCEEDED is code


async def test_waiting_counts(
    channel: BalancedChannel, resolver: FakeResolver, server: EchoServer
) -> None:
    """What a call has waited is gone from the time its server is given."""
    waiting = call(channel, b"hang", timeout=0.5)
    await eventually(lambda: waiting.time_remaining() <= 0.25)
    resolver.set(SERVICE, [server.address])
    await eventually(lambda: server.hanging == 1)
    assert waiting.time_remaining() <= 0.25
    assert StatusCode.DEADLINE_EXCEEDED is await waiting.code()


async def test_no_endpoints_fail_at_once(channel: BalancedChannel, resolver: FakeResolver) -> None:
    """With nobody serving the target a call fails and says so by the target's name."""
    resolver.set(SERVICE, [])
    expected = (StatusCode.UNAVAILABLE, f"{TARGET}: no endpoints")
    assert expected == await error_of(call(channel))
    assert expected == await error_of(call(channel))


async def test_a_resolver_error_fails_at_once(
    channel: BalancedChannel, resolver: FakeResolver
) -> None:
    """While the registry was never reached a call fails with the resolver's reason."""
    resolver.fail(SERVICE, "etcd is down")
    expected = f"{TARGET}: not resolved (resolver: etcd is down)"
    assert (StatusCode.UNAVAILABLE, expected) == await error_of(call(channel))


async def test_a_resolver_error_later_changes_nothing(
    channel: BalancedChannel, resolver: FakeResolver, server: EchoServer
) -> None:
    """A registry that is lost later leaves the endpoints that were known."""
    resolver.set(SERVICE, [server.address])
    await call(channel)
    resolver.fail(SERVICE, "etcd is down")
    await asyncio.sleep(0)
    assert b"server:x" == await call(channel)


async def test_unreachable_endpoints_fail_at_once(
    channel: BalancedChannel, resolver: FakeResolver, server: EchoServer
) -> None:
    """When no endpoint can be reached a call fails with the last connection error."""
    address = await unused_address(server)
    resolver.set(SERVICE, [address])
    code, details = await error_of(call(channel))
    assert StatusCode.UNAVAILABLE is code
    assert details.startswith(f"{TARGET}: none of 1 endpoints can be reached, {address}: ")
    assert "refused" in details
    assert FAILED is channel.get_state()


async def test_wait_for_ready_waits_out_a_failure(
    channel: BalancedChannel, resolver: FakeResolver, server: EchoServer
) -> None:
    """A call that is willing to wait goes through when the server comes back."""
    resolver.set(SERVICE, [await unused_address(server)])
    await reaches(channel, FAILED)
    waiting = call(channel, wait_for_ready=True)
    await asyncio.sleep(0)
    assert not waiting.done()
    await server.start()
    assert b"server:x" == await waiting


async def test_wait_for_ready_until_the_deadline(
    channel: BalancedChannel, resolver: FakeResolver
) -> None:
    """A call that is willing to wait does so until its deadline."""
    resolver.set(SERVICE, [])
    code, _ = await error_of(call(channel, wait_for_ready=True, timeout=0.1))
    assert StatusCode.DEADLINE_EXCEEDED is code


async def test_waiting_calls_fail_when_hope_is_gone(
    channel: BalancedChannel, resolver: FakeResolver
) -> None:
    """Calls that wait for the first answer fail when it is that there is nobody."""
    waiting, patient = call(channel), call(channel, wait_for_ready=True)
    await asyncio.sleep(0)
    resolver.set(SERVICE, [])
    assert (StatusCode.UNAVAILABLE, f"{TARGET}: no endpoints") == await error_of(waiting)
    assert not patient.done()
    patient.cancel()


async def test_a_failed_call_has_every_accessor(
    channel: BalancedChannel, resolver: FakeResolver
) -> None:
    """A call that reached no server answers all questions, before and after its end."""
    resolver.set(SERVICE, [])
    seen: list[Any] = []
    failed = call(channel)
    failed.add_done_callback(seen.append)
    await error_of(failed)
    failed.add_done_callback(seen.append)
    assert [failed, failed] == seen
    assert (True, False, False) == (failed.done(), failed.cancelled(), failed.cancel())
    assert StatusCode.UNAVAILABLE is await failed.code()
    assert "" == await failed.debug_error_string()
    assert grpc.aio.Metadata() == await failed.initial_metadata()
    assert grpc.aio.Metadata() == await failed.trailing_metadata()
    assert StatusCode.UNAVAILABLE is (await error_of(failed.wait_for_connection()))[0]


async def test_failed_streams(channel: BalancedChannel, resolver: FakeResolver) -> None:
    """A stream that reached no server raises from whichever end one asks."""
    resolver.set(SERVICE, [])
    stream: Any = stream_stream(channel)()
    assert StatusCode.UNAVAILABLE is (await error_of(stream.write(b"x")))[0]
    with pytest.raises(asyncio.InvalidStateError):
        await stream.write(b"x")
    await stream.done_writing()
    assert StatusCode.UNAVAILABLE is (await error_of(stream.read()))[0]
    responses: Any = unary_stream(channel)(b"x")
    assert StatusCode.UNAVAILABLE is (await error_of(anext(aiter(responses))))[0]


@pytest.mark.parametrize("end", ["response", "caller"])
async def test_cancelling_a_waiting_call(
    channel: BalancedChannel, resolver: FakeResolver, server: EchoServer, end: str
) -> None:
    """A waiting call that is cancelled never reaches a server."""
    waiting = call(channel)
    caller = asyncio.ensure_future(_result(waiting))
    await asyncio.sleep(0)
    if end == "response":
        assert waiting.cancel()
    else:
        caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert waiting.cancelled()
    resolver.set(SERVICE, [server.address])
    await call(channel)
    assert 1 == server.calls


async def _result(call: Any) -> Any:
    return await call


async def test_the_queue_is_limited(
    make_channel: MakeChannel, resolver: FakeResolver, server: EchoServer
) -> None:
    """One call more than may wait is refused; room that is freed is used."""
    channel = make_channel(max_queued_calls=2)
    first, second, third = (call(channel) for _ in range(3))
    code, details = await error_of(third)
    assert StatusCode.RESOURCE_EXHAUSTED is code
    assert "2 calls wait" in details
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await eventually(lambda: not call_refused(channel))
    resolver.set(SERVICE, [server.address])
    assert b"server:x" == await second


def call_refused(channel: BalancedChannel) -> bool:
    """Whether a call made now is over at once."""
    probe = call(channel)
    return not probe.cancel()


async def test_a_failing_target_fills_no_queue(
    make_channel: MakeChannel, resolver: FakeResolver
) -> None:
    """Calls that fail at once take no place in the queue."""
    channel = make_channel(max_queued_calls=1)
    resolver.set(SERVICE, [])
    await reaches(channel, FAILED)
    calls = [call(channel) for _ in range(5)]
    assert {StatusCode.UNAVAILABLE} == {await each.code() for each in calls}


class BrokenPolicy:
    """A policy whose picker raises."""

    def build(self, subchannels: Sequence[Subchannel]) -> BrokenPolicy:
        """Itself."""
        return self

    def pick(self, info: PickInfo) -> PickResult:
        """Nothing."""
        raise ZeroDivisionError("policy")


async def test_a_policy_that_raises(
    make_channel: MakeChannel, resolver: FakeResolver, server: EchoServer
) -> None:
    """A waiting call that the policy fails on ends with INTERNAL; it does not hang."""
    channel = make_channel(policy=BrokenPolicy())
    waiting = call(channel)
    resolver.set(SERVICE, [server.address])
    assert StatusCode.INTERNAL is (await error_of(waiting))[0]


async def test_close_cancels_waiting_calls(channel: BalancedChannel) -> None:
    """Closing a channel cancels the calls that wait on it."""
    waiting = call(channel)
    await channel.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert StatusCode.CANCELLED is await waiting.code()


async def test_close_with_grace_lets_waiting_calls_through(
    channel: BalancedChannel, resolver: FakeResolver, server: EchoServer
) -> None:
    """Within the grace a waiting call may still find its connection and finish."""
    waiting = call(channel)
    closing = asyncio.ensure_future(channel.close(grace=30))
    await asyncio.sleep(0)
    with pytest.raises(grpc.aio.UsageError):
        call(channel)
    resolver.set(SERVICE, [server.address])
    assert b"server:x" == await waiting
    async with asyncio.timeout(10):
        await closing
