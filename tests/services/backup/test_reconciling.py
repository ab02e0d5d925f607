"""What books prove is written into a log that is older."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.backup import reconciling, working
from services.backup.errors import NotTaken
from services.backup.sqlite import SqliteBooks
from tests.services.backup.changing import execute
from txn.reconcile import Kind
from txn.store.sqlite import take_ownership

# More than are written at once.
MANY = 2 * reconciling.ROWS_AT_ONCE + 1


def branch(home: Path, participant: str, txn_id: str, state: str) -> None:
    """What a participant remembers."""
    execute(
        home / "data" / f"{participant}.db",
        "INSERT INTO branch (txn_id, branch_id, state, coordinator, prepared_at_us) "
        f"VALUES ('{txn_id}', '{participant}', '{state}', 'coordinator', 1)",
    )


def kinds(home: Path) -> list[Kind]:
    """What is found in the books."""
    return [each.kind for each in working.look(SqliteBooks(home)).findings]


async def test_what_is_prepared_is_committed_where_another_branch_was(home: Path) -> None:
    """A start would have aborted it; what nothing proves is aborted still."""
    branch(home, "ledger", "1-log", "COMMITTED")
    branch(home, "order", "1-log", "PREPARED")
    branch(home, "ledger", "2-log", "PREPARED")
    assert [Kind.UNLOGGED, Kind.SPLIT, Kind.WILL_ABORT] == kinds(home)
    (written,) = await reconciling.reconcile(SqliteBooks(home))
    assert ("1-log", False) == (written.txn_id, written.ended)
    assert [Kind.WILL_COMMIT, Kind.WILL_ABORT] == kinds(home)
    assert [] == await reconciling.reconcile(SqliteBooks(home))


async def test_an_end_that_the_log_has_lost_is_written(home: Path) -> None:
    """What everybody has forgotten is not asked for any more."""
    branch(home, "ledger", "1-log", "COMMITTED")
    branch(home, "order", "1-log", "PREPARED")
    await reconciling.reconcile(SqliteBooks(home))
    for participant in ("ledger", "order"):
        book = home / "data" / f"{participant}.db"
        execute(book, "DELETE FROM branch")
        execute(book, "INSERT INTO prepare_horizon (log_id, txn_id) VALUES ('-log', '2-log')")
    assert [Kind.AHEAD] * 2 + [Kind.END_LOST] * 2 == kinds(home)
    await reconciling.reconcile(SqliteBooks(home))
    assert [Kind.AHEAD] * 2 == kinds(home)


async def test_many_are_written(home: Path) -> None:
    """In several groups."""
    for at in range(MANY):
        branch(home, "ledger", f"{at:04}-log", "COMMITTED")
    assert MANY == len(await reconciling.reconcile(SqliteBooks(home)))
    assert [] == kinds(home)


async def test_beside_a_coordinator_nothing_is_written(home: Path) -> None:
    """It would not know of it."""
    branch(home, "ledger", "1-log", "COMMITTED")
    owner = take_ownership(home / "data" / "coordinator.db")
    with pytest.raises(NotTaken, match="another coordinator runs"):
        await reconciling.reconcile(SqliteBooks(home))
    os.close(owner)
    assert [Kind.UNLOGGED] == kinds(home)
