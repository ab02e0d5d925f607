"""Time and randomness as things that are handed in, so that a simulator can own both."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Protocol

US_PER_S = 1_000_000


class Clock(Protocol):
    """Intervals are monotonic; by UTC nothing is decided but what is old, see SteadyUtc."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""

    def utc_us(self) -> int:
        """Microseconds since 1970-01-01 UTC, as the machine believes."""

    async def sleep(self, seconds: float) -> None:
        """Waits."""


class SystemClock:
    """The machine's own time."""

    def monotonic(self) -> float:
        """Seconds of the machine's monotonic clock."""
        return time.monotonic()

    def utc_us(self) -> int:
        """Microseconds of the machine's wall clock."""
        return time.time_ns() // 1_000

    async def sleep(self, seconds: float) -> None:
        """Waits on the running event loop."""
        await asyncio.sleep(seconds)


class SteadyUtc:
    """UTC for what is decided by age, against a wall clock that is moved.

    What is written down is never older than it is, and what is looked at never counts as
    older than it is: only time that has passed makes something old.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_us = self._last_us = clock.utc_us()
        self._started_s = clock.monotonic()

    def resume(self, last_us: int) -> float:
        """Goes on from what an earlier process wrote down last, should this clock be behind it.

        Returns by how many seconds it is; 0 if it is not.
        """
        self._last_us = max(self._started_us, last_us)
        return (self._last_us - self._started_us) / US_PER_S

    def written_us(self) -> int:
        """The time to write down: that of the wall clock, unless it is behind what was written."""
        return max(self._clock.utc_us(), self._last_us + self._passed_us())

    def looked_us(self) -> int:
        """The time to compare with: that of the wall clock, unless it was set forward since."""
        return min(self._clock.utc_us(), self._started_us + self._passed_us())

    def _passed_us(self) -> int:
        return int((self._clock.monotonic() - self._started_s) * US_PER_S)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter", 2015).

    A wait is drawn from 0 to `initial_s`, which doubles with each attempt up to `max_s`.
    """

    initial_s: float
    max_s: float

    def wait_s(self, attempt: int, rng: random.Random) -> float:
        """Seconds to wait before retry number `attempt`, counted from 0."""
        exponent = min(attempt, 30)
        return rng.uniform(0, min(self.max_s, self.initial_s * 2**exponent))
