"""The coordinator's side of two-phase commit: (progress, event) -> (progress, actions).

No clock, no network, no store: the engine in coordinator.py performs the actions and
feeds back what happened. Docs: docs/two_phase_commit.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from txn.model import BranchId
from txn.state import TRANSACTION_MOVES, Outcome, TransactionState, Vote, move
from txn.value import value


class BranchProgress(NamedTuple):
    """One branch: its vote once known, whether it refused, whether phase two reached it."""

    vote: Vote | None = None
    settled: bool = False


class Progress(NamedTuple):
    """One transaction. `durable` is the outcome once its row stands in the log.

    `awaited` counts the branches that have not voted, and then those not settled.
    """

    state: TransactionState
    branches: dict[BranchId, BranchProgress]
    awaited: int
    reason: str = ""
    refused_branch_id: str = ""
    durable: Outcome | None = None


@value
class Voted:
    """A participant answered prepare."""

    branch_id: BranchId
    vote: Vote
    reason: str = ""


@value
class PrepareFailed:
    """No vote came in time, or the request was refused. The branch may be prepared all the same."""

    branch_id: BranchId
    reason: str


@value
class OutcomeStands:
    """An outcome row is durable; it may be another's, written first."""

    outcome: Outcome


@value
class Settled:
    """A participant acknowledged phase two, or was given up on (aborts only)."""

    branch_id: BranchId


Event = Voted | PrepareFailed | OutcomeStands | Settled


@value
class SendPrepare:
    """Ask for the vote."""

    branch_id: BranchId


@value
class SendCommit:
    """Tell the participant, until it acknowledges."""

    branch_id: BranchId


@value
class SendAbort:
    """Tell the participant; if it never hears, it will ask."""

    branch_id: BranchId


@value
class ForceOutcome:
    """Write the outcome row, once for ever, and wait until it is durable."""

    outcome: Outcome


@value
class WriteEnd:
    """Note that nobody needs this decision any more; need not be forced."""


Action = SendPrepare | SendCommit | SendAbort | ForceOutcome | WriteEnd

Step = tuple[Progress, tuple[Action, ...]]

_UNKNOWN = BranchProgress()
_NO_PART = (Vote.ABORT, Vote.READ_ONLY)


def begin(branch_ids: Iterable[BranchId]) -> Step:
    """A new transaction: prepare all branches at once."""
    branches = dict.fromkeys(branch_ids, _UNKNOWN)
    progress = Progress(TransactionState.PREPARING, branches, len(branches))
    return progress, tuple([SendPrepare(branch_id) for branch_id in branches])


def resume(votes: Iterable[tuple[BranchId, Vote | None]]) -> Step:
    """A transaction whose commit is in the log and whose end is not: phase two again."""
    progress = Progress(
        TransactionState.COMMITTING,
        {branch_id: BranchProgress(vote) for branch_id, vote in votes},
        0,
        durable=Outcome.COMMITTED,
    )
    progress, actions = _phase_two(progress, TransactionState.COMMITTING)
    return _finish_if_settled(progress, actions)


def step(progress: Progress, event: Event) -> Step:
    """What follows from `event`. Late and repeated events change nothing."""
    return _STEPS[type(event)](progress, event)


def _on_vote(progress: Progress, event: Voted) -> Step:
    branch_id, vote = event.branch_id, event.vote
    if not _is_awaited(progress, branch_id):
        return progress, ()
    if vote is Vote.ABORT:
        return _refuse(progress, branch_id, event.reason, vote)
    branches = {**progress.branches, branch_id: BranchProgress(vote)}
    awaited = progress.awaited - 1
    if awaited:
        return Progress(progress.state, branches, awaited), ()
    state = move(TRANSACTION_MOVES, progress.state, TransactionState.DECIDING)
    return Progress(state, branches, 0), (_FORCE_COMMIT,)


