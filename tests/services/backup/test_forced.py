"""What operators have forced, in books that are compared: explained, and no loss that is none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from services.backup import working
from services.backup.books import Books
from services.backup.postgres import PostgresBooks
from services.backup.report import lines, public
from services.backup.sqlite import SqliteBooks
from tests.services.backup.changing import execute
from txn.audit import Signature
from txn.model import BranchId, Decision, LoggedBranch, RequestKey, TxnId
from txn.reconcile import Kind
from txn.state import Outcome, Vote

ANN = Signature("ann", "booked by hand, ticket 71", 1_764_150_000_000_000)
ENDED, LOST = "1-log", "2-log"


@pytest.fixture(params=["sqlite", "postgres"])
def books(request: pytest.FixtureRequest) -> Books:
    """Empty ones, on each kind of store."""
    if request.param == "sqlite":
        return SqliteBooks(request.getfixturevalue("home"))
    return PostgresBooks(request.getfixturevalue("dsn"))


def committed(txn_id: str) -> Decision:
    """A row with a branch that the ledger has never heard of, and nobody waits for."""
    return Decision(
        TxnId(txn_id),
        Outcome.COMMITTED,
        RequestKey("caller", txn_id, b"hash"),
        (LoggedBranch(BranchId("transfer"), "ledger", Vote.COMMIT),),
        1,
    )


async def test_what_an_operator_has_ended_is_told_from_what_is_lost(books: Books) -> None:
    """With who did it, when, and why; the loss beside it is still one."""
    async with books.own_log() as (_, log):
        await log.decide_all([committed(ENDED), committed(LOST)])
        ended_row = dataclasses.replace(committed(ENDED), ended=True)
        forced = await log.force(ended_row, ANN, over=Outcome.COMMITTED)
        assert forced.record is not None
    found = working.look(books)
    assert [(Kind.ENDED_BY_HAND, ENDED), (Kind.LOST, LOST)] == [
        (each.kind, each.txn_id) for each in found.findings
    ]
    assert [LOST] == [each.txn_id for each in found.contradictions]
    assert (
        "    1-log  ledger  transfer  forced by ann at 2025-11-26T09:40:00Z, "
        "COMMITTED -> COMMITTED_ENDED: booked by hand, ticket 71"
    ) in lines(None, found)
    ended, lost = public(None, found)["findings"]
    assert lost["forced"] is None
    assert {
        "operator": "ann",
        "reason": "booked by hand, ticket 71",
        "time": "2025-11-26T09:40:00Z",
        "before": "COMMITTED",
        "after": "COMMITTED_ENDED",
    } == ended["forced"]


def test_a_log_of_an_earlier_release_has_no_records(home: Path) -> None:
    """It is compared all the same: a backup is taken before an upgrade."""
    log = home / "data" / "coordinator.db"
    execute(log, "DROP TABLE audit")
    execute(log, "UPDATE schema_version SET version = 5 WHERE component = 'coordinator'")
    assert () == working.look(SqliteBooks(home)).findings
