"""Checks both books of a mesh against each other, in the files themselves."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.support.mesh import Clients
from tests.support.waiting import eventually

CONVERGE_WITHIN_S = 30.0


def _rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


async def books_agree(mesh: Clients) -> None:
    """Waits until nothing is in doubt, then checks that every payment is in both books or none.

    Invariants: postings sum to zero and match the balances (I1; that no account is below
    its limit is a CHECK of its table); never committed in one book and not in the other
    (I2); one journal entry for each paid trade (I4); nothing in doubt and nothing held (I5).
    """

    async def settled() -> bool:
        return unfinished(mesh) == []

    await eventually(settled, timeout_s=CONVERGE_WITHIN_S, what="nothing in doubt")
    ledger, order = mesh.book("ledger"), mesh.book("order")
    assert _rows(ledger, "SELECT entry_id FROM posting GROUP BY 1 HAVING SUM(amount_minor)") == []
    assert (
        _rows(
            ledger,
            "SELECT account_id FROM account a WHERE posted_minor <> (SELECT COALESCE(SUM("
            "amount_minor), 0) FROM posting p WHERE p.account_id = a.account_id)",
        )
        == []
    )
    paid = _rows(order, "SELECT txn_id, amount_minor FROM trade WHERE state = 'TRADE_SUCCESS'")
    posted = _rows(
        ledger,
        "SELECT txn_id, SUM(MAX(amount_minor, 0)) FROM journal_entry JOIN posting USING (entry_id)"
        " WHERE reference <> '' GROUP BY entry_id",
    )
    assert sorted(paid) == sorted(posted)
    decided = _rows(mesh.book("coordinator"), "SELECT txn_id, outcome FROM decision")
    outcomes = {row[0]: row[1] for row in decided}
    for book in (ledger, order):
        states = _rows(book, "SELECT txn_id, state FROM branch")
        # What a single branch has come to its participant knows before the log does.
        wrong = {
            t
            for t, state in states
            if (state == "COMMITTED") != (outcomes.get(t) == "COMMITTED")
            and outcomes.get(t) != "PENDING"
        }
        assert wrong == set()


def unfinished(mesh: Clients) -> list[tuple[object, ...]]:
    """What is still in doubt, held or under way."""
    return [
        *_rows(mesh.book("ledger"), "SELECT 'ledger', txn_id FROM branch WHERE state = 'PREPARED'"),
        *_rows(mesh.book("ledger"), "SELECT 'hold', txn_id FROM hold"),
        *_rows(mesh.book("ledger"), "SELECT 'held', account_id FROM account WHERE held_minor <> 0"),
        *_rows(mesh.book("order"), "SELECT 'order', txn_id FROM branch WHERE state = 'PREPARED'"),
        *_rows(mesh.book("order"), "SELECT 'paying', txn_id FROM trade WHERE state = 'PAYING'"),
    ]
