"""One active transaction, and what callers are told of transactions, active or logged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from txn.model import Branch, BranchId, Decision, LoggedBranch, Operation, RequestKey, TxnId
from txn.protocol import Progress
from txn.state import Outcome, TransactionState, Vote
from txn.timeline import Moment, last_failure, trim
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


class BranchView(NamedTuple):
    """A branch as its coordinator knows it.

    `acknowledged` means that its participant has nothing more to be told. Of what is not
    active here, `attempts` and what the last of them failed with are not known.
    """

    branch_id: BranchId
    participant: str
    vote: Vote | None
    acknowledged: bool
    attempts: int = 0
    last_error: str = ""
    alarmed: bool = False


@value
class View:
    """A transaction as GetTransaction and ListTransactions show it.

    `active` means that this coordinator drives it.
    """

    txn_id: TxnId
    idempotency_key: str
    state: TransactionState
    outcome: Outcome
    reason: str
    branches: tuple[BranchView, ...]
    decided_at_us: int | None
    active: bool = False
    age_s: float | None = None
    """Of an active one, since it was begun, or written down before a restart."""


class Transaction:
    """One active transaction: its progress, and who waits for what becomes of it."""

    __slots__ = (
        "_watchers",
        "age_before_s",
        "applied",
        "began_s",
        "decided_s",
        "dropped",
        "moments",
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
        # On the monotonic clock, for those who measure; of one taken up again, since then, and
        # how old it was, by UTC, when that was done.
        self.began_s = 0.0
        self.age_before_s = 0.0
        self.decided_s = 0.0
        # See timeline.py: what has happened, and how much of that is not there any more.
        self.moments: list[Moment] = []
        self.dropped = 0
        self._watchers: list[Callable[[], None]] = []

    def failed(self, moment: Moment) -> None:
        """An attempt has to be made again: nothing else happens any number of times."""
        self.moments.append(moment)
        self.dropped += trim(self.moments)

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

    def alarmed(self) -> bool:
        """Whether the newest answer of a participant is that a promise is broken."""
        return any(
            failure.alarm
            for failure, _ in (last_failure(self.moments, each) for each in self.participants)
            if failure is not None
        )

    def owes_an_end(self) -> bool:
        """Whether its row still says that somebody has to hear of an abort, see audit.py."""
        stands = self.stands
        return stands is not None and stands.outcome is Outcome.ABORTED and not stands.ended

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


def view_of_active(transaction: Transaction, now_s: float) -> View:
    """An active transaction, as people see it; `now_s` is on the monotonic clock."""
    progress = transaction.progress
    stands = transaction.stands
    # Another may have written it, for a reason of its own: an operator.
    decided = stands if progress.durable and transaction.lost_to() is None else None
    return View(
        transaction.txn_id,
        transaction.request.idempotency_key,
        progress.state,
        progress.durable or Outcome.PENDING,
        progress.reason if decided is None else decided.reason,
        tuple([_branch_view(transaction, branch_id) for branch_id in progress.branches]),
        None if stands is None else stands.decided_at_us,
        active=True,
        age_s=now_s - transaction.began_s + transaction.age_before_s,
    )


def view_of_undecided(txn_id: TxnId) -> View:
    """One that another coordinator has begun, or may have: only that one knows more."""
    return View(txn_id, "", TransactionState.PREPARING, Outcome.PENDING, "", (), None)


def _branch_view(transaction: Transaction, branch_id: BranchId) -> BranchView:
    vote, settled = transaction.progress.branches[branch_id]
    failure, attempts = last_failure(transaction.moments, branch_id)
    acknowledged = settled or vote in (Vote.ABORT, Vote.READ_ONLY)
    view = BranchView(branch_id, transaction.participants[branch_id], vote, acknowledged, attempts)
    if failure is None or acknowledged:
        return view
    return view._replace(last_error=failure.name, alarmed=failure.alarm)


def view_of_decision(decision: Decision) -> View:
    """A logged transaction, as people see it."""
    decided_at_us: int | None = decision.decided_at_us
    if decision.outcome is Outcome.ABORTED:
        state = TransactionState.ABORTED if decision.ended else TransactionState.ABORTING
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
        tuple([BranchView(*branch, decision.ended) for branch in decision.branches]),
        decided_at_us,
    )
