"""Checks both books of a mesh against each other, in the stores themselves."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from tests.support.waiting import eventually

CONVERGE_WITHIN_S = 30.0


class HasBooks(Protocol):
    """A mesh, as far as its books go."""

    def rows(self, service: str, query: str) -> list[tuple[Any, ...]]:
        """What the books of a service say, which others may be writing to."""


def rows_of(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What a query finds in a file that others may be writing to."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


async def books_agree(mesh: HasBooks) -> None:
    """Waits until nothing is in doubt (I5), then checks the books."""

    async def settled() -> bool:
        return unfinished(mesh) == []

    await eventually(settled, timeout_s=CONVERGE_WITHIN_S, what="nothing in doubt")
    check_books(mesh)


def check_books(mesh: HasBooks) -> None:
    """Every payment is in both books or none, while nothing is under way.

    Invariants: postings sum to zero and match the balances (I1; that no account is below
    its limit is a CHECK of its table); never committed in one book and not in the other
    (I2); one journal entry for each paid trade (I4).
    """
    unbalanced = "SELECT entry_id FROM posting GROUP BY entry_id HAVING SUM(amount_minor) <> 0"
    assert mesh.rows("ledger", unbalanced) == []
    assert (
        mesh.rows(
            "ledger",
            "SELECT account_id FROM account a WHERE posted_minor <> (SELECT COALESCE(SUM("
            "amount_minor), 0) FROM posting p WHERE p.account_id = a.account_id)",
        )
        == []
    )
    paid = mesh.rows(
        "order", "SELECT txn_id, amount_minor FROM trade WHERE state = 'TRADE_SUCCESS'"
    )
    posted = mesh.rows(
        "ledger",
        "SELECT MAX(txn_id), SUM(CASE WHEN amount_minor > 0 THEN amount_minor ELSE 0 END)"
        " FROM journal_entry JOIN posting USING (entry_id) WHERE reference <> '' GROUP BY entry_id",
    )
    assert sorted(paid) == sorted(posted)
    decided = mesh.rows("coordinator", "SELECT txn_id, outcome FROM decision")
    outcomes = {row[0]: row[1] for row in decided}
    gone = truncated_to(mesh)
    for service in ("ledger", "order"):
        states = mesh.rows(service, "SELECT txn_id, state FROM branch")
        # What a single branch has come to its participant knows before the log does.
        wrong = {
            t
            for t, state in states
            if (state == "COMMITTED") != (outcomes.get(t) == "COMMITTED")
            and outcomes.get(t) != "PENDING"
        }
        # Of a commit whose row was truncated the branches are forgotten a little later.
        wrong -= {t for t, state in states if state == "COMMITTED" and str(t) <= gone}
        assert wrong == set()


def truncated_to(mesh: HasBooks) -> str:
    """At or below that txn_id an outcome row may be gone; empty when none is."""
    ((newest,),) = mesh.rows("coordinator", "SELECT MAX(txn_id) FROM truncation")
    return str(newest or "")


def unfinished(mesh: HasBooks) -> list[tuple[object, ...]]:
    """What is still in doubt, held or under way."""
    return [
        *mesh.rows("ledger", "SELECT 'ledger', txn_id FROM branch WHERE state = 'PREPARED'"),
        *mesh.rows("ledger", "SELECT 'hold', txn_id FROM hold"),
        *mesh.rows("ledger", "SELECT 'held', account_id FROM account WHERE held_minor <> 0"),
        *mesh.rows("order", "SELECT 'order', txn_id FROM branch WHERE state = 'PREPARED'"),
        *mesh.rows("order", "SELECT 'paying', txn_id FROM trade WHERE state = 'PAYING'"),
    ]
