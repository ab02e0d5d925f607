"""The coordinator's side of two-phase commit: (progress, event) -> (progress, actions).

No clock, no network, no store: the engine in coordinator.py performs the actions and
feeds back what happened. Docs: docs/two_phase_commit.md.

A single branch may take one phase (docs/adr/0005-one-phase-for-a-single-branch.md): its key
is claimed, its participant decides, and the coordinator finds out.
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


@value
class ClaimStands:
    """In one phase: the key is this transaction's, durably."""


@value
class Stated:
    """In one phase: an operator says what the participant has done, which does not say so."""

    outcome: Outcome


Event = Voted | PrepareFailed | OutcomeStands | Settled | ClaimStands | Stated


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


@value
class ForceClaim:
    """Write down whose the key is, and wait until it is durable; nothing was sent before."""


@value
class SendPerform:
    """Ask for all of it at once."""

    branch_id: BranchId


@value
class SendResolve:
    """Ask whether it was performed, until that is answered."""

    branch_id: BranchId


@value
class ForceClosed:
    """Make the claim an outcome that nobody else knows, and wait until that is durable."""

    outcome: Outcome


@value
class WriteCommitted:
    """Make the claim a commit, which its participant knows; need not be forced."""


@value
class ForceStated:
    """Make the claim what an operator has said, with the record of that; wait until durable."""

    outcome: Outcome


Send = SendPrepare | SendCommit | SendAbort | SendPerform | SendResolve
Action = Send | ForceOutcome | WriteEnd | ForceClaim | ForceClosed | WriteCommitted | ForceStated

Step = tuple[Progress, tuple[Action, ...]]

_UNKNOWN = BranchProgress()
_NO_PART = (Vote.ABORT, Vote.READ_ONLY)
_ASKED = (TransactionState.PERFORMING, TransactionState.RESOLVING)
_UNDECIDED = (TransactionState.PREPARING, *_ASKED)


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


def begin_in_one_phase(branch_id: BranchId) -> Step:
    """A new transaction with one branch: its key is claimed before anything is sent."""
    branches = {branch_id: _UNKNOWN}
    return Progress(TransactionState.CLAIMING, branches, 0), (ForceClaim(),)


def resume_claim(branch_id: BranchId, reason: str) -> Step:
    """A transaction of which the log has a claim: its participant has to be asked.

    `reason` is told should it turn out that nothing was done, for no reason that is known.
    """
    branches = {branch_id: _UNKNOWN}
    progress = Progress(TransactionState.RESOLVING, branches, 0, reason, branch_id)
    return progress, (SendResolve(branch_id),)


def resume_abort(branch_ids: Iterable[BranchId]) -> Step:
    """An abort that was stated by an operator, and that a participant has not acknowledged."""
    branches = dict.fromkeys(branch_ids, _UNKNOWN)
    progress = Progress(TransactionState.ABORTING, branches, 0, durable=Outcome.ABORTED)
    return _phase_two(progress, TransactionState.ABORTING)


def step(progress: Progress, event: Event) -> Step:
    """What follows from `event`. Late and repeated events change nothing."""
    return _STEPS[type(event)](progress, event)


def _on_vote(progress: Progress, event: Voted) -> Step:
    branch_id, vote = event.branch_id, event.vote
    if not _is_awaited(progress, branch_id):
        return _on_answer(progress, event) if progress.state in _ASKED else (progress, ())
    if vote is Vote.ABORT:
        return _refuse(progress, branch_id, event.reason, vote)
    branches = {**progress.branches, branch_id: BranchProgress(vote)}
    awaited = progress.awaited - 1
    if awaited:
        return Progress(progress.state, branches, awaited), ()
    state = move(TRANSACTION_MOVES, progress.state, TransactionState.DECIDING)
    return Progress(state, branches, 0), (_FORCE_COMMIT,)


def _on_prepare_failed(progress: Progress, event: PrepareFailed) -> Step:
    branch_id, reason = event.branch_id, event.reason
    if progress.state is TransactionState.PERFORMING:
        # It may be performed all the same, or be yet.
        state = move(TRANSACTION_MOVES, progress.state, TransactionState.RESOLVING)
        progress = Progress(state, progress.branches, 0, reason, branch_id)
        return progress, (SendResolve(branch_id),)
    if not _is_awaited(progress, branch_id):
        return progress, ()
    return _refuse(progress, branch_id, reason, None)


