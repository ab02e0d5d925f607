"""One connection, as the threads that call and the loop that keeps it see it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from grpc import ChannelConnectivity

from balancer.config import ChannelConfig
from balancer.policy import Subchannel
from balancer.subchannel import Method
from balancer.sync_subchannel import SyncSubchannel
from discovery.endpoint import Endpoint
from discovery.loop_thread import LoopThread
from tests.balancer.echo import HANG, UNARY_UNARY
from tests.balancer.sync.echo import EchoServer
from tests.balancer.sync.waiting import TIMEOUT_S, eventually, in_thread

UNARY = Method("unary_unary", UNARY_UNARY)


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    """A loop in a thread."""
    thread = LoopThread("tallystick test")
    yield thread
    thread.close(lambda: asyncio.sleep(0))


class Binder:
    """Keeps nothing, and remembers whom it was to let go of."""

    def __init__(self) -> None:
        self.forgotten: list[Subchannel] = []

    def forget(self, subchannel: Subchannel) -> None:
        """Takes note of it."""
        self.forgotten.append(subchannel)


def connect(loop: LoopThread, address: str) -> SyncSubchannel:
    """A subchannel to `address`."""

    async def make() -> SyncSubchannel:
        return SyncSubchannel(Endpoint(address), ChannelConfig(), None, lambda: None)

    return loop.run(make)


def is_open(subchannel: SyncSubchannel) -> bool:
    """Whether it admits calls."""
    admitted = subchannel.acquire()
    if admitted:
        subchannel.release()
    return admitted


@pytest.fixture
def subchannel(loop: LoopThread, server: EchoServer) -> Iterator[SyncSubchannel]:
    """A subchannel that is READY."""
    made = connect(loop, server.address)
    eventually(lambda: made.state is ChannelConnectivity.READY)
    yield made
    loop.run(made.close)


def test_it_knows_why_it_failed(loop: LoopThread) -> None:
    """The reason names what the kernel said."""
    nobody = connect(loop, "127.0.0.1:1")
    eventually(lambda: nobody.state is ChannelConnectivity.TRANSIENT_FAILURE)
    assert "refused" in nobody.last_error
    assert not nobody.acquire()
    assert "<SyncSubchannel 127.0.0.1:1 TRANSIENT_FAILURE>" == repr(nobody)
    loop.run(nobody.close)


def test_a_loss_is_noticed_by_who_calls(subchannel: SyncSubchannel, server: EchoServer) -> None:
    """No call is admitted to a connection that is gone, and it comes back with the server."""
    server.stop()
    eventually(lambda: not is_open(subchannel))
    eventually(lambda: subchannel.state is not ChannelConnectivity.READY)
    assert 0 == subchannel.in_flight
    server.start()
    eventually(subchannel.acquire)


def test_a_call_that_is_refused_is_not_counted(
    loop: LoopThread, subchannel: SyncSubchannel, server: EchoServer
) -> None:
    """Neither for the connection being lost nor for being retired."""
    assert is_open(subchannel)
    server.stop()
    eventually(lambda: not is_open(subchannel))
    before = subchannel.calls
    assert not subchannel.acquire()
    loop.run(lambda: subchannel.drain(TIMEOUT_S))
    assert not subchannel.acquire()
    assert (0, before) == (subchannel.in_flight, subchannel.calls)


def test_calls_in_flight_are_counted_exactly(subchannel: SyncSubchannel) -> None:
    """However many threads begin and end calls at once."""

    def work(_: int) -> None:
        for _turn in range(200):
            assert subchannel.acquire()
            subchannel.release()
        assert subchannel.acquire()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert (8, 8 * 201) == (subchannel.in_flight, subchannel.calls)
    assert subchannel.acquire()
    assert (9, 8 * 201 + 1) == (subchannel.in_flight, subchannel.calls)


def test_draining_refuses_calls_and_waits(loop: LoopThread, subchannel: SyncSubchannel) -> None:
    """It returns when the last call in flight has ended."""
    assert subchannel.acquire()
    draining = in_thread(lambda: loop.run(lambda: subchannel.drain(TIMEOUT_S)))
    eventually(lambda: not is_open(subchannel))
    assert draining.is_alive()
    subchannel.release()
    draining.join(TIMEOUT_S)
    assert not draining.is_alive()


def test_closing_cancels_and_may_be_repeated(
    loop: LoopThread, subchannel: SyncSubchannel, server: EchoServer
) -> None:
    """Calls in flight end, and nothing can be begun."""
    call: Any = subchannel.bind(UNARY, Binder()).future(HANG)
    eventually(lambda: server.hanging == 1)
    loop.run(subchannel.close)
    loop.run(subchannel.close)
    assert call.done()
    assert (True, False) == (subchannel.closed, subchannel.acquire())


def test_who_is_bound_is_told_of_the_end(loop: LoopThread, subchannel: SyncSubchannel) -> None:
    """And what is closed binds nobody any more, since nobody would be told."""
    early, late = Binder(), Binder()
    subchannel.bind(UNARY, early)
    loop.run(subchannel.close)
    assert [subchannel] == early.forgotten
    with pytest.raises(ValueError, match="is closed"):
        subchannel.bind(UNARY, late)
