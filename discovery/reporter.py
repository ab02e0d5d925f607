"""When listeners are told: soon after a change, not too often, and when a grace is over."""

from __future__ import annotations

import asyncio
import math

from discovery.backoff import Clock
from discovery.listeners import ListenerSet
from discovery.service_view import ServiceView


class Reporter:
    """Publishes the states of `view` to `listeners`, at most one in `every_s`."""

    def __init__(
        self, view: ServiceView, listeners: ListenerSet, *, every_s: float, clock: Clock
    ) -> None:
        self._view = view
        self._listeners = listeners
        self._every_s = every_s
        self._clock = clock
        self._reported_at = -math.inf
        self._due_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def soon(self) -> None:
        """Something changed."""
        self._schedule(max(self._clock(), self._reported_at + self._every_s))

    def close(self) -> None:
        """Nobody is told any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self, due_at: float) -> None:
        if self._due_at <= due_at:
            return
        self.close()
        self._due_at = due_at
        delay_s = max(0.0, due_at - self._clock())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._tell)

    def _tell(self) -> None:
        self._due_at = math.inf
        self._reported_at = self._clock()
        self._listeners.publish(self._view.state(self._reported_at))
        changes_at = self._view.next_change_at_s()
        if changes_at is not None:
            self._schedule(changes_at)
