"""Housekeeping: looks from time to time for what is over, and deletes it in small steps."""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass

from txn.clock import Clock
from txn.restraint import Restraint

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig:
    """How often, and how much at once."""

    # From one pass over what is old to the next.
    interval_s: float = 60.0
    # Looked at, and forgotten, together.
    rows_per_step: int = 64
    # Between two steps, at least.
    pause_s: float = 0.02
    # Of the time that steps take: pauses are so long that it is no more.
    busy_share_max: float = 0.2

    def __post_init__(self) -> None:
        if min(self.interval_s, self.pause_s) <= 0:
            raise ValueError("interval_s and pause_s must be positive")
        if self.rows_per_step < 1:
            raise ValueError("rows_per_step must be at least 1")
        if not 0 < self.busy_share_max <= 1:
            raise ValueError("busy_share_max must be above 0 and at most 1")


class Sweeper(ABC):
    """One kind of housekeeping."""

    def __init__(self, what: str, clock: Clock, rng: random.Random, config: SweepConfig) -> None:
        """`what` is put off when a pass fails, as the log says."""
        self._what = what
        self._clock = clock
        self._rng = rng
        self._pace = config

    async def run(self) -> None:
        """A pass every interval, until cancelled."""
        while True:
            # Replicas that share a store should not all look at the same time.
            await self._clock.sleep(self._pace.interval_s * self._rng.uniform(0.5, 1.5))
            try:
                await self.sweep()
            except Exception as error:  # noqa: BLE001 - what is over is over in the next pass too
                _log.warning("%s put off: %r", self._what, error)

    @abstractmethod
    async def sweep(self) -> int:
        """One pass; returns how many rows went."""

    def _restraint(self) -> Restraint:
        """Of a pass that begins."""
        return Restraint(
            self._clock, pause_s=self._pace.pause_s, busy_share_max=self._pace.busy_share_max
        )
