"""Streams whose endpoint drains: they stay, their owner is told, and a new one goes elsewhere."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest

import balancer
from balancer import BalancedChannel, ChannelConfig
from discovery.endpoint import Endpoint
from discovery.testing import FakeResolver
from tests.balancer.calls import only, stream_stream, unary_stream
from tests.balancer.conftest import StartServer
from tests.balancer.echo import EchoServer
from tests.balancer.test_parity import Passing
from tests.balancer.test_pool import SERVICE
from tests.support.waiting import eventually


@pytest.fixture
def resolver() -> FakeResolver:
    """Knows nothing until told."""
    return FakeResolver()


@pytest.fixture
async def servers(start_server: StartServer) -> list[EchoServer]:
    """Two servers, a and b."""
    return [await start_server(name) for name in (b"a", b"b")]


@pytest.fixture(params=["bare", "intercepted"])
async def channel(
    request: pytest.FixtureRequest, resolver: FakeResolver
) -> AsyncIterator[BalancedChannel]:
    """A channel over `resolver`, with and without an interceptor."""
    interceptors = [Passing()] if request.param == "intercepted" else []
    async with balancer.channel(
        f"etcd:///{SERVICE}",
        resolver=resolver,
        config=ChannelConfig(linger_s=0.0),
        interceptors=interceptors,
    ) as made:
        yield made


async def ping(stream: Any) -> bytes:
    """Who answers on the stream."""
    await stream.write(b"x")
    response: bytes = await stream.read()
    return response.partition(b":")[0]


async def test_a_stream_is_asked_to_move_when_its_endpoint_drains(
    channel: BalancedChannel, resolver: FakeResolver, servers: list[EchoServer]
) -> None:
    """It goes on where it is until its owner opens another, which is picked elsewhere."""
    a, b = (Endpoint(server.address) for server in servers)
    resolver.set(SERVICE, [a])
    await only(channel, "a")
    stream = stream_stream(channel)()
    assert b"a" == await ping(stream)
    asked: list[Any] = []
    channel.when_draining(stream, asked.append)
    resolver.set(SERVICE, [a, b])
    await only(channel, "a", "b")
    assert [] == asked

    resolver.set(SERVICE, [replace(a, draining=True), b])
    await eventually(lambda: asked == [stream])
    assert b"a" == await ping(stream)
    other = stream_stream(channel)()
    assert b"b" == await ping(other)

    resolver.set(SERVICE, [b])
    await eventually(lambda: len(channel.facts().endpoints) == 1)
    assert [stream] == asked
    for each in (stream, other):
        await each.done_writing()
        assert grpc.aio.EOF is await each.read()


async def test_who_asks_late_is_told_at_once(
    channel: BalancedChannel, resolver: FakeResolver, servers: list[EchoServer]
) -> None:
    """Also of an endpoint that has left the registry altogether."""
    a, b = (Endpoint(server.address) for server in servers)
    resolver.set(SERVICE, [a])
    await only(channel, "a")
    stream = stream_stream(channel)()
    assert b"a" == await ping(stream)
    resolver.set(SERVICE, [b])
    await only(channel, "b")
    asked: list[Any] = []
    channel.when_draining(stream, asked.append)
    assert [stream] == asked
    stream.cancel()


async def test_a_stream_that_had_to_wait_is_asked_too(
    channel: BalancedChannel, resolver: FakeResolver, servers: list[EchoServer]
) -> None:
    """One that was made before there was a connection, and one that may be tried again."""
    a, b = (Endpoint(server.address) for server in servers)
    asked: list[Any] = []
    stream, repeatable = stream_stream(channel)(), unary_stream(channel)(b"hang later")
    for each in (stream, repeatable):
        channel.when_draining(each, asked.append)
    resolver.set(SERVICE, [a])
    assert b"a" == await ping(stream)
    assert b"a:hang later" == await repeatable.read()
    resolver.set(SERVICE, [replace(a, draining=True), b])
    await eventually(lambda: len(asked) == 2)
    assert {stream, repeatable} == set(asked)
    for each in (stream, repeatable):
        each.cancel()


async def test_a_stream_that_has_ended_is_not_asked(
    channel: BalancedChannel,
    resolver: FakeResolver,
    servers: list[EchoServer],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nor does a callback that raises cost another its news."""
    a, b = (Endpoint(server.address) for server in servers)
    resolver.set(SERVICE, [a])
    await only(channel, "a")
    ended, first, second = (stream_stream(channel)() for _ in range(3))
    for each in (ended, first, second):
        assert b"a" == await ping(each)
    await ended.done_writing()
    assert grpc.aio.EOF is await ended.read()
    asked: list[Any] = []

    def broken(_: Any) -> None:
        raise ValueError("an owner's fault")

    channel.when_draining(ended, asked.append)
    channel.when_draining(first, broken)
    channel.when_draining(second, asked.append)
    with caplog.at_level(logging.ERROR, logger="balancer.pins"):
        resolver.set(SERVICE, [replace(a, draining=True), b])
        await eventually(lambda: asked == [second])
    assert "an owner's fault" in caplog.text
    for each in (first, second):
        each.cancel()
