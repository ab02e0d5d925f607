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
from txn.crash_point import AFTER_TRUNCATION, BEFORE_TRUNCATION, CrashPoint, no_crash
from txn.decision_log import DecisionLog
from txn.metrics import NO_METRICS, CoordinatorMetrics
from txn.sweeper import SweepConfig, Sweeper

# As long as a message may be under way: no stream has a later deadline. A request that comes
# when its key is forgotten would be done a second time, and a Prepare that comes when its
# outcome is could stay in doubt for ever.
RETENTION_MIN_S = 3_600.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogKeeperConfig(SweepConfig):
    """How long outcomes and their keys are known at least, and how the rest is done."""

    # Of an outcome, by UTC: it has to hold across restarts.
    idempotency_retention_s: float = 7 * 24 * 3_600.0

    def __post_init__(self) -> None:
        SweepConfig.__post_init__(self)
        if self.idempotency_retention_s < RETENTION_MIN_S:
            raise ValueError(f"idempotency_retention_s must be at least {RETENTION_MIN_S:g}")


class LogKeeper(Sweeper):
    """See the module's docstring."""

    def __init__(
        self,
        log: DecisionLog,
        *,
        clock: Clock,
        rng: random.Random,
        config: LogKeeperConfig | None = None,
        crash_point: CrashPoint = no_crash,
        metrics: CoordinatorMetrics = NO_METRICS,
    ) -> None:
        self._config = config or LogKeeperConfig()
        super().__init__("truncation", clock, rng, self._config)
        self._decisions = log
        self._crash_point = crash_point
        self._metrics = metrics
        self._utc = SteadyUtc(clock)

    async def sweep(self) -> int:
        """One pass: deletes everything that is over and old; returns how many rows that were."""
        before_us = self._utc.looked_us() - int(self._config.idempotency_retention_s * US_PER_S)
        restraint = self._restraint()
        deleted = 0
        after: str | None = ""
        while after is not None:
            self._crash_point(BEFORE_TRUNCATION)
            step = await self._decisions.truncate(
                after=after, limit=self._config.rows_per_step, before_us=before_us
            )
            if step.deleted:
                self._crash_point(AFTER_TRUNCATION)
            deleted += step.deleted
            after = step.next_after
            if after is not None:
                await restraint.rest()
        if deleted:
            self._metrics.truncated(deleted)
            _log.info("%d outcomes were forgotten", deleted)
        return deleted