def _refuse(progress: Progress, branch_id: BranchId, reason: str, vote: Vote | None) -> Step:
    """The first refusal aborts. The abort messages do not wait for the log: presumed abort."""
    branches = {**progress.branches, branch_id: BranchProgress(vote)}
    state = move(TRANSACTION_MOVES, progress.state, TransactionState.ABORTING)
    refused = Progress(state, branches, 0, reason, branch_id)
    refused, actions = _phase_two(refused, state)
    return refused, (*actions, _FORCE_ABORT)


def _on_claim(progress: Progress, _event: ClaimStands) -> Step:
    if progress.state is not TransactionState.CLAIMING:
        return progress, ()
    actions = tuple([SendPerform(branch_id) for branch_id in progress.branches])
    return _moved(progress, TransactionState.PERFORMING), actions


def _on_answer(progress: Progress, event: Voted) -> Step:
    """What came of a single branch in one phase: its participant's word is the outcome.

    Of a commit the participant has a row, which it keeps until the claim is closed: so that
    need not be forced. What only the coordinator knows is, before anybody hears of it: that
    there was nothing to do, and for which reason nothing was done.
    """
    branch_id, vote = event.branch_id, event.vote
    branches = {branch_id: BranchProgress(vote, settled=True)}
    if vote is Vote.COMMIT:
        state = move(TRANSACTION_MOVES, progress.state, TransactionState.COMMITTED)
        done = Progress(state, branches, 0, durable=Outcome.COMMITTED)
        return done, (WriteCommitted(),)
    if vote is Vote.READ_ONLY:
        state = move(TRANSACTION_MOVES, progress.state, TransactionState.COMMITTING)
        return Progress(state, branches, 0), (ForceClosed(Outcome.COMMITTED),)
    state = move(TRANSACTION_MOVES, progress.state, TransactionState.ABORTING)
    reason = event.reason or progress.reason
    return Progress(state, branches, 0, reason, branch_id), (ForceClosed(Outcome.ABORTED),)


def _on_stated(progress: Progress, event: Stated) -> Step:
    """What an operator says is written as if it had been voted for, and then told.

    Who knows better answers that with an alarm, now or after a restart.
    """
    if progress.state not in _ASKED:
        return progress, ()
    vote = Vote.COMMIT if event.outcome is Outcome.COMMITTED else None
    branches = dict.fromkeys(progress.branches, BranchProgress(vote))
    state = move(TRANSACTION_MOVES, progress.state, TransactionState.DECIDING)
    return Progress(state, branches, 0), (ForceStated(event.outcome),)


def _is_awaited(progress: Progress, branch_id: BranchId) -> bool:
    """A branch has one word. Were a second to replace a COMMIT, nobody would tell it to abort."""
    preparing = progress.state is TransactionState.PREPARING
    return preparing and progress.branches[branch_id].vote is None


def _on_outcome(progress: Progress, event: OutcomeStands) -> Step:
    if progress.durable is not None or progress.state in _UNDECIDED:
        return progress, ()
    state, branches, awaited, reason, refused_branch_id, _ = progress
    if state is TransactionState.CLAIMING:
        # The key is another's, and nothing was sent.
        state = move(TRANSACTION_MOVES, state, TransactionState.ABORTING)
        event = _ANOTHERS
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
    return _moved(progress, TransactionState.ABORTED), actions


def _moved(progress: Progress, to: TransactionState) -> Progress:
    state, branches, awaited, reason, refused_branch_id, durable = progress
    state = move(TRANSACTION_MOVES, state, to)
    return Progress(state, branches, awaited, reason, refused_branch_id, durable)


_FORCE_COMMIT = ForceOutcome(Outcome.COMMITTED)
_FORCE_ABORT = ForceOutcome(Outcome.ABORTED)
_END = WriteEnd()
_ANOTHERS = OutcomeStands(Outcome.ABORTED)
_STEPS: Mapping[type[Event], Callable[[Progress, Any], Step]] = {
    Voted: _on_vote,
    PrepareFailed: _on_prepare_failed,
    OutcomeStands: _on_outcome,
    Settled: _on_settled,
    ClaimStands: _on_claim,
    Stated: _on_stated,
}
