"""The states of transactions and branches, and the one table of legal moves for each.

Presumed abort (Mohan, Lindsay and Obermarck, "Transaction Management in the R*
Distributed Database Management System", 1986): absence of a logged commit means abort,
so an abort needs no log of its own to be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar


class _State(Enum):
    """An enumeration whose members are looked up often: the hash of its own is Python code."""

    __hash__ = object.__hash__


class Vote(_State):
    """A participant's answer to prepare."""

    COMMIT = "COMMIT"
    ABORT = "ABORT"
    READ_ONLY = "READ_ONLY"


class Outcome(_State):
    """What a caller may conclude. COMMITTED and ABORTED are final, PENDING is not."""

    COMMITTED = "COMMITTED"
    ABORTED = "ABORTED"
    PENDING = "PENDING"


class TransactionState(_State):
    """Where a transaction stands at its coordinator."""

    PREPARING = "PREPARING"
    DECIDING = "DECIDING"
    COMMITTING = "COMMITTING"
    ABORTING = "ABORTING"
    COMMITTED = "COMMITTED"
    ABORTED = "ABORTED"
    # Of a transaction in one phase, before it is COMMITTED or an outcome is forced.
    CLAIMING = "CLAIMING"
    PERFORMING = "PERFORMING"
    RESOLVING = "RESOLVING"


class BranchState(_State):
    """Where a branch stands at its participant. PREPARED is in doubt."""

    PREPARED = "PREPARED"
    COMMITTED = "COMMITTED"
    ABORTED = "ABORTED"


class IllegalTransition(RuntimeError):
    """A move that the table does not have: a defect in this code, never a caller's fault."""


_T = TransactionState
TRANSACTION_MOVES: Mapping[TransactionState, frozenset[TransactionState]] = {
    _T.PREPARING: frozenset({_T.DECIDING, _T.ABORTING}),
    # To ABORTING when somebody else's write-once outcome row came first.
    _T.DECIDING: frozenset({_T.COMMITTING, _T.ABORTING}),
    _T.COMMITTING: frozenset({_T.COMMITTED}),
    _T.ABORTING: frozenset({_T.ABORTED}),
    _T.COMMITTED: frozenset(),
    _T.ABORTED: frozenset(),
    # To ABORTING when another has the key.
    _T.CLAIMING: frozenset({_T.PERFORMING, _T.ABORTING}),
    # To COMMITTING when nothing was to be done: only its row says so, which is forced.
    _T.PERFORMING: frozenset({_T.COMMITTED, _T.COMMITTING, _T.ABORTING, _T.RESOLVING, _T.DECIDING}),
    # To DECIDING when an operator has said what the participant would not.
    _T.RESOLVING: frozenset({_T.COMMITTED, _T.ABORTING, _T.DECIDING}),
}

_B = BranchState
BRANCH_MOVES: Mapping[BranchState | None, frozenset[BranchState]] = {
    # None is a branch never heard of; straight to ABORTED is the empty abort, and a refusal in
    # one phase; straight to COMMITTED is what is performed.
    None: frozenset({_B.PREPARED, _B.ABORTED, _B.COMMITTED}),
    _B.PREPARED: frozenset({_B.COMMITTED, _B.ABORTED}),
    _B.COMMITTED: frozenset(),
    _B.ABORTED: frozenset(),
}

_From = TypeVar("_From")
_To = TypeVar("_To")


def move(moves: Mapping[_From, frozenset[_To]], at: _From, to: _To) -> _To:
    """Returns `to` when the table allows the move; raises IllegalTransition otherwise."""
    if to not in moves[at]:
        raise IllegalTransition(f"{at} -> {to}")
    return to
