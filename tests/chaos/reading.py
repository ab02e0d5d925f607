"""Reads the books out of the services' files, one read transaction for each file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.chaos.books import Account, Books, BranchRow, Decision, Entry, Hold, Ledger, Order, Trade

BUSY_TIMEOUT_S = 5.0
_POSTED = "SELECT account_id, SUM(amount_minor) FROM posting GROUP BY account_id"
_ENTRIES = """
    SELECT e.entry_id, e.txn_id, e.branch_id, e.reference, d.account_id, c.account_id,
           c.amount_minor, (SELECT SUM(amount_minor) FROM posting p WHERE p.entry_id = e.entry_id)
    FROM journal_entry e JOIN posting d ON d.entry_id = e.entry_id AND d.line = 1
    JOIN posting c ON c.entry_id = e.entry_id AND c.line = 2 WHERE e.entry_id > ? ORDER BY 1
"""


# Somebody has the file: a process that was just started recovers it, or another one closes it.
_PASSING = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_CANTOPEN}
)
_PASSING_READONLY = frozenset({sqlite3.SQLITE_READONLY_RECOVERY, sqlite3.SQLITE_READONLY_CANTLOCK})
_PRIMARY_MASK = 0xFF


def passing(error: sqlite3.Error) -> bool:
    """Whether a look that failed so may succeed a moment later, and says nothing of the books.

    By SQLite's result codes, of which the low byte is the primary one
    (https://www.sqlite.org/rescode.html).
    """
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & _PRIMARY_MASK in _PASSING or code in _PASSING_READONLY


@contextmanager
def _snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    uri = f"file:{path}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as connection:
        connection.execute("BEGIN")
        yield connection


def read_ledger(path: Path, *, after: int = 0) -> Ledger:
    """The ledger, with the entries above `after`. Raises sqlite3.Error."""
    with _snapshot(path) as tx:
        rows = tx.execute(_ENTRIES, (after,)).fetchall()
        return Ledger(
            accounts=[
                Account(*row)
                for row in tx.execute(
                    "SELECT account_id, currency_code, limit_minor, posted_minor, held_minor"
                    " FROM account"
                )
            ],
            entries=[Entry(*row[1:]) for row in rows],
            holds=[
                Hold(*row)
                for row in tx.execute(
                    "SELECT txn_id, branch_id, debit_account_id, amount_minor FROM hold"
                )
            ],
            branches=_branches(tx),
            posted=dict(tx.execute(_POSTED).fetchall()),
            last_entry_id=rows[-1][0] if rows else after,
        )


def read_order(path: Path, *, paying_only: bool = False) -> Order:
    """The trades, or those that are being paid. Raises sqlite3.Error."""
    condition = "WHERE state = 'PAYING'" if paying_only else ""
    with _snapshot(path) as tx:
        rows = tx.execute(
            "SELECT trade_no, state, txn_id, amount_minor, payee_account_id, payer_account_id"
            f" FROM trade {condition}"
        )
        return Order([Trade(*row) for row in rows], _branches(tx))


def read_decisions(path: Path, *, of: frozenset[str] | None = None) -> dict[str, Decision]:
    """The log's rows, or those of some transactions. Raises sqlite3.Error."""
    query = "SELECT txn_id, outcome, COALESCE(idempotency_key, ''), reason, ended FROM decision"
    with _snapshot(path) as tx:
        if of is None:
            rows = tx.execute(query).fetchall()
        else:
            rows = [
                row
                for txn_id in of
                for row in tx.execute(f"{query} WHERE txn_id = ?", (txn_id,)).fetchall()
            ]
    return {row[0]: Decision(*row) for row in rows}


def read_books(data: Path) -> Books:
    """All of it, the log last. Raises sqlite3.Error."""
    ledger = read_ledger(data / "ledger.db")
    order = read_order(data / "order.db")
    return Books(ledger, order, read_decisions(data / "coordinator.db"))


def read_recent(data: Path, *, after: int, also: frozenset[str]) -> Books:
    """What moves: entries above `after`, what is held or being paid, and decisions on it.

    `also` are more transactions whose decisions are wanted.

    Raises sqlite3.Error.
    """
    ledger = read_ledger(data / "ledger.db", after=after)
    order = read_order(data / "order.db", paying_only=True)
    concerned = also.union(
        each.txn_id
        for rows in (ledger.entries, ledger.holds, ledger.branches, order.branches)
        for each in rows
    )
    return Books(ledger, order, read_decisions(data / "coordinator.db", of=concerned))


def _branches(tx: sqlite3.Connection) -> list[BranchRow]:
    return [BranchRow(*row) for row in tx.execute("SELECT txn_id, branch_id, state FROM branch")]
