"""The values that coordinator, participant, log and transport pass to each other.

They are plain frozen data, independent of protobuf and of any store, so that the same
engine runs over gRPC and SQLite in production and over neither in a simulation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NewType

from txn.state import BranchState, Outcome, Vote

TxnId = NewType("TxnId", str)
BranchId = NewType("BranchId", str)


@dataclass(frozen=True, slots=True, order=True)
class BranchKey:
    """Names one branch for ever; the key of the barrier."""

    txn_id: TxnId
    branch_id: BranchId


@dataclass(frozen=True, slots=True)
class Operation:
    """What a branch is to do, opaque here: a type URL and that message's bytes."""

    type_url: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Branch:
    """One operation at one participant, as the caller asked for it."""

    branch_id: BranchId
    participant: str
    operation: Operation


@dataclass(frozen=True, slots=True)
class LoggedBranch:
    """A branch as the decision log keeps it: whom to tell, and whether there is a need to."""

    branch_id: BranchId
    participant: str
    vote: Vote | None


@dataclass(frozen=True, slots=True)
class RequestKey:
    """The caller's own name for a transaction, and a digest of what it stood for."""

    caller: str
    idempotency_key: str
    body_hash: bytes


@dataclass(frozen=True, slots=True)
class Decision:
    """One write-once outcome row.

    `request` is None for an abort that an inquiry wrote: nobody's key belongs to it.
    `decided_at_us` is UTC, microseconds since 1970, for people; nothing is decided by it.
    `ended` means that every participant has acknowledged; only commits wait for that.
    """

    txn_id: TxnId
    outcome: Outcome
    request: RequestKey | None
    branches: tuple[LoggedBranch, ...]
    decided_at_us: int
    reason: str = ""
    refused_branch_id: str = ""
    ended: bool = False


@dataclass(frozen=True, slots=True)
class BranchRow:
    """What a participant remembers of a branch. `operation` is None for an empty abort."""

    key: BranchKey
    state: BranchState
    coordinator: str
    operation: Operation | None
    prepared_at_us: int


@dataclass(frozen=True, slots=True)
class Prepare:
    """The prepare message."""

    key: BranchKey
    coordinator: str
    operation: Operation


@dataclass(frozen=True, slots=True)
class VoteReply:
    """The answer to prepare. `reason` says in UPPER_SNAKE_CASE why a vote is ABORT."""

    vote: Vote
    reason: str = ""


def body_hash(branches: Iterable[Branch]) -> bytes:
    """Digest of what a caller asked for, to tell a retry from another request under one key."""
    digest = hashlib.sha256()
    for branch in branches:
        fields = (
            branch.branch_id.encode(),
            branch.participant.encode(),
            branch.operation.type_url.encode(),
            branch.operation.value,
        )
        for field in fields:
            digest.update(len(field).to_bytes(8, "big"))
            digest.update(field)
    return digest.digest()
