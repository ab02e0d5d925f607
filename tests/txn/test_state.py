"""The tables of legal moves."""

from __future__ import annotations

from itertools import product

import pytest

from txn.state import (
    BRANCH_MOVES,
    TRANSACTION_MOVES,
    BranchState,
    IllegalTransition,
    TransactionState,
    move,
)

T = TransactionState
B = BranchState

LEGAL_TRANSACTION = {
    (T.PREPARING, T.DECIDING),
    (T.PREPARING, T.ABORTING),
    (T.DECIDING, T.COMMITTING),
    (T.DECIDING, T.ABORTING),
    (T.COMMITTING, T.COMMITTED),
    (T.ABORTING, T.ABORTED),
    (T.CLAIMING, T.PERFORMING),
    (T.CLAIMING, T.ABORTING),
    (T.PERFORMING, T.COMMITTED),
    (T.PERFORMING, T.COMMITTING),
    (T.PERFORMING, T.ABORTING),
    (T.PERFORMING, T.RESOLVING),
    (T.PERFORMING, T.DECIDING),
    (T.RESOLVING, T.COMMITTED),
    (T.RESOLVING, T.DECIDING),
    (T.RESOLVING, T.ABORTING),
}
LEGAL_BRANCH = {
    (None, B.PREPARED),
    (None, B.ABORTED),
    (None, B.COMMITTED),
    (B.PREPARED, B.COMMITTED),
    (B.PREPARED, B.ABORTED),
}


@pytest.mark.parametrize(("at", "to"), list(product(T, T)))
def test_transaction_moves(at: TransactionState, to: TransactionState) -> None:
    """A transaction moves as the table says and in no other way."""
    if (at, to) in LEGAL_TRANSACTION:
        assert to is move(TRANSACTION_MOVES, at, to)
    else:
        with pytest.raises(IllegalTransition):
            move(TRANSACTION_MOVES, at, to)


@pytest.mark.parametrize(("at", "to"), list(product([None, *B], B)))
def test_branch_moves(at: BranchState | None, to: BranchState) -> None:
    """A branch moves as the table says and in no other way."""
    if (at, to) in LEGAL_BRANCH:
        assert to is move(BRANCH_MOVES, at, to)
    else:
        with pytest.raises(IllegalTransition):
            move(BRANCH_MOVES, at, to)


def test_an_illegal_move_says_which() -> None:
    """Whoever reads the log of a defect sees from where to where it was."""
    with pytest.raises(IllegalTransition, match=r"ABORTED -> \w+\.COMMITTED"):
        move(BRANCH_MOVES, B.ABORTED, B.COMMITTED)
