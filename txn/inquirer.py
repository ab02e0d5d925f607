"""Asks the coordinator about branches that stay in doubt. Never decides by itself."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

from txn.clock import US_PER_S, Clock
from txn.config import QUESTION_ITEMS_MAX
from txn.crash_point import ANSWER_ARRIVES, INQUIRY_LEAVES, CrashPoint, no_crash
from txn.errors import Alarm, TxnError, UnknownBranch, Unreachable
from txn.metrics import NO_METRICS, ParticipantMetrics
from txn.model import Abort, Batch, BranchKey, BranchRow, Commit, Message, Reply
from txn.participant_kind import ParticipantKind
from txn.state import BranchState, Outcome
from txn.transport import CoordinatorTransport

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InquiryConfig:
    """How a participant in doubt asks: first one to two intervals after its vote."""

    # From one look at what is in doubt to the next.
    interval_s: float = 2.0
    # Added to it at random, up to this.
    jitter_s: float = 0.5
    # Of one inquiry.
    timeout_s: float = 2.0
    # Branches of one inquiry.
    batch_size_max: int = 500

    def __post_init__(self) -> None:
        if min(self.interval_s, self.timeout_s) <= 0 or self.jitter_s < 0:
            raise ValueError("interval_s and timeout_s must be positive, jitter_s not negative")
        if not 1 <= self.batch_size_max <= QUESTION_ITEMS_MAX:
            raise ValueError(f"batch_size_max must be at least 1 and at most {QUESTION_ITEMS_MAX}")


class Inquirer:
    """See the module's docstring."""

    def __init__(
        self,
        participant: ParticipantKind,
        transport: CoordinatorTransport,
        *,
        clock: Clock,
        rng: random.Random,
        config: InquiryConfig | None = None,
        crash_point: CrashPoint = no_crash,
        metrics: ParticipantMetrics = NO_METRICS,
    ) -> None:
        self._participant = participant
        self._transport = transport
        self._clock = clock
        self._rng = rng
        self._config = config or InquiryConfig()
        self._crash_point = crash_point
        self._metrics = metrics
        self._seen: frozenset[BranchKey] = frozenset()

    async def run(self) -> None:
        """Looks every interval, until cancelled."""
        while True:
            wait_s = self._config.interval_s + self._rng.uniform(0, self._config.jitter_s)
            await self._clock.sleep(wait_s)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - who stops asking stays in doubt for ever
                _log.warning("inquiry put off: %r", error)

    async def look(self) -> None:
        """One round: asks about what was in doubt in the round before too.

        Being seen twice is the measure of age, so that no wall clock decides anything.
        """
        seen: set[BranchKey] = set()
        now_us = oldest_us = self._clock.utc_us()
        after: BranchKey | None = None
        limit = self._config.batch_size_max
        while True:
            rows = await self._participant.list_branches(
                after=after, limit=limit, state=BranchState.PREPARED
            )
            seen.update(row.key for row in rows)
            oldest_us = min([oldest_us, *(row.prepared_at_us for row in rows)])
            await self._resolve([row for row in rows if row.key in self._seen])
            if len(rows) < limit:
                break
            after = rows[-1].key
        self._seen = frozenset(seen)
        self._metrics.in_doubt(len(seen), (now_us - oldest_us) / US_PER_S)

    async def _resolve(self, rows: Sequence[BranchRow]) -> None:
        by_coordinator: dict[str, list[BranchKey]] = {}
        for row in rows:
            by_coordinator.setdefault(row.coordinator, []).append(row.key)
        for coordinator, keys in by_coordinator.items():
            self._crash_point(INQUIRY_LEAVES)
            try:
                outcomes = await self._transport.inquire(coordinator, keys, self._config.timeout_s)
            except Unreachable as error:
                _log.info("%d branches stay in doubt: %s", len(keys), error)
                continue
            except Exception:  # noqa: BLE001 - the other coordinators have to be asked all the same
                _log.exception("inquiry at %s", coordinator)
                continue
            self._crash_point(ANSWER_ARRIVES)
            await self._settle(keys, outcomes)

    async def _settle(self, keys: Sequence[BranchKey], outcomes: Sequence[Outcome]) -> None:
        messages: list[Message] = [
            Commit(key) if outcome is Outcome.COMMITTED else Abort(key)
            for key, outcome in zip(keys, outcomes, strict=True)
            if outcome is not Outcome.PENDING
        ]
        replies = await self._participant.exchange(Batch(messages)) if messages else ()
        for message, reply in zip(messages, replies, strict=True):
            _note(message.key, reply)


def _note(key: BranchKey, reply: Reply) -> None:
    """A row that cannot be resolved must not keep the others from being asked about."""
    if isinstance(reply, UnknownBranch):
        # It was prepared when the question went out: only a branch that was committed
        # and then forgotten, since all had acknowledged, is unknown by now.
        _log.info("%s was settled meanwhile", key)
    elif isinstance(reply, Alarm):
        _log.critical("ALARM %s could not be resolved: %s", key, reply)
    elif isinstance(reply, TxnError):
        _log.info("%s stays in doubt: %s", key, reply)
