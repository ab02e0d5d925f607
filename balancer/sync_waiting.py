"""Calls of threads that wait for a connection: how they are woken, counted and placed.

A blocking call waits in its own thread. A future or a stream has none to wait in, so that
one thread, which lives only as long as there are any, places them all; gRPC serves the
calls of a channel in the same way. Nothing of a user's runs on the event loop.
"""

from __future__ import annotations

import threading
from typing import Final, Protocol

from balancer.metrics import NO_METRICS, ChannelMetrics

_CLOSED: Final = "Cannot invoke RPC on closed channel!"


class Changes:
    """How threads learn that something is not as they last saw it.

    Who waits reads `version` first, then looks, then waits for another version.
    """

    def __init__(self) -> None:
        self.version = 0
        self._condition = threading.Condition()

    def publish(self) -> None:
        """Wakes everyone who waits."""
        with self._condition:
            self.version += 1
            self._condition.notify_all()

    def wait(self, seen: int, timeout_s: float | None) -> None:
        """Returns when `version` is not `seen`, or after `timeout_s`."""
        with self._condition:
            self._condition.wait_for(lambda: self.version != seen, timeout_s)


class Placeable(Protocol):
    """A call that waits without a thread."""

    def advance(self) -> None:
        """Starts it if that can be done now, ends it if it must not wait any longer."""

    def is_waiting(self) -> bool:
        """Whether it has neither started nor ended."""

    def due_in(self) -> float | None:
        """Seconds until it is to be advanced in any case; None if never."""


class Waiting:
    """The calls of a channel that wait for a connection, at most `limit`."""

    def __init__(self, limit: int, metrics: ChannelMetrics = NO_METRICS) -> None:
        self.limit = limit
        self._metrics = metrics
        self.changes = Changes()
        self.closed = False
        self._lock = threading.Lock()
        self._count = 0
        self._calls: list[Placeable] = []
        self._is_placing = False

    def check_open(self) -> None:
        """Raises ValueError once closed, as gRPC's channel does."""
        if self.closed:
            raise ValueError(_CLOSED)

    def enter(self) -> bool:
        """Counts one more; False if that would be too many."""
        with self._lock:
            if self._count >= self.limit:
                return False
            self._count += 1
        self._metrics.wait_began()
        return True

    def leave(self) -> None:
        """Counts one less."""
        with self._lock:
            self._count -= 1
        self._metrics.wait_ended()

    def __len__(self) -> int:
        return self._count

    def add(self, call: Placeable) -> None:
        """Has `call`, which has entered, advanced at every change and when it is due."""
        with self._lock:
            self._calls.append(call)
            if not self._is_placing:
                self._is_placing = True
                threading.Thread(
                    target=self._place, name="tallystick waiting calls", daemon=True
                ).start()
        self.changes.publish()

    def close(self) -> None:
        """Has every call end."""
        self.closed = True
        self.changes.publish()

    def _place(self) -> None:
        while True:
            seen = self.changes.version
            calls = self._still_waiting()
            if not calls:
                return
            for call in calls:
                call.advance()
            waiting = [call.due_in() for call in calls if call.is_waiting()]
            if waiting:
                self.changes.wait(
                    seen, min((left for left in waiting if left is not None), default=None)
                )

    def _still_waiting(self) -> list[Placeable]:
        with self._lock:
            self._calls = [call for call in self._calls if call.is_waiting()]
            self._is_placing = bool(self._calls)
            return list(self._calls)
