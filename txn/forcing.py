"""What an operator may decide for a transaction, and how the coordinator that drives it hears.

    undecided                 ABORT   the write-once row, before anybody writes a COMMIT
    in one phase, unanswered  COMMIT  or ABORT: what the participant did, as somebody has found
                                      out; it is told, and contradicts with an alarm
    decided, unacknowledged   ENDED   nobody is told any more: it was settled by hand

Everything else is refused, and nothing is changed: a COMMIT of what not all have voted for, an
outcome instead of another one. What the log lets be written is the rule of audit.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum

from txn import protocol
from txn.audit import AuditRecord, Forced, Signature, standing
from txn.claiming import Claimer
from txn.clock import SteadyUtc
from txn.deciding import row_of
from txn.decision_log import DecisionLog
from txn.errors import ForceRefused
from txn.lane import Happened
from txn.model import Decision, TxnId
from txn.state import Outcome, TransactionState
from txn.transaction import Transaction, view_of_decision

# Why a transaction was aborted, to its caller.
FORCED_BY_OPERATOR = "FORCED_BY_OPERATOR"

_UNDECIDED = (TransactionState.PREPARING, TransactionState.DECIDING, TransactionState.CLAIMING)
_ASKED = (TransactionState.PERFORMING, TransactionState.RESOLVING)
_RECORDS_PAGE = 100


class Resolution(Enum):
    """What an operator says."""

    COMMIT = "COMMIT"
    ABORT = "ABORT"
    ENDED = "ENDED"


_STATED = {Resolution.COMMIT: Outcome.COMMITTED, Resolution.ABORT: Outcome.ABORTED}


class Forcer:
    """See the module's docstring. Belongs to one event loop."""

    def __init__(
        self,
        log: DecisionLog,
        claimer: Claimer,
        *,
        utc: SteadyUtc,
        active: Callable[[TxnId], Transaction | None],
        deliver: Callable[[Sequence[Happened]], None],
    ) -> None:
        """`active` finds what this coordinator drives, `deliver` tells it what has happened."""
        self._decisions = log
        self._claimer = claimer
        self._utc = utc
        self._active = active
        self._deliver = deliver
        self._signatures: dict[TxnId, Signature] = {}

    async def force(
        self, txn_id: TxnId, resolution: Resolution, operator: str, reason: str
    ) -> AuditRecord:
        """Does what the operator says, with its record; durable on return.

        Raises ForceRefused, InvalidOperation (an unsigned one), TooOld, or what the store
        says; then nothing was changed.
        """
        by = Signature(operator, reason, self._utc.written_us())
        transaction = self._active(txn_id)
        if transaction is None:
            return await self._force_idle(txn_id, resolution, by)
        state = transaction.progress.state
        if resolution is Resolution.ENDED:
            return await self._end(transaction, by)
        if resolution is Resolution.ABORT and state in _UNDECIDED:
            return await self._abort(transaction, by)
        if state in _ASKED:
            return await self._state(transaction, _STATED[resolution], by)
        raise _refused(transaction, f"it cannot be made {_STATED[resolution].value} any more")

    async def _force_idle(
        self, txn_id: TxnId, resolution: Resolution, by: Signature
    ) -> AuditRecord:
        """Nobody drives it here: what has no row may be aborted, as by an inquiry."""
        stands = await self._decisions.by_txn_id(txn_id)
        if stands is not None:
            stands = self._claimer.known(stands)
            raise _refused_row(stands)
        if resolution is not Resolution.ABORT:
            raise ForceRefused("NONE", "there is no outcome that could be ended, nor a claim")
        row = Decision(
            txn_id,
            Outcome.ABORTED,
            None,
            (),
            by.signed_at_us,
            reason=FORCED_BY_OPERATOR,
            ended=True,
        )
        return _record(await self._decisions.force(row, by, over=None))

    async def _abort(self, transaction: Transaction, by: Signature) -> AuditRecord:
        meant = row_of(transaction, Outcome.ABORTED, self._utc, ended=True)
        row = replace(meant, reason=FORCED_BY_OPERATOR, refused_branch_id="")
        record = _record(await self._decisions.force(row, by, over=None))
        # One that is being decided finds the row in its way by itself.
        if transaction.progress.state is TransactionState.PREPARING:
            branches = transaction.progress.branches.items()
            silent = next(branch_id for branch_id, branch in branches if branch.vote is None)
            failed = protocol.PrepareFailed(silent, FORCED_BY_OPERATOR)
            self._deliver([(transaction, failed)])
        return record

    async def _state(
        self, transaction: Transaction, outcome: Outcome, by: Signature
    ) -> AuditRecord:
        performing = transaction.progress.state is TransactionState.PERFORMING
        if performing and not transaction.alarmed():
            raise _refused(transaction, "its participant is still asked to do it")
        self._signatures[transaction.txn_id] = by
        # Before anything is written: an answer that comes meanwhile is too late.
        self._deliver([(transaction, protocol.Stated(outcome))])
        stands = await _written(transaction)
        record = await self._record_of(transaction.txn_id, by)
        if record is None:
            raise _refused_row(stands)
        return record

    def write_stated(self, transaction: Transaction, outcome: Outcome) -> None:
        """Performs ForceStated."""
        self._claimer.state(transaction, outcome, self._signatures.pop(transaction.txn_id))

    async def _record_of(self, txn_id: TxnId, by: Signature) -> AuditRecord | None:
        """What was written may have been so in an attempt of which nobody heard."""
        after = 0
        while page := await self._decisions.list_audit(
            after=after, limit=_RECORDS_PAGE, txn_id=txn_id
        ):
            for record in page:
                if record.signature == by:
                    return record
            after = page[-1].number
        return None

    async def _end(self, transaction: Transaction, by: Signature) -> AuditRecord:
        stands = transaction.stands
        if transaction.lost_to() is not None:
            raise _refused(transaction, "what has an outcome is another one, which had its key")
        if stands is None or stands.ended or stands.outcome is Outcome.PENDING:
            raise _refused(transaction, "there is no outcome that could be ended")
        forced = await self._decisions.force(replace(stands, ended=True), by, over=stands.outcome)
        record = _record(forced)
        transaction.stands = forced.stands
        self._deliver(
            [
                (transaction, protocol.Settled(branch_id))
                for branch_id in transaction.progress.branches
            ]
        )
        return record


async def _written(transaction: Transaction) -> Decision:
    """The row that stands, once one does."""
    done: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()

    def watcher() -> None:
        if transaction.stands is not None and not done.done():
            done.set_result(transaction.stands)

    transaction.watch(watcher)
    try:
        watcher()
        return await done
    finally:
        transaction.unwatch(watcher)


def _record(forced: Forced) -> AuditRecord:
    if forced.record is not None:
        return forced.record
    raise ForceRefused(standing(forced.stands), "what stands is not changed")


def _refused(transaction: Transaction, why: str) -> ForceRefused:
    return ForceRefused(transaction.progress.state.value, why)


def _refused_row(row: Decision) -> ForceRefused:
    if row.ended:
        return ForceRefused(standing(row), "it is final")
    state = view_of_decision(row).state.value
    return ForceRefused(state, "another coordinator drives it, or this one has just finished")