def _on_prepare_failed(progress: Progress, event: PrepareFailed) -> Step:
    if not _is_awaited(progress, event.branch_id):
        return progress, ()
    return _refuse(progress, event.branch_id, event.reason, None)


def _refuse(progress: Progress, branch_id: BranchId, reason: str, vote: Vote | None) -> Step:
    """The first refusal aborts. The abort messages do not wait for the log: presumed abort."""
    branches = {**progress.branches, branch_id: BranchProgress(vote)}
    state = move(TRANSACTION_MOVES, progress.state, TransactionState.ABORTING)
    refused = Progress(state, branches, 0, reason, branch_id)
    refused, actions = _phase_two(refused, state)
    return refused, (*actions, _FORCE_ABORT)


def _is_awaited(progress: Progress, branch_id: BranchId) -> bool:
    """A branch has one word. Were a second to replace a COMMIT, nobody would tell it to abort."""
    preparing = progress.state is TransactionState.PREPARING
    return preparing and progress.branches[branch_id].vote is None


def _on_outcome(progress: Progress, event: OutcomeStands) -> Step:
    if progress.durable is not None or progress.state is TransactionState.PREPARING:
        return progress, ()
    state, branches, awaited, reason, refused_branch_id, _ = progress
    progress = Progress(state, branches, awaited, reason, refused_branch_id, event.outcome)
    if state is not TransactionState.DECIDING:
        return _finish_if_settled(progress, ())
    committed = event.outcome is Outcome.COMMITTED
    to = TransactionState.COMMITTING if committed else TransactionState.ABORTING
    progress, actions = _phase_two(progress, move(TRANSACTION_MOVES, state, to))
    return _finish_if_settled(progress, actions)


def _on_settled(progress: Progress, event: Settled) -> Step:
    state, branches, awaited, reason, refused_branch_id, durable = progress
    if state not in (TransactionState.COMMITTING, TransactionState.ABORTING):
        return progress, ()
    vote, was_settled = branches[event.branch_id]
    if was_settled or vote in _NO_PART:
        return progress, ()
    branches = {**branches, event.branch_id: BranchProgress(vote, settled=True)}
    progress = Progress(state, branches, awaited - 1, reason, refused_branch_id, durable)
    return _finish_if_settled(progress, ())


def _phase_two(progress: Progress, state: TransactionState) -> Step:
    """Messages to all that may hold a reservation: every branch but those that said they do not."""
    send = SendCommit if state is TransactionState.COMMITTING else SendAbort
    actions = tuple(
        [
            send(branch_id)
            for branch_id, (vote, _) in progress.branches.items()
            if vote not in _NO_PART
        ]
    )
    _, branches, _, reason, refused_branch_id, durable = progress
    return Progress(state, branches, len(actions), reason, refused_branch_id, durable), actions


def _finish_if_settled(progress: Progress, actions: tuple[Action, ...]) -> Step:
    if progress.durable is None or progress.awaited:
        return progress, actions
    if progress.state is TransactionState.COMMITTING:
        return _moved(progress, TransactionState.COMMITTED), (*actions, _END)
    if progress.state is TransactionState.ABORTING:
        return _moved(progress, TransactionState.ABORTED), actions
    return progress, actions


def _moved(progress: Progress, to: TransactionState) -> Progress:
    state, branches, awaited, reason, refused_branch_id, durable = progress
    state = move(TRANSACTION_MOVES, state, to)
    return Progress(state, branches, awaited, reason, refused_branch_id, durable)


_FORCE_COMMIT = ForceOutcome(Outcome.COMMITTED)
_FORCE_ABORT = ForceOutcome(Outcome.ABORTED)
_END = WriteEnd()
_STEPS: Mapping[type[Event], Callable[[Progress, Any], Step]] = {
    Voted: _on_vote,
    PrepareFailed: _on_prepare_failed,
    OutcomeStands: _on_outcome,
    Settled: _on_settled,
}
