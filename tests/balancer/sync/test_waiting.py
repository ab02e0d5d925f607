"""How calls without a thread wait, and how those with one are woken."""

from __future__ import annotations

import threading

import grpc
import pytest

from balancer.sync_call import DeferredCall, NeverSent
from balancer.sync_waiting import Changes, Waiting
from tests.balancer.sync.waiting import TIMEOUT_S, eventually, in_thread


def test_a_change_before_the_wait_is_not_missed() -> None:
    """Who waits for another version than it saw returns at once if there is one."""
    changes = Changes()
    seen = changes.version
    changes.publish()
    changes.wait(seen, None)


def test_a_change_wakes_everyone() -> None:
    """Each waiting thread returns."""
    changes = Changes()
    seen = changes.version
    threads = [in_thread(lambda: changes.wait(seen, TIMEOUT_S)) for _ in range(3)]
    changes.publish()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert [False] * 3 == [thread.is_alive() for thread in threads]


def test_places_are_limited_and_given_back() -> None:
    """One more than the limit is refused until somebody leaves."""
    waiting = Waiting(1)
    assert (True, False) == (waiting.enter(), waiting.enter())
    waiting.leave()
    assert waiting.enter()


def test_a_serializer_that_raises_ends_the_call() -> None:
    """A call that cannot be started although somebody is there is INTERNAL."""

    def begin(_: float | None) -> None:
        raise TypeError("a user's fault")

    waiting = Waiting(1)
    assert waiting.enter()
    call = DeferredCall(None, begin, waiting)
    waiting.add(call)
    assert grpc.StatusCode.INTERNAL is call.code()
    assert waiting.enter()


def test_a_cancellation_that_races_with_the_start_wins() -> None:
    """A call cancelled while it is being started is cancelled, and so is the real one."""
    starting, go_on = threading.Event(), threading.Event()
    cancelled = threading.Event()

    class Real(NeverSent):
        def __init__(self) -> None:
            pass

        def cancel(self) -> bool:
            cancelled.set()
            return True

    def begin(_: float | None) -> Real:
        starting.set()
        assert go_on.wait(TIMEOUT_S)
        return Real()

    waiting = Waiting(1)
    assert waiting.enter()
    call = DeferredCall(None, begin, waiting)
    waiting.add(call)
    assert starting.wait(TIMEOUT_S)
    assert call.cancel()
    go_on.set()
    assert cancelled.wait(TIMEOUT_S)
    assert call.cancelled()


def test_the_thread_that_places_ends_with_the_last_call() -> None:
    """It is there while a call waits, and starts again for the next."""
    waiting = Waiting(2)
    for _ in range(2):
        assert waiting.enter()
        call = DeferredCall(None, lambda _: None, waiting)
        waiting.add(call)
        assert call.running()
        with pytest.raises(grpc.FutureTimeoutError):
            call.result(timeout=0)
        call.cancel()
        eventually(lambda: not waiting._is_placing)
