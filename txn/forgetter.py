"""Forgets branches that are over, where the coordinator's word that they may be was lost.

That word rides along with batches and is not answered (`Batch.forgettable`). What a
coordinator had not said when it ended, what was in a batch that got lost, and whatever a
participant without batches has committed, would be remembered for ever. So from time to
time a participant asks about what it has remembered for a while. It forgets no branch
that is in doubt, and nothing on its own: a coordinator says which commits have ended.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

from txn.clock import US_PER_S, Clock
from txn.config import QUESTION_ITEMS_MAX
from txn.crash_point import (
    ENDED_ANSWER_ARRIVES,
    ENDED_INQUIRY_LEAVES,
    CrashPoint,
    no_crash,
)
from txn.errors import Unreachable
from txn.metrics import NO_METRICS, ParticipantMetrics
from txn.model import BranchKey, BranchRow, Ended
from txn.participant_kind import ParticipantKind
from txn.restraint import Restraint
from txn.state import BranchState
from txn.sweeper import SweepConfig, Sweeper
from txn.transport import EndedTransport

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetterConfig(SweepConfig):
    """How a participant looks for what it could have forgotten."""

    # Younger branches are not asked about: word of them is probably on its way.
    age_min_s: float = 60.0
    # Of one question.
    timeout_s: float = 2.0

    def __post_init__(self) -> None:
        SweepConfig.__post_init__(self)
        if self.timeout_s <= 0 or self.age_min_s < 0:
            raise ValueError("timeout_s must be positive, age_min_s not negative")
        if self.rows_per_step > QUESTION_ITEMS_MAX:
            raise ValueError(f"rows_per_step must be at most {QUESTION_ITEMS_MAX}")


class Forgetter(Sweeper):
    """See the module's docstring."""

    def __init__(
        self,
        participant: ParticipantKind,
        transport: EndedTransport,
        *,
        clock: Clock,
        rng: random.Random,
        config: ForgetterConfig | None = None,
        crash_point: CrashPoint = no_crash,
        metrics: ParticipantMetrics = NO_METRICS,
    ) -> None:
        self._config = config or ForgetterConfig()
        super().__init__("forgetting", clock, rng, self._config)
        self._participant = participant
        self._transport = transport
        self._crash_point = crash_point
        self._metrics = metrics

    async def sweep(self) -> int:
        """One pass over all that is over and not forgotten; returns how many rows went."""
        old_us = self._clock.utc_us() - int(self._config.age_min_s * US_PER_S)
        restraint = self._restraint()
        deleted = 0
        after: BranchKey | None = None
        while rows := await self._page(after, BranchState.COMMITTED):
            deleted += await self._forget([row for row in rows if row.prepared_at_us < old_us])
            after = rows[-1].key
            await restraint.rest()
        deleted += await self._forget_aborted(restraint)
        if deleted:
            self._metrics.forgotten(deleted)
            _log.info("%d branches were forgotten", deleted)
        return deleted

    async def _page(self, after: BranchKey | None, state: BranchState) -> Sequence[BranchRow]:
        return await self._participant.list_branches(
            after=after, limit=self._config.rows_per_step, state=state
        )

    async def _forget(self, rows: Sequence[BranchRow]) -> int:
        by_coordinator: dict[str, list[BranchKey]] = {}
        for row in rows:
            by_coordinator.setdefault(row.coordinator, []).append(row.key)
        deleted = 0
        for coordinator, keys in by_coordinator.items():
            ended = await self._ask(coordinator, keys)
            if ended.prepare_horizon is not None and ended.txn_ids:
                going = [key for key in keys if key.txn_id in ended.txn_ids]
                deleted += await self._participant.forget(going, ended.prepare_horizon)
        return deleted

    async def _forget_aborted(self, restraint: Restraint) -> int:
        """Those below the horizons; nobody has to be asked about each."""
        deleted = 0
        if not await self._page(None, BranchState.ABORTED):
            return deleted
        for coordinator in sorted(self._participant.coordinators):
            horizon = (await self._ask(coordinator, [])).prepare_horizon
            while horizon is not None and (gone := await self._participant.forget([], horizon)):
                deleted += gone
                await restraint.rest()
        return deleted

    async def _ask(self, coordinator: str, keys: Sequence[BranchKey]) -> Ended:
        txn_ids = list(dict.fromkeys(key.txn_id for key in keys))
        self._crash_point(ENDED_INQUIRY_LEAVES)
        try:
            ended = await self._transport.ended(coordinator, txn_ids, self._config.timeout_s)
        except Unreachable as error:
            _log.info("%s does not say what may be forgotten: %s", coordinator, error)
        except Exception:  # noqa: BLE001 - the other coordinators have to be asked all the same
            _log.exception("what may be forgotten, at %s", coordinator)
        else:
            self._crash_point(ENDED_ANSWER_ARRIVES)
            return ended
        return Ended(frozenset(), None)
