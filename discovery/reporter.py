"""When listeners are told: soon after a change, not too often, and when a grace is over."""

from __future__ import annotations

import asyncio
import math
from typing import Final

from discovery.backoff import Clock
from discovery.listeners import ListenerSet
from discovery.service_view import ServiceView

MANY_ENDPOINTS: Final = 1000


class Reporter:
    """Publishes the states of `view` to `listeners`.

    Of a service of MANY_ENDPOINTS or more at most one in `every_s`, of smaller ones as
    many more as they are smaller.
    """

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
        """Something changed. Listeners are told by the loop, never from within."""
        due_at = self._reported_at + self._pause_s()
        if due_at <= self._clock():
            self._tell()
        else:
            self._schedule(due_at)

    def close(self) -> None:
        """Nobody is told any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _pause_s(self) -> float:
        # A state costs as much as it has endpoints, and so does taking it over.
        return self._every_s * min(1.0, len(self._view) / MANY_ENDPOINTS)

    def _schedule(self, due_at: float) -> None:
        if self._due_at <= due_at:
            return
        self.close()
        self._due_at = due_at
        delay_s = max(0.0, due_at - self._clock())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._tell)

    def _tell(self) -> None:
        self.close()
        self._due_at = math.inf
        self._reported_at = self._clock()
        self._listeners.publish(self._view.state(self._reported_at))
        changes_at = self._view.next_change_at_s()
        if changes_at is not None:
            self._schedule(changes_at)
