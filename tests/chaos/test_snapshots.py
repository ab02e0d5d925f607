"""Looking at the books while everything goes on: I1, I5 and I6 in each snapshot."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos.books import (
    ABORTED,
    COMMITTED,
    PENDING,
    PREPARED,
    Books,
    BranchRow,
    Decision,
    Entry,
)
from tests.chaos.forgery import held, honest_books
from tests.chaos.reading import read_decisions
from tests.chaos.snapshots import AGE_MAX_S, Watch


def _looked(*books: Books) -> Watch:
    watch = Watch()
    for number, each in enumerate(books):
        watch.look(each, now_s=float(number), calm=True)
    return watch


def test_books_that_are_right_pass() -> None:
    """Nothing is found, whatever is held for a moment."""
    during = honest_books()
    held(during)
    watch = _looked(honest_books(), during, honest_books())
    assert [] == watch.found.violations
    assert (0, 1.0) == (watch.in_doubt, watch.oldest_s + 1.0)


def test_a_sum_is_looked_at_in_every_snapshot() -> None:
    """I1: money that is made and is gone again a second later."""
    lie = honest_books()
    lie.ledger.accounts[1] = lie.ledger.accounts[1]._replace(posted_minor=671)
    watch = _looked(honest_books(), lie, honest_books())
    assert {"I1"} == set(watch.found.broken)


def test_who_commits_before_the_decision_is_found() -> None:
    """I6: an entry of the journal whose transaction has no row, though that was read later."""
    lie = honest_books()
    del lie.decisions["t4"]
    assert {"I6"} == set(_looked(lie).found.broken)


def test_a_single_branch_is_decided_by_its_participant() -> None:
    """Its claim is in the log before, and says no more until the outcome is written."""
    books = honest_books()
    books.decisions["t1"] = books.decisions["t1"]._replace(outcome=PENDING, ended=0)
    assert [] == _looked(books).found.violations
    assert ["t1"] == books.endless()


def test_who_aborts_a_commit_is_found() -> None:
    """I6: a branch that gave up alone."""
    lie = honest_books()
    lie.order.branches[0] = BranchRow("t2", "order", ABORTED)
    assert {"I6"} == set(_looked(lie).found.broken)


def test_a_hold_that_is_dropped_although_its_transaction_commits_is_found() -> None:
    """I6: it was there, it is gone, and the journal has nothing of it."""
    before, after = honest_books(), honest_books()
    held(before)
    after.decisions["t9"] = Decision("t9", COMMITTED, "key", "", 0)
    assert {"I6"} == set(_looked(before, after).found.broken)


def test_a_hold_that_is_posted_is_none_that_is_dropped() -> None:
    """The same with its entry."""
    before, after = honest_books(), honest_books()
    held(before)
    after.decisions["t9"] = Decision("t9", COMMITTED, "key", "", 0)
    after.ledger.entries.append(Entry("t9", "ledger", "key", "alice", "bob", 5))
    assert [] == _looked(before, after).found.violations


def test_the_decisions_of_what_was_held_are_asked_for() -> None:
    """The next snapshot has to have them, whether it is held then or not."""
    books = honest_books()
    held(books)
    assert frozenset({"t9"}) == _looked(books).held


def test_a_look_that_comes_late_counts_as_one() -> None:
    """A machine that was too busy to look was too busy to get on."""
    watch = Watch()
    books = honest_books()
    books.order.branches.append(BranchRow("t9", "order", PREPARED))
    for number in range(3):
        watch.look(books, now_s=number * AGE_MAX_S, calm=True)
    assert (0, 2 * AGE_MAX_S) == (watch.found.total, watch.oldest_s)


def test_what_stays_in_doubt_in_peace_is_found_once() -> None:
    """I5: the age counts while nothing is broken, and only then."""
    watch = Watch()
    books = honest_books()
    books.order.branches.append(BranchRow("t9", "order", PREPARED))
    for second in range(int(AGE_MAX_S)):
        watch.look(books, now_s=float(second), calm=False)
    for second in range(int(AGE_MAX_S)):
        watch.look(books, now_s=AGE_MAX_S + second, calm=True)
        assert 0 == watch.found.total
    for second in range(3):
        watch.look(books, now_s=2 * AGE_MAX_S + second, calm=True)
    assert 1 == watch.found.broken["I5"] == watch.found.total
    assert 2 * AGE_MAX_S + 2 == watch.oldest_s


def _error_of(path: Path) -> sqlite3.Error:
    with pytest.raises(sqlite3.Error) as caught:
        read_decisions(path)
    return caught.value


def test_a_look_that_somebody_else_is_in_the_way_of_is_counted(tmp_path: Path) -> None:
    """A file that is not there, or locked by who recovers it, says nothing against the books."""
    watch = Watch()
    watch.failed(_error_of(tmp_path / "none.db"))
    locked = tmp_path / "locked.db"
    with (
        closing(sqlite3.connect(locked)) as owner,
        closing(sqlite3.connect(locked, timeout=0)) as other,
    ):
        owner.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError) as busy:
            other.execute("SELECT * FROM sqlite_master")
    watch.failed(busy.value)
    assert (2, 0) == (watch.unread, watch.found.total)


def test_books_that_cannot_be_read_are_wrong(tmp_path: Path) -> None:
    """A table that is gone, and a file that is none of SQLite's."""
    watch = Watch()
    sqlite3.connect(tmp_path / "empty.db").execute("CREATE TABLE other (a)").connection.close()
    watch.failed(_error_of(tmp_path / "empty.db"))
    (tmp_path / "garbage.db").write_bytes(b"not a database" * 100)
    watch.failed(_error_of(tmp_path / "garbage.db"))
    assert (0, 2) == (watch.unread, watch.found.broken["I1"])


def test_snapshots_under_fire_are_those_between_two_times() -> None:
    """What was looked at before the first fault says nothing of it."""
    watch = _looked(*[honest_books()] * 5)
    assert 2 == watch.snapshots(1.0, 2.0)
