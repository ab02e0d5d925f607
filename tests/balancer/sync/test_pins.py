"""Streams of threads whose endpoint drains: their owner is told, and a new one goes elsewhere."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from balancer import ChannelConfig
from balancer.sync_channel import BalancedSyncChannel, sync_channel
from discovery.endpoint import Endpoint
from tests.balancer.echo import STREAM_STREAM
from tests.balancer.sync.conftest import StartServer
from tests.balancer.sync.echo import EchoServer
from tests.balancer.sync.resolvers import SERVICE, LoopBoundResolver
from tests.balancer.sync.test_parity import Passing
from tests.balancer.sync.waiting import TIMEOUT_S, eventually, only


@pytest.fixture
def resolver() -> LoopBoundResolver:
    """Knows nothing until told."""
    return LoopBoundResolver()


@pytest.fixture
def servers(start_server: StartServer) -> list[EchoServer]:
    """Two servers, a and b."""
    return [start_server(name) for name in (b"a", b"b")]


@pytest.fixture(params=["bare", "intercepted"])
def channel(
    request: pytest.FixtureRequest, resolver: LoopBoundResolver
) -> Iterator[BalancedSyncChannel]:
    """A channel over `resolver`, with and without an interceptor."""
    interceptors = [Passing()] if request.param == "intercepted" else []
    with sync_channel(
        f"etcd:///{SERVICE}",
        resolver=resolver,
        config=ChannelConfig(linger_s=0.0),
        interceptors=interceptors,
    ) as made:
        yield made


class Talk:
    """A stream of requests and responses that goes on until `end`."""

    def __init__(self, channel: BalancedSyncChannel) -> None:
        self._requests: queue.Queue[bytes | None] = queue.Queue()
        multicallable: Any = channel.stream_stream(STREAM_STREAM)
        self.call = multicallable(iter(self._requests.get, None))

    def ping(self) -> bytes:
        """Who answers."""
        self._requests.put(b"x")
        response: bytes = next(self.call)
        return response.partition(b":")[0]

    def end(self) -> None:
        """Ends it well."""
        self._requests.put(None)
        assert [] == list(self.call)


def test_a_stream_is_asked_to_move_when_its_endpoint_drains(
    channel: BalancedSyncChannel, resolver: LoopBoundResolver, servers: list[EchoServer]
) -> None:
    """It goes on where it is until its owner opens another, which is picked elsewhere."""
    a, b = (Endpoint(server.address) for server in servers)
    resolver.set(a)
    only(channel, "a")
    talk = Talk(channel)
    assert b"a" == talk.ping()
    asked: list[Any] = []
    channel.when_draining(talk.call, asked.append)
    resolver.set(a, b)
    only(channel, "a", "b")
    assert [] == asked

    resolver.set(replace(a, draining=True), b)
    eventually(lambda: asked == [talk.call])
    assert b"a" == talk.ping()
    other = Talk(channel)
    assert b"b" == other.ping()
    late: list[Any] = []
    channel.when_draining(talk.call, late.append)
    eventually(lambda: late == [talk.call])
    talk.end()
    other.end()
    assert [talk.call] == asked


def test_a_callback_may_take_its_time(
    channel: BalancedSyncChannel, resolver: LoopBoundResolver, servers: list[EchoServer]
) -> None:
    """It runs beside the channel, which goes on, and may itself make calls."""
    a, b = (Endpoint(server.address) for server in servers)
    resolver.set(a)
    only(channel, "a")
    talk = Talk(channel)
    assert b"a" == talk.ping()
    done, goes_on = threading.Event(), threading.Event()

    def move(_: Any) -> None:
        assert goes_on.wait(TIMEOUT_S)
        only(channel, "b")
        done.set()

    channel.when_draining(talk.call, move)
    resolver.set(replace(a, draining=True), b)
    only(channel, "b")
    goes_on.set()
    assert done.wait(TIMEOUT_S)
    talk.end()
