"""The values that coordinator, participant, log and transport pass to each other.

They are plain data that nobody changes, independent of protobuf and of any store, so that the same
engine runs over gRPC and SQLite in production and over neither in a simulation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple, NewType, TypeAlias

from txn.errors import TxnError
from txn.state import BranchState, Outcome, Vote
from txn.value import value

TxnId = NewType("TxnId", str)
BranchId = NewType("BranchId", str)
# The right to decide, one for each start of a coordinator; greater ones are later.
Epoch = NewType("Epoch", int)

NO_EPOCH = Epoch(0)
_EPOCH_DIGITS_MAX = 12


class BranchKey(NamedTuple):
    """Names one branch for ever; the key of the barrier."""

    txn_id: TxnId
    branch_id: BranchId


class Operation(NamedTuple):
    """What a branch is to do, opaque here: a type URL and that message's bytes."""

    type_url: str
    value: bytes


class Branch(NamedTuple):
    """One operation at one participant, as the caller asked for it."""

    branch_id: BranchId
    participant: str
    operation: Operation


class LoggedBranch(NamedTuple):
    """A branch as the decision log keeps it: whom to tell, and whether there is a need to."""

    branch_id: BranchId
    participant: str
    vote: Vote | None


class RequestKey(NamedTuple):
    """The caller's own name for a transaction, and a digest of what it stood for."""

    caller: str
    idempotency_key: str
    body_hash: bytes


@value
class Decision:
    """One write-once outcome row, or a claim: then `outcome` is PENDING.

    A claim keeps its key for a transaction in one phase, whose participant knows the outcome
    first; it is closed, once, when the coordinator knows it too.
    `request` is None for an abort that an inquiry wrote: nobody's key belongs to it.
    `decided_at_us` is UTC, microseconds since 1970: for people, and to tell what is old.
    `ended` means that every participant has acknowledged; only commits wait for that, and claims
    have no end.
    """

    txn_id: TxnId
    outcome: Outcome
    request: RequestKey | None
    branches: tuple[LoggedBranch, ...]
    decided_at_us: int
    reason: str = ""
    refused_branch_id: str = ""
    ended: bool = False


@value
class BranchRow:
    """What a participant remembers of a branch. `operation` is None for an empty abort.

    `reason` is that of a refusal in one phase, which leaves a row: who asks again is told it.
    """

    key: BranchKey
    state: BranchState
    coordinator: str
    operation: Operation | None
    prepared_at_us: int
    reason: str = ""


@value
class Prepare:
    """Reserve and vote; `coordinator` is whom to ask when no outcome comes."""

    key: BranchKey
    coordinator: str
    operation: Operation


@value
class Commit:
    """Make a prepared branch final."""

    key: BranchKey


@value
class Abort:
    """Give back what a branch holds, if it holds anything."""

    key: BranchKey


@value
class Perform:
    """Reserve and make final at once, or refuse for good: all of a transaction in one phase."""

    key: BranchKey
    coordinator: str
    operation: Operation


@value
class Resolve:
    """Say whether it was performed; if not, it never will be: `reason` is kept with that."""

    key: BranchKey
    reason: str = ""


Message: TypeAlias = Prepare | Commit | Abort | Perform | Resolve
# What carries an operation, and may be refused, since nothing depends on it yet.
TO_DO = (Prepare, Perform)
# What follows a decision, and is acknowledged.
TOLD = (Commit, Abort)
ONE_PHASE = (Perform, Resolve)


@value
class VoteReply:
    """The answer to prepare, perform and resolve: to the latter two it is the outcome.

    `reason` says in UPPER_SNAKE_CASE why a vote is ABORT.
    """

    vote: Vote
    reason: str = ""


# A vote; None for "done and durable"; or why there is neither.
Reply: TypeAlias = VoteReply | TxnError | None


@value
class Batch:
    """What a coordinator tells one participant at once; the messages are answered, in order.

    The rest rides along and is not answered. `forgettable` are commits of which nobody will
    ask again: their end is durable. Every Prepare of the same log with a txn_id below
    `prepare_horizon` is late, however it got here: none is sent, or waited for, any more.
    """

    messages: Sequence[Message]
    forgettable: Sequence[BranchKey] = ()
    prepare_horizon: TxnId | None = None


class Ended(NamedTuple):
    """What a coordinator answers a participant that asks what it may forget.

    `txn_ids` are commits of which nobody will ask again; `prepare_horizon` as that of Batch,
    None when there is none yet, and then nothing may be forgotten.
    """

    txn_ids: frozenset[TxnId]
    prepare_horizon: TxnId | None


class CoordinatorInfo(NamedTuple):
    """One coordinator among those of a log: its name, its epoch, how much it drives now."""

    log_id: str
    epoch: Epoch
    instance: str
    active: int


def log_id_of(txn_id: str) -> str:
    """The name of the log that decides a transaction: what its id ends with."""
    _, dash, name = txn_id.rpartition("-")
    return dash + name if dash else ""


def epoch_of(txn_id: str) -> Epoch:
    """The epoch in which a transaction was begun; NO_EPOCH of one from before there were any."""
    name = txn_id.removesuffix(log_id_of(txn_id))
    _, dot, number = name.rpartition(".")
    is_one = dot and len(number) <= _EPOCH_DIGITS_MAX and number.isascii() and number.isdecimal()
    return Epoch(int(number)) if is_one else NO_EPOCH


def body_hash(branches: Iterable[Branch]) -> bytes:
    """Digest of what a caller asked for, to tell a retry from another request under one key."""
    parts: list[bytes] = []
    for branch_id, participant, (type_url, content) in branches:
        for field in (branch_id.encode(), participant.encode(), type_url.encode(), content):
            parts.append(len(field).to_bytes(8, "big"))
            parts.append(field)
    return hashlib.sha256(b"".join(parts)).digest()
