"""One active transaction, and what callers are told of transactions, active or logged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from txn.model import Branch, BranchId, Decision, LoggedBranch, Operation, RequestKey, TxnId
from txn.protocol import Progress
from txn.state import Outcome, TransactionState
from txn.value import value


class Request(NamedTuple):
    """What a caller asks for: all of the branches, or none, once under this key."""

    caller: str
    idempotency_key: str
    branches: Sequence[Branch]
    wait_for_applied: bool = True


@value
class Result:
    """What a caller is told. `applied` is True once every participant has acknowledged."""

    txn_id: TxnId
    outcome: Outcome
    reason: str = ""
    refused_branch_id: str = ""
    applied: bool = False


@value
class View:
    """A transaction as GetTransaction and ListTransactions show it."""

    txn_id: TxnId
    idempotency_key: str
    state: TransactionState
    outcome: Outcome
    reason: str
    branches: tuple[LoggedBranch, ...]
    decided_at_us: int | None


class Transaction:
    """One active transaction: its progress, and who waits for what becomes of it."""

    __slots__ = (
        "_watchers",
        "applied",
        "began_s",
        "decided_s",
        "operations",
        "participants",
        "progress",
        "request",
        "stands",
        "txn_id",
    )

    def __init__(
        self,
        txn_id: TxnId,
        request: RequestKey,
        participants: dict[BranchId, str],
        operations: dict[BranchId, Operation],
        progress: Progress,
    ) -> None:
        self.txn_id = txn_id
        self.request = request
        self.participants = participants
        self.operations = operations
        self.progress = progress
        # The outcome row, once it is durable; then, whether nobody has to hear of it any more.
        self.stands: Decision | None = None
        self.applied = False
        # On the monotonic clock, for those who measure; of one taken up again, since then.
        self.began_s = 0.0
        self.decided_s = 0.0
        self._watchers: list[Callable[[], None]] = []

    def watch(self, watcher: Callable[[], None]) -> None:
        """Calls `watcher` when the outcome stands and when it is applied, from now on."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: Callable[[], None]) -> None:
        """Calls it no more."""
        if watcher in self._watchers:
            self._watchers.remove(watcher)

    def decide(self, stands: Decision) -> None:
        """The outcome row is durable."""
        self.stands = stands
        self._tell()

    def finish(self) -> None:
        """Everybody who had to hear of the outcome has."""
        self.applied = True
        self._tell()

    def final(self, *, wait_for_applied: bool) -> bool:
        """Whether a caller who waits for that need not wait any longer."""
        return self.applied if wait_for_applied else self.stands is not None

    def _tell(self) -> None:
        for watcher in tuple(self._watchers):
            watcher()

    def lost_to(self) -> Decision | None:
        """The row of another transaction that had this one's key first."""
        if self.stands is None or self.stands.txn_id == self.txn_id:
            return None
        return self.stands

    def logged_branches(self) -> tuple[LoggedBranch, ...]:
        """The branches with the votes known now."""
        return tuple(
            LoggedBranch(branch_id, self.participants[branch_id], branch.vote)
            for branch_id, branch in self.progress.branches.items()
        )


def result_of(decision: Decision) -> Result:
    """What a caller is told of a logged transaction."""
    return Result(
        decision.txn_id,
        decision.outcome,
        decision.reason,
        decision.refused_branch_id,
        applied=decision.ended,
    )


def answer(transaction: Transaction, *, wait_for_applied: bool) -> Result:
    """Final when an outcome stands, and for a commit when it is applied if that was asked."""
    stands = transaction.stands
    if stands is None:
        return Result(transaction.txn_id, Outcome.PENDING)
    if stands.txn_id != transaction.txn_id:
        # Another has the key: that all of this one is done says nothing of that. Should it be
        # a claim, who asks again joins it.
        return result_of(stands)
    applied = transaction.applied
    outcome: Outcome = stands.outcome
    if outcome is Outcome.COMMITTED and wait_for_applied and not applied:
        outcome = Outcome.PENDING
    return Result(stands.txn_id, outcome, stands.reason, stands.refused_branch_id, applied)


def view_of_active(transaction: Transaction) -> View:
    """An active transaction, as people see it."""
    progress = transaction.progress
    stands = transaction.stands
    return View(
        transaction.txn_id,
        transaction.request.idempotency_key,
        progress.state,
        progress.durable or Outcome.PENDING,
        progress.reason,
        transaction.logged_branches(),
        None if stands is None else stands.decided_at_us,
    )


def view_of_undecided(txn_id: TxnId) -> View:
    """One that another coordinator has begun, or may have: only that one knows more."""
    return View(txn_id, "", TransactionState.PREPARING, Outcome.PENDING, "", (), None)


def view_of_decision(decision: Decision) -> View:
    """A logged transaction, as people see it."""
    decided_at_us: int | None = decision.decided_at_us
    if decision.outcome is Outcome.ABORTED:
        state = TransactionState.ABORTED
    elif decision.outcome is Outcome.PENDING:
        state, decided_at_us = TransactionState.PERFORMING, None
    elif decision.ended:
        state = TransactionState.COMMITTED
    else:
        state = TransactionState.COMMITTING
    return View(
        decision.txn_id,
        "" if decision.request is None else decision.request.idempotency_key,
        state,
        decision.outcome,
        decision.reason,
        decision.branches,
        decided_at_us,
    )
