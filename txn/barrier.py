"""What a participant does with a message, given what it remembers of the branch.

The barrier makes messages safe to lose, repeat and reorder (the problem and the names
are those of Seata's TCC fence and DTM's branch barrier):

    duplicate      the same message again       -> the same answer, no second effect
    empty abort    abort before any prepare     -> remembered, succeeds
    late prepare   prepare after that abort     -> votes ABORT, reserves nothing

What is forgotten is still late: below the horizon that a log has told, no prepare is taken.

Rules only: the caller reads the row and acts within one local transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from txn.errors import (
    Alarm,
    BranchAborted,
    BranchCommitted,
    BranchDiffers,
    BranchForgotten,
    BranchPrepared,
    Busy,
    Refused,
    UnknownBranch,
)
from txn.model import BranchKey, BranchRow, Operation, TxnId
from txn.state import BranchState


class OnPrepare(Enum):
    """What to do with a prepare."""

    RUN = "reserve and vote"
    REPEAT = "voted COMMIT before: say so again"
    LATE = "aborted, or over and forgotten: vote ABORT"
    CONFLICT = "another operation under the same name"


class OnCommit(Enum):
    """What to do with a commit."""

    APPLY = "make it final"
    DONE = "was committed before"
    UNKNOWN = "never prepared here: alarm"
    WAS_ABORTED = "was aborted here: alarm"


class OnAbort(Enum):
    """What to do with an abort."""

    UNDO = "void the reservation"
    REMEMBER = "nothing to undo: leave an empty abort behind"
    DONE = "was aborted before"
    WAS_COMMITTED = "was committed here: alarm"


class OnPerform(Enum):
    """What to do with a perform."""

    RUN = "reserve, make final and remember; or remember the refusal"
    REPEAT = "was performed before: vote COMMIT"
    LATE = "refused, resolved, or over and forgotten: vote ABORT"
    CONFLICT = "another operation under the same name: alarm"
    WAS_PREPARED = "is in two phases here: alarm"


class OnResolve(Enum):
    """What to do with the question whether something was performed."""

    REMEMBER = "it was not, and never will be: leave an empty abort behind"
    COMMITTED = "it was"
    ABORTED = "it was not"
    FORGOTTEN = "it may have been here, and be forgotten: alarm"
    WAS_PREPARED = "is in two phases here: alarm"


# What is answered to what is an alarm.
ALARMS: Mapping[object, tuple[type[Alarm], str]] = {
    OnCommit.UNKNOWN: (UnknownBranch, "the branch was never prepared here"),
    OnCommit.WAS_ABORTED: (BranchAborted, "the branch was aborted here"),
    OnAbort.WAS_COMMITTED: (BranchCommitted, "the branch was committed here"),
    OnPerform.CONFLICT: (BranchDiffers, "another operation was performed here under this name"),
    OnPerform.WAS_PREPARED: (BranchPrepared, "the branch was prepared here"),
    OnResolve.WAS_PREPARED: (BranchPrepared, "the branch was prepared here"),
    OnResolve.FORGOTTEN: (BranchForgotten, "the branch may have been here and be forgotten"),
}


def on_prepare(
    row: BranchRow | None, key: BranchKey, operation: Operation, horizon: str = ""
) -> OnPrepare:
    """The rule for a prepare that carries `operation`; see `Batch.prepare_horizon`."""
    if row is None:
        return OnPrepare.LATE if key.txn_id < horizon else OnPrepare.RUN
    if row.state is BranchState.ABORTED:
        return OnPrepare.LATE
    if row.operation != operation:
        return OnPrepare.CONFLICT
    return OnPrepare.REPEAT


def on_commit(row: BranchRow | None) -> OnCommit:
    """The rule for a commit. A branch never heard of is an alarm, never success."""
    if row is None:
        return OnCommit.UNKNOWN
    return {
        BranchState.PREPARED: OnCommit.APPLY,
        BranchState.COMMITTED: OnCommit.DONE,
        BranchState.ABORTED: OnCommit.WAS_ABORTED,
    }[row.state]


def on_abort(row: BranchRow | None) -> OnAbort:
    """The rule for an abort."""
    if row is None:
        return OnAbort.REMEMBER
    return {
        BranchState.PREPARED: OnAbort.UNDO,
        BranchState.COMMITTED: OnAbort.WAS_COMMITTED,
        BranchState.ABORTED: OnAbort.DONE,
    }[row.state]


def on_perform(
    row: BranchRow | None, key: BranchKey, operation: Operation, horizon: str = ""
) -> OnPerform:
    """The rule for a perform, as for a prepare; but what was refused is not tried again."""
    if row is None:
        return OnPerform.LATE if key.txn_id < horizon else OnPerform.RUN
    if row.state is BranchState.PREPARED:
        return OnPerform.WAS_PREPARED
    if row.state is BranchState.ABORTED:
        return OnPerform.LATE
    return OnPerform.REPEAT if row.operation == operation else OnPerform.CONFLICT


def on_resolve(row: BranchRow | None, key: BranchKey, horizon: str = "") -> OnResolve:
    """The rule for the question what became of a perform.

    Its coordinator holds the horizon back until it knows. So below the horizon absence says
    nothing: who asks has lost what the log had said since, and ABORT would be a guess.
    """
    if row is None:
        return OnResolve.FORGOTTEN if key.txn_id < horizon else OnResolve.REMEMBER
    return {
        BranchState.PREPARED: OnResolve.WAS_PREPARED,
        BranchState.COMMITTED: OnResolve.COMMITTED,
        BranchState.ABORTED: OnResolve.ABORTED,
    }[row.state]


def in_the_way(asking: TxnId, holding: TxnId, reason: str) -> Busy | Refused:
    """What to raise when `asking` wants what `holding`, not final yet, has reserved.

    A younger transaction waits for an older one, never the other way round: so no two wait
    for each other, and a retry waits for what its predecessor has left in doubt. (Ids sort
    by age. The one-way rule is Rosenkrantz, Stearns and Lewis, "System Level Concurrency
    Control for Distributed Database Systems", 1978.)
    """
    return Busy(reason) if asking > holding else Refused(reason)
