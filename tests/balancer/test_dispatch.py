"""What a policy is told: the call before the pick, and its end after it."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc import StatusCode

import balancer
from balancer import ChannelConfig, PickInfo, PickResult, Subchannel
from balancer.dispatch import CallOptions
from balancer.subchannel import AioSubchannel
from balancer.testing import FakeSubchannel
from discovery.endpoint import Endpoint
from discovery.testing import FakeResolver
from tests.balancer.calls import call, only, stream_unary, unary_stream
from tests.balancer.conftest import StartServer
from tests.balancer.echo import FAIL, HANG, STREAM_UNARY, UNARY_UNARY, EchoServer
from tests.support.waiting import eventually


class Recording:
    """Picks the first subchannel and remembers everything."""

    def __init__(self) -> None:
        self.picks: list[PickInfo] = []
        self.ends: list[StatusCode | None] = []
        self._given: tuple[Subchannel, ...] = ()

    def build(self, subchannels: Sequence[Subchannel]) -> Recording:
        """Itself, over `subchannels`."""
        self._given = tuple(subchannels)
        return self

    def pick(self, info: PickInfo) -> PickResult:
        """The first."""
        self.picks.append(info)
        return PickResult(self._given[0], self.ends.append)


async def test_what_a_pick_is_told(server: EchoServer) -> None:
    """A policy sees method, metadata and, if there is one, the request message."""
    policy = Recording()
    async with balancer.channel(f"static:///{server.address}", policy=policy) as channel:
        await channel.channel_ready()
        upper: grpc.aio.UnaryUnaryMultiCallable[str, bytes]
        upper = channel.unary_unary(UNARY_UNARY, request_serializer=str.encode)
        await upper("x", metadata=(("key", "value"),))
        await stream_unary(channel)(iter([b"x"]))
    expected = [
        PickInfo(UNARY_UNARY, (("key", "value"),), "x"),
        PickInfo(STREAM_UNARY, (), None),
    ]
    assert expected == policy.picks


@pytest.mark.parametrize("deferred", [False, True])
async def test_the_hook_is_told_how_it_ended(server: EchoServer, *, deferred: bool) -> None:
    """The completion hook gets the status code of each call, once."""
    policy = Recording()
    async with balancer.channel(f"static:///{server.address}", policy=policy) as channel:
        if not deferred:
            await channel.channel_ready()
        await call(channel)
        await call(channel, FAIL).code()
        await call(channel, HANG, timeout=0.1).code()
        cancelled = call(channel, HANG)
        await eventually(lambda: server.hanging == 1)
        cancelled.cancel()
        assert 3 == len([response async for response in unary_stream(channel)(b"x")])
        await eventually(lambda: len(policy.ends) == 5)
    assert [
        StatusCode.OK,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.CANCELLED,
        StatusCode.OK,
    ] == policy.ends


async def test_a_pick_that_came_too_late_is_given_back(start_server: StartServer) -> None:
    """The hook of a pick whose connection was just lost is told that nothing started."""
    servers = [await start_server(name) for name in (b"a", b"b")]
    policy = Recording()
    target = "static:///" + ",".join(server.address for server in servers)
    async with balancer.channel(target, policy=policy) as channel:
        await eventually(lambda: len(policy._given) == 2)
        first = next(each for each in servers if each.address == policy._given[0].endpoint.address)
        lost = channel._pool._subchannels[first.address]
        assert isinstance(lost, AioSubchannel)
        stopping = asyncio.ensure_future(first.stop())
        await asyncio.sleep(0)
        give_up = time.monotonic() + 10
        while lost._channel.get_state() is grpc.ChannelConnectivity.READY:
            assert time.monotonic() < give_up
        await call(channel)
        await stopping
    assert [None, StatusCode.OK] == policy.ends


async def test_a_call_that_cannot_be_made_is_given_back(server: EchoServer) -> None:
    """The hook of a pick whose call gRPC refuses to make is told that nothing started."""
    policy = Recording()
    async with balancer.channel(f"static:///{server.address}", policy=policy) as channel:
        await channel.channel_ready()
        for _ in range(2):
            with pytest.raises(TypeError):
                call(channel, metadata=5)
        await call(channel)
    assert [None, None, StatusCode.OK] == policy.ends


async def test_what_is_closed_is_forgotten(start_server: StartServer) -> None:
    """A stub that outlives an endpoint does not keep its connection in memory."""
    servers = [await start_server(name) for name in (b"a", b"b")]
    resolver = FakeResolver()
    resolver.set("tallystick/echo", [server.address for server in servers])
    config = ChannelConfig(linger_s=0.0)
    async with balancer.channel("echo", resolver=resolver, config=config) as channel:
        await only(channel, "a", "b")
        unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(UNARY_UNARY)
        assert {b"a:x", b"b:x"} == {await unary(b"x") for _ in range(2)}
        gone = weakref.ref(channel._pool._subchannels[servers[0].address])

        resolver.set("tallystick/echo", [servers[1].address])

        await eventually(lambda: gc.collect() >= 0 and gone() is None)
        assert b"b:x" == await unary(b"x")


async def test_a_late_pick_does_not_bring_back_what_is_closed(server: EchoServer) -> None:
    """A stub that a stale picker sends to a closed subchannel keeps nothing of it."""
    async with balancer.channel(f"static:///{server.address}") as channel:
        await channel.channel_ready()
        closed = channel._pool._subchannels[server.address]
        stub: Any = channel.unary_unary(UNARY_UNARY)
        dispatcher = stub._dispatcher
        await closed.close()
        options = CallOptions(None, None, None, None, None)
        late = dispatcher._attempt(PickResult(closed), b"x", options)
        assert (None, {}) == (late, dispatcher._bound)


class Foreign(Recording):
    """Picks what it was not given."""

    def pick(self, info: PickInfo) -> PickResult:
        """A subchannel from nowhere."""
        return PickResult(FakeSubchannel(Endpoint("10.9.9.9:1")))


async def test_a_foreign_subchannel_is_an_error(server: EchoServer) -> None:
    """A policy that picks a subchannel of its own invention is told so."""
    async with balancer.channel(f"static:///{server.address}", policy=Foreign()) as channel:
        await channel.channel_ready()
        with pytest.raises(TypeError, match="not given"):
            call(channel)
