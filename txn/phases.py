"""What the coordinator does between two events: asks, forces, tells.

Each method performs one action of the protocol and returns the event that came of it. It
must get there whatever happens: a driver that died would leave its transaction active,
and the participants in doubt, until the next start. So what is unexpected counts as "no
answer", after which every action may be done again.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from txn import protocol
from txn.clock import Backoff, Clock
from txn.crash_point import AFTER_DECISION, BEFORE_DECISION, CrashPoint
from txn.decision_log import DecisionLog
from txn.errors import Alarm, Busy, Refused, Unreachable
from txn.model import BranchId, BranchKey, Decision
from txn.state import Outcome, TransactionState, Vote
from txn.transaction import Transaction
from txn.transport import ParticipantTransport

PARTICIPANT_UNAVAILABLE = "PARTICIPANT_UNAVAILABLE"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CoordinatorConfig:
    """Limits and intervals. `name` is the service name under which participants ask back."""

    name: str
    participants: frozenset[str]
    # Longer than a participant needs to learn what became of a transaction in the way.
    prepare_timeout_s: float = 8.0
    attempt_timeout_s: float = 2.0
    abort_attempts: int = 5
    max_active: int = 10_000
    alarm_retry_s: float = 30.0
    retry: Backoff = field(default_factory=lambda: Backoff(initial_s=0.05, max_s=2.0))

    def __post_init__(self) -> None:
        if not self.participants:
            raise ValueError("participants must not be empty")
        if min(self.prepare_timeout_s, self.attempt_timeout_s) <= 0:
            raise ValueError("timeouts must be positive")
        if min(self.abort_attempts, self.max_active) < 1:
            raise ValueError("abort_attempts and max_active must be at least 1")


class Phases:
    """See the module's docstring."""

    def __init__(
        self,
        config: CoordinatorConfig,
        log: DecisionLog,
        transport: ParticipantTransport,
        *,
        clock: Clock,
        rng: random.Random,
        crash_point: CrashPoint,
    ) -> None:
        self._config = config
        self._decisions = log
        self._transport = transport
        self._clock = clock
        self._rng = rng
        self._crash_point = crash_point

    async def prepare(self, transaction: Transaction, branch_id: BranchId) -> protocol.Event:
        """Asks until there is an answer, the time is up, or the transaction is lost anyway.

        Asking again is safe: a participant answers a repeated prepare with its first vote.
        """
        message = transaction.operations[branch_id]
        participant = transaction.participants[branch_id]
        deadline = self._clock.monotonic() + self._config.prepare_timeout_s
        reason = PARTICIPANT_UNAVAILABLE
        attempt = 0
        while (left_s := deadline - self._clock.monotonic()) > 0:
            timeout_s = min(left_s, self._config.attempt_timeout_s)
            try:
                reply = await self._transport.prepare(participant, message, timeout_s)
                return protocol.Voted(branch_id, reply.vote, reply.reason)
            except Refused as refused:
                return protocol.Voted(branch_id, Vote.ABORT, refused.reason)
            except Busy as busy:
                reason = busy.reason
            except Unreachable as error:
                reason = PARTICIPANT_UNAVAILABLE
                _log.info("prepare %s at %s: %s", message.key, participant, error)
            except Exception:  # noqa: BLE001 - see above
                _log.exception("prepare %s at %s", message.key, participant)
            await self._clock.sleep(self._config.retry.wait_s(attempt, self._rng))
            attempt += 1
            if transaction.progress.state is not TransactionState.PREPARING:
                break
        return protocol.PrepareFailed(branch_id, reason)

    async def force(self, transaction: Transaction, outcome: Outcome) -> protocol.Event:
        """Writes the outcome row; the row that stands rules, not the one that was meant."""
        self._crash_point(BEFORE_DECISION)
        progress = transaction.progress
        decision = Decision(
            transaction.txn_id,
            outcome,
            transaction.request,
            transaction.logged_branches(),
            self._clock.utc_us(),
            reason=progress.reason,
            refused_branch_id=progress.refused_branch_id,
            ended=outcome is Outcome.ABORTED,
        )
        attempt = 0
        while True:
            try:
                stands = await self._decisions.decide(decision)
                break
            except Exception as error:  # noqa: BLE001 - see above
                # Nothing may be answered before it stands. Deciding again is safe, whether
                # or not the row was written: the row that stands is read back.
                _log.warning("decision of %s: %r", transaction.txn_id, error)
                await self._clock.sleep(self._config.retry.wait_s(attempt, self._rng))
                attempt += 1
        self._crash_point(AFTER_DECISION)
        transaction.stands = stands
        transaction.decided.set()
        mine = stands.txn_id == transaction.txn_id
        return protocol.OutcomeStands(stands.outcome if mine else Outcome.ABORTED)

    async def commit(self, transaction: Transaction, branch_id: BranchId) -> protocol.Event:
        """Sends commit until it is acknowledged, however long that takes."""
        return await self._settle(transaction, branch_id, self._transport.commit, None)

    async def abort(self, transaction: Transaction, branch_id: BranchId) -> protocol.Event:
        """Sends abort a few times: a participant that never hears it will ask."""
        return await self._settle(
            transaction, branch_id, self._transport.abort, self._config.abort_attempts
        )

    async def _settle(
        self,
        transaction: Transaction,
        branch_id: BranchId,
        send: Callable[[str, BranchKey, float], Coroutine[object, object, None]],
        attempts: int | None,
    ) -> protocol.Event:
        key = BranchKey(transaction.txn_id, branch_id)
        participant = transaction.participants[branch_id]
        attempt = 0
        while attempts is None or attempt < attempts:
            try:
                await send(participant, key, self._config.attempt_timeout_s)
            except Alarm as alarm:
                # Never success: the branch stays unsettled, and is shown as such, until
                # somebody has looked.
                _log.critical("ALARM %s at %s: %s", key, participant, alarm)
                await self._clock.sleep(self._config.alarm_retry_s)
                continue
            except Unreachable as error:
                _log.info("phase two of %s at %s: %s", key, participant, error)
            except Exception:  # noqa: BLE001 - see above
                _log.exception("phase two of %s at %s", key, participant)
            else:
                break
            await self._clock.sleep(self._config.retry.wait_s(attempt, self._rng))
            attempt += 1
        return protocol.Settled(branch_id)
