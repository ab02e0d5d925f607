"""The barrier's table: what is remembered, what arrives, what is done."""

from __future__ import annotations

import pytest

from tests.txn.helpers import key, operation
from txn.barrier import (
    OnAbort,
    OnCommit,
    OnPerform,
    OnPrepare,
    OnResolve,
    in_the_way,
    on_abort,
    on_commit,
    on_perform,
    on_prepare,
    on_resolve,
)
from txn.errors import Busy, Refused
from txn.model import BranchRow, TxnId
from txn.state import BranchState

OP = operation(b"first")
OTHER = operation(b"second")


def _row(state: BranchState | None) -> BranchRow | None:
    return None if state is None else BranchRow(key(), state, "coordinator", OP, 1)


TABLE = [
    (None, OnPrepare.RUN, OnPrepare.RUN, OnCommit.UNKNOWN, OnAbort.REMEMBER),
    (
        BranchState.PREPARED,
        OnPrepare.REPEAT,
        OnPrepare.CONFLICT,
        OnCommit.APPLY,
        OnAbort.UNDO,
    ),
    (
        BranchState.COMMITTED,
        OnPrepare.REPEAT,
        OnPrepare.CONFLICT,
        OnCommit.DONE,
        OnAbort.WAS_COMMITTED,
    ),
    (BranchState.ABORTED, OnPrepare.LATE, OnPrepare.LATE, OnCommit.WAS_ABORTED, OnAbort.DONE),
]


@pytest.mark.parametrize(("state", "prepare", "prepare_other", "commit", "abort"), TABLE)
def test_table(
    state: BranchState | None,
    prepare: OnPrepare,
    prepare_other: OnPrepare,
    commit: OnCommit,
    abort: OnAbort,
) -> None:
    """Each message is answered from what is remembered of its branch, and from nothing else."""
    row = _row(state)
    assert prepare is on_prepare(row, key(), OP)
    assert prepare_other is on_prepare(row, key(), OTHER)
    assert commit is on_commit(row)
    assert abort is on_abort(row)


def test_prepare_after_an_empty_abort_is_late() -> None:
    """An empty abort has no operation to compare with, and refuses every prepare."""
    row = BranchRow(key(), BranchState.ABORTED, "", None, 1)
    assert OnPrepare.LATE is on_prepare(row, key(), OP)


def test_the_younger_waits_for_the_older_and_never_the_other_way() -> None:
    """Of two that want what the other holds one is refused at once, so neither waits for ever."""
    older, younger = TxnId("t1"), TxnId("t2")
    waits, gives_up = in_the_way(younger, older, "WHY"), in_the_way(older, younger, "WHY")
    assert isinstance(waits, Busy)
    assert isinstance(gives_up, Refused)
    assert ("WHY", "WHY") == (waits.reason, gives_up.reason)


def test_two_branches_of_one_transaction_do_not_wait_for_each_other() -> None:
    """What a transaction has itself reserved is not released before it ends: it is refused."""
    same = TxnId("t1")
    assert isinstance(in_the_way(same, same, "WHY"), Refused)


def test_nothing_is_late_where_no_log_has_told_a_horizon() -> None:
    """Without a horizon all that is unknown is new, whatever its id sorts like."""
    first = key("0192f0c1")
    assert OnPrepare.RUN is on_prepare(None, first, OP)
    assert OnPerform.RUN is on_perform(None, first, OP)
    assert OnResolve.REMEMBER is on_resolve(None, first)


@pytest.mark.parametrize(
    ("txn_id", "horizon", "verdict"),
    [
        ("t1", "", OnPrepare.RUN),
        ("t1", "t1", OnPrepare.RUN),
        ("t2", "t1", OnPrepare.RUN),
        ("t1", "t2", OnPrepare.LATE),
    ],
)
def test_below_the_horizon_a_prepare_is_late(txn_id: str, horizon: str, verdict: OnPrepare) -> None:
    """What may have been forgotten is not begun again; the horizon itself is not below it."""
    assert verdict is on_prepare(None, key(txn_id), OP, horizon)


@pytest.mark.parametrize(
    ("state", "verdict", "verdict_other"),
    [
        (BranchState.PREPARED, OnPrepare.REPEAT, OnPrepare.CONFLICT),
        (BranchState.COMMITTED, OnPrepare.REPEAT, OnPrepare.CONFLICT),
        (BranchState.ABORTED, OnPrepare.LATE, OnPrepare.LATE),
    ],
)
def test_what_is_remembered_goes_before_the_horizon(
    state: BranchState, verdict: OnPrepare, verdict_other: OnPrepare
) -> None:
    """A branch that is still known is answered from what is known of it."""
    row = _row(state)
    assert verdict is on_prepare(row, key("t1"), OP, "t2")
    assert verdict_other is on_prepare(row, key("t1"), OTHER, "t2")


@pytest.mark.parametrize(
    ("state", "perform", "perform_other", "resolve"),
    [
        (None, OnPerform.RUN, OnPerform.RUN, OnResolve.REMEMBER),
        (
            BranchState.PREPARED,
            OnPerform.WAS_PREPARED,
            OnPerform.WAS_PREPARED,
            OnResolve.WAS_PREPARED,
        ),
        (BranchState.COMMITTED, OnPerform.REPEAT, OnPerform.CONFLICT, OnResolve.COMMITTED),
        (BranchState.ABORTED, OnPerform.LATE, OnPerform.LATE, OnResolve.ABORTED),
    ],
)
def test_table_of_one_phase(
    state: BranchState | None,
    perform: OnPerform,
    perform_other: OnPerform,
    resolve: OnResolve,
) -> None:
    """What was performed is answered so, and what was refused or resolved is never performed."""
    row = _row(state)
    for horizon in ("", "t1", "t0"):
        assert perform is on_perform(row, key("t1"), OP, horizon)
        assert perform_other is on_perform(row, key("t1"), OTHER, horizon)
        assert resolve is on_resolve(row, key("t1"), horizon)


def test_below_the_horizon_nothing_is_performed_and_nothing_guessed() -> None:
    """Without a row it may have been done and be forgotten: late, and no answer."""
    assert OnPerform.LATE is on_perform(None, key("t1"), OP, "t2")
    assert OnResolve.FORGOTTEN is on_resolve(None, key("t1"), "t2")
    done = _row(BranchState.COMMITTED)
    assert OnPerform.REPEAT is on_perform(done, key("t1"), OP, "t2")
    assert OnResolve.COMMITTED is on_resolve(done, key("t1"), "t2")
