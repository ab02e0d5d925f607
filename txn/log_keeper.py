"""Truncates the decision log: what is over goes, once its idempotency key need not be known.

In small steps with pauses between them, each riding with a force that goes anyway, so that
nobody who pays notices. A step is one local transaction: a crash in it leaves the rows, or
takes them together with the note of what is gone.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass

from txn.clock import US_PER_S, Clock, SteadyUtc
from txn.decision_log import DecisionLog
from txn.metrics import NO_METRICS, CoordinatorMetrics
from txn.restraint import Restraint

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LogKeeperConfig:
    """How long outcomes and their keys are known at least, and how the rest is done."""

    # Of an outcome, by UTC: it has to hold across restarts.
    idempotency_retention_s: float = 7 * 24 * 3_600.0
    # From one pass over what is old to the next.
    interval_s: float = 60.0
    rows_per_step: int = 64
    # Between two steps: at least this, and so long that they take no more of the time.
    pause_s: float = 0.02
    busy_share_max: float = 0.2

    def __post_init__(self) -> None:
        if min(self.idempotency_retention_s, self.interval_s, self.pause_s) <= 0:
            raise ValueError("the retention, the interval and the pause must be positive")
        if self.rows_per_step < 1:
            raise ValueError("rows_per_step must be at least 1")
        if not 0 < self.busy_share_max <= 1:
            raise ValueError("busy_share_max must be above 0 and at most 1")


class LogKeeper:
    """See the module's docstring."""

    def __init__(
        self,
        log: DecisionLog,
        *,
        clock: Clock,
        rng: random.Random,
        config: LogKeeperConfig | None = None,
        metrics: CoordinatorMetrics = NO_METRICS,
    ) -> None:
        self._decisions = log
        self._clock = clock
        self._rng = rng
        self._config = config or LogKeeperConfig()
        self._metrics = metrics
        self._utc = SteadyUtc(clock)

    async def run(self) -> None:
        """A pass every interval, until cancelled."""
        while True:
            await self._clock.sleep(self._config.interval_s * self._rng.uniform(0.5, 1.5))
            try:
                await self.sweep()
            except Exception as error:  # noqa: BLE001 - what is old is old in the next pass too
                _log.warning("truncation put off: %r", error)

    async def sweep(self) -> int:
        """One pass: deletes everything that is over and old; returns how many rows that were."""
        before_us = self._utc.looked_us() - int(self._config.idempotency_retention_s * US_PER_S)
        restraint = Restraint(
            self._clock,
            pause_s=self._config.pause_s,
            busy_share_max=self._config.busy_share_max,
        )
        deleted = 0
        after: str | None = ""
        while after is not None:
            step = await self._decisions.truncate(
                after=after, limit=self._config.rows_per_step, before_us=before_us
            )
            deleted += step.deleted
            after = step.next_after
            if after is not None:
                await restraint.rest()
        if deleted:
            self._metrics.truncated(deleted)
            _log.info("%d outcomes were forgotten", deleted)
        return deleted
