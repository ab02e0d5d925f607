"""What can go wrong in a transaction, one class per meaning.

TxnError
|-- Refused               a participant's resource says no: the vote is ABORT
|-- Busy                  another transaction, not final yet, holds what is wanted
|-- InvalidOperation      an operation, or the list of them, breaks a rule
|-- IdempotencyConflict   one key, two different requests
|-- UnknownParticipant    not on the coordinator's list
|-- NotFound              no such transaction or branch
|-- Overloaded            a named limit is reached; nothing was done, try later
|-- TooOld                below what the log still knows: nothing can be said of it any more
|-- OtherLog              decided, or to be decided, in another coordinator's log
|-- ForceRefused          to an operator: what stands is not changed by force
|-- ShuttingDown          starting or draining; nothing was done, try elsewhere
|-- Alarm                 a promise was broken somewhere; people must look
|   |-- UnknownBranch     commit of a branch that was never prepared here
|   |-- BranchAborted     commit of a branch that was aborted here
|   |-- BranchCommitted   abort of a branch that was committed here
|   |-- ResourceFailed    a resource could not do what its vote had promised
|   |-- BranchPrepared    asked in one phase about a branch that was prepared here
|   |-- BranchDiffers     another operation was performed under the name of this one
|   `-- BranchForgotten   asked what became of a branch that may have been forgotten here
|-- TransactionAborted    to a caller: final, no branch took effect
|-- OutcomeUnknown        to a caller: not known yet; the same key asks again
|-- RequestRefused        to a caller: not taken by the coordinator, nothing was begun
|-- Unreachable           no answer from the other side: it may or may not have acted
`-- StoreError
    |-- StoreFull         too little free space: refused before anything was begun
    |-- StoreClosed       the store was closed before the work ran
    |-- GroupLost         the storage undid the whole group, this work with it
    |-- StoreAway         its server cannot be reached: nothing was begun
    |-- AlreadyOwned      another process owns this decision log
    `-- LogDamaged        the decision log is not as it was written: nothing is said from it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class TxnError(Exception):
    """Base of everything that this package raises on purpose."""


class Refused(TxnError):
    """Raised by a resource's prepare: the branch votes ABORT for this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Busy(TxnError):
    """Raised by a resource's prepare: another transaction holds it and is not final yet.

    Nothing is changed. The coordinator asks again until its prepare timeout is over, and
    then aborts for this reason.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One broken rule: the path of the field, the rule's name, and the rule in words."""

    field: str
    rule: str
    description: str

    def inside(self, prefix: str) -> FieldViolation:
        """The same, seen from a message that holds the field's message under `prefix`."""
        return FieldViolation(f"{prefix}.{self.field}", self.rule, self.description)


class InvalidOperation(TxnError):
    """An operation is of an unknown type, unreadable, or breaks a rule; or the list does."""

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)


class IdempotencyConflict(TxnError):
    """The idempotency key, or the branch, stands for another request already."""


class UnknownParticipant(TxnError):
    """The participant is not one that this coordinator may speak to."""

    def __init__(self, index: int, participant: str) -> None:
        super().__init__(f"{participant!r} is not a participant of this coordinator")
        self.index = index


class NotFound(TxnError):
    """There is no record of it."""


class Overloaded(TxnError):
    """A named limit is reached; nothing was done."""


class TooOld(TxnError):
    """The log has been truncated up to here: that there is no row says nothing."""


class OtherLog(TxnError):
    """The transaction belongs to another coordinator's log: nothing can be said of it here."""


class ShuttingDown(TxnError):
    """Not serving now; nothing was done."""


class ForceRefused(TxnError):
    """An operator may not force that. `stands` says what is there, and it was not changed."""

    def __init__(self, stands: str, why: str) -> None:
        super().__init__(f"it stands as {stands}: {why}")
        self.stands = stands


class Alarm(TxnError):
    """Two sides disagree about an outcome: never success, never retried into silence."""


class UnknownBranch(Alarm):
    """Commit of a branch that this participant never prepared."""


class BranchAborted(Alarm):
    """Commit of a branch that was aborted here."""


class BranchCommitted(Alarm):
    """Abort of a branch that was committed here."""


class ResourceFailed(Alarm):
    """A resource could not do what its vote had promised."""


class Unreachable(TxnError):
    """No answer in time: the other side may or may not have acted. Retry what is idempotent."""


class BranchPrepared(Alarm):
    """Asked in one phase about a branch that takes two here."""


class BranchDiffers(Alarm):
    """Asked to perform another operation than was performed under this name."""


class BranchForgotten(Alarm):
    """Asked what became of a branch so old that it may have been here and be forgotten."""


class TransactionAborted(TxnError):
    """No branch takes effect. Final, also for its idempotency key: a new attempt takes a new one.

    `reason` is that of the vote that refused, in UPPER_SNAKE_CASE, or PARTICIPANT_UNAVAILABLE;
    or INTERRUPTED, where the coordinator of a single branch ended before its participant heard
    of it. `refused_branch_id` is empty when no branch refused.
    """

    def __init__(self, reason: str, refused_branch_id: str, txn_id: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.refused_branch_id = refused_branch_id
        self.txn_id = txn_id


class OutcomeUnknown(TxnError):
    """The transaction may commit, abort, or have done either: it is not known yet.

    Not a failure, and no reason to undo anything or to try under another key: the same
    request with the same `idempotency_key` has no second effect and tells the outcome.
    `reason` says what came in the place of an outcome.
    """

    def __init__(self, idempotency_key: str, reason: str) -> None:
        super().__init__(f"the outcome of {idempotency_key!r} is not known yet: {reason}")
        self.idempotency_key = idempotency_key
        self.reason = reason


class RequestRefused(TxnError):
    """The coordinator did not take the request, and would not take it again: nothing was begun."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StoreError(TxnError):
    """The store cannot take the work."""


class StoreFull(StoreError):
    """Free space is below the reserve; nothing was begun."""


class StoreClosed(StoreError):
    """The store was closed before the work ran."""


class GroupLost(StoreError):
    """The storage undid the whole group by itself (out of space, I/O error); nothing was done."""


class StoreAway(StoreError):
    """The server of the store cannot be reached; nothing was begun."""


class Fenced(StoreError):
    """The epoch under which this coordinator decides is over: another one has taken over."""


class AlreadyOwned(StoreError):
    """Another process owns this decision log."""


class LogDamaged(StoreError):
    """The decision log has lost something or was changed: absence in it means nothing."""
