"""The coordinator's side of two-phase commit: (progress, event) -> (progress, actions).

No clock, no network, no store: the engine in coordinator.py performs the actions and
feeds back what happened. Docs: docs/two_phase_commit.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from txn.model import BranchId
from txn.state import TRANSACTION_MOVES, Outcome, TransactionState, Vote, move


@dataclass(frozen=True, slots=True)
class BranchProgress:
    """One branch: its vote once known, whether it refused, whether phase two reached it."""

    vote: Vote | None = None
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """One transaction. `durable` is the outcome once its row stands in the log."""

    state: TransactionState
    branches: dict[BranchId, BranchProgress]
    reason: str = ""
    refused_branch_id: str = ""
    durable: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Voted:
    """A participant answered prepare."""

    branch_id: BranchId
    vote: Vote
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PrepareFailed:
    """No vote came in time, or the request was refused. The branch may be prepared all the same."""

    branch_id: BranchId
    reason: str


@dataclass(frozen=True, slots=True)
class OutcomeStands:
    """An outcome row is durable; it may be another's, written first."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Settled:
    """A participant acknowledged phase two, or was given up on (aborts only)."""

    branch_id: BranchId


Event = Voted | PrepareFailed | OutcomeStands | Settled


@dataclass(frozen=True, slots=True)
class SendPrepare:
    """Ask for the vote."""

    branch_id: BranchId


@dataclass(frozen=True, slots=True)
class SendCommit:
    """Tell the participant, until it acknowledges."""

    branch_id: BranchId


@dataclass(frozen=True, slots=True)
class SendAbort:
    """Tell the participant; if it never hears, it will ask."""

    branch_id: BranchId


@dataclass(frozen=True, slots=True)
class ForceOutcome:
    """Write the outcome row, once for ever, and wait until it is durable."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class WriteEnd:
    """Note that nobody needs this decision any more; need not be forced."""


Action = SendPrepare | SendCommit | SendAbort | ForceOutcome | WriteEnd

Step = tuple[Progress, tuple[Action, ...]]


def begin(branch_ids: Iterable[BranchId]) -> Step:
    """A new transaction: prepare all branches at once."""
    branches = {branch_id: BranchProgress() for branch_id in branch_ids}
    progress = Progress(TransactionState.PREPARING, branches)
    return progress, tuple(SendPrepare(branch_id) for branch_id in branches)


def resume(votes: Iterable[tuple[BranchId, Vote | None]]) -> Step:
    """A transaction whose commit is in the log and whose end is not: phase two again."""
    progress = Progress(
        TransactionState.COMMITTING,
        {branch_id: BranchProgress(vote) for branch_id, vote in votes},
        durable=Outcome.COMMITTED,
    )
    return _finish_if_settled(progress, _phase_two(progress))


def step(progress: Progress, event: Event) -> Step:
    """What follows from `event`. Late and repeated events change nothing."""
    match event:
        case Voted():
            return _on_vote(progress, event)
        case PrepareFailed(branch_id, reason):
            return _on_refusal(progress, branch_id, reason)
        case OutcomeStands(outcome):
            return _on_outcome(progress, outcome)
        case Settled(branch_id):
            return _on_settled(progress, branch_id)


def _on_vote(progress: Progress, event: Voted) -> Step:
    if not _is_awaited(progress, event.branch_id):
        return progress, ()
    if event.vote is Vote.ABORT:
        return _on_refusal(progress, event.branch_id, event.reason, vote=Vote.ABORT)
    progress = _with(progress, event.branch_id, vote=event.vote)
    if any(branch.vote is None for branch in progress.branches.values()):
        return progress, ()
    return _moved(progress, TransactionState.DECIDING), (ForceOutcome(Outcome.COMMITTED),)


def _on_refusal(
    progress: Progress, branch_id: BranchId, reason: str, *, vote: Vote | None = None
) -> Step:
    """The first refusal aborts. The abort messages do not wait for the log: presumed abort."""
    if not _is_awaited(progress, branch_id):
        return progress, ()
    progress = _moved(_with(progress, branch_id, vote=vote), TransactionState.ABORTING)
    progress = replace(progress, reason=reason, refused_branch_id=branch_id)
    return progress, (*_phase_two(progress), ForceOutcome(Outcome.ABORTED))


def _is_awaited(progress: Progress, branch_id: BranchId) -> bool:
    """A branch has one word. Were a second to replace a COMMIT, nobody would tell it to abort."""
    preparing = progress.state is TransactionState.PREPARING
    return preparing and progress.branches[branch_id].vote is None


def _on_outcome(progress: Progress, outcome: Outcome) -> Step:
    if progress.durable is not None or progress.state is TransactionState.PREPARING:
        return progress, ()
    progress = replace(progress, durable=outcome)
    if progress.state is not TransactionState.DECIDING:
        return _finish_if_settled(progress, ())
    if outcome is Outcome.COMMITTED:
        progress = _moved(progress, TransactionState.COMMITTING)
    else:
        progress = _moved(progress, TransactionState.ABORTING)
    return _finish_if_settled(progress, _phase_two(progress))


def _on_settled(progress: Progress, branch_id: BranchId) -> Step:
    if progress.state not in (TransactionState.COMMITTING, TransactionState.ABORTING):
        return progress, ()
    return _finish_if_settled(_with(progress, branch_id, settled=True), ())


def _phase_two(progress: Progress) -> tuple[Action, ...]:
    """Messages to all that may hold a reservation: every branch but those that said they do not."""
    send = SendCommit if progress.state is TransactionState.COMMITTING else SendAbort
    return tuple(
        send(branch_id) for branch_id, branch in progress.branches.items() if _takes_part(branch)
    )


def _takes_part(branch: BranchProgress) -> bool:
    return branch.vote not in (Vote.ABORT, Vote.READ_ONLY)


def _finish_if_settled(progress: Progress, actions: tuple[Action, ...]) -> Step:
    if progress.durable is None or any(
        _takes_part(branch) and not branch.settled for branch in progress.branches.values()
    ):
        return progress, actions
    if progress.state is TransactionState.COMMITTING:
        return _moved(progress, TransactionState.COMMITTED), (*actions, WriteEnd())
    if progress.state is TransactionState.ABORTING:
        return _moved(progress, TransactionState.ABORTED), actions
    return progress, actions


def _moved(progress: Progress, to: TransactionState) -> Progress:
    return replace(progress, state=move(TRANSACTION_MOVES, progress.state, to))


def _with(
    progress: Progress, branch_id: BranchId, *, vote: Vote | None = None, settled: bool = False
) -> Progress:
    branch = progress.branches[branch_id]
    changed = BranchProgress(vote or branch.vote, settled or branch.settled)
    return replace(progress, branches={**progress.branches, branch_id: changed})
