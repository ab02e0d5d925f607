"""Has housekeeping rest between its steps, and longer the longer its steps take.

A step takes long where others are at work, since it waits for the same store and the same
processors. So whoever rests in proportion gives way under load, and gets on when it is quiet.
"""

from __future__ import annotations

from txn.clock import Clock


class Restraint:
    """Of one pass, from when this is made."""

    def __init__(self, clock: Clock, *, pause_s: float, busy_share_max: float) -> None:
        """At least `pause_s` between two steps; steps take `busy_share_max` of the time at most."""
        self._clock = clock
        self._pause_s = pause_s
        self._rest_per_work = 1.0 / busy_share_max - 1.0
        self._began_s = clock.monotonic()

    async def rest(self) -> None:
        """A step has been made; returns when the next one may begin."""
        took_s = self._clock.monotonic() - self._began_s
        await self._clock.sleep(max(self._pause_s, took_s * self._rest_per_work))
        self._began_s = self._clock.monotonic()
