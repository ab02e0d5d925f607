"""The records of what operators have forced, in the tables of the decision log."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from txn.audit import AuditRecord, Signature
from txn.model import TxnId
from txn.store.sql import Sql

# The versions of the log's schema that have records, on SQLite and on PostgreSQL.
_SINCE_SQLITE, _SINCE_POSTGRES = 6, 3
_COLUMNS = "number, txn_id, before_it, after_it, operator, reason, signed_at_us"


def insert(tx: Sql, txn_id: TxnId, before: str, after: str, by: Signature) -> AuditRecord:
    """Adds a record; its number is above all others'."""
    tx.execute(
        "INSERT INTO audit (txn_id, before_it, after_it, operator, reason, signed_at_us) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (txn_id, before, after, by.operator, by.reason, by.signed_at_us),
    )
    (number,) = tx.execute(
        "SELECT number FROM audit WHERE txn_id = ? ORDER BY number DESC LIMIT 1", (txn_id,)
    ).fetchone()
    return AuditRecord(number, txn_id, before, after, by)


def known(tx: Sql) -> bool:
    """Whether there can be records: a log that an earlier release has written has no such table."""
    since = _SINCE_SQLITE if isinstance(tx, sqlite3.Connection) else _SINCE_POSTGRES
    query = "SELECT version FROM schema_version WHERE component = 'coordinator'"
    return any(version >= since for (version,) in tx.execute(query).fetchall())


def select(tx: Sql, *, after: int, limit: int, txn_id: TxnId | None) -> Sequence[AuditRecord]:
    """The records above a number, of one transaction or of all."""
    query = f"SELECT {_COLUMNS} FROM audit WHERE number > ? ORDER BY number LIMIT ?"
    if txn_id is None:
        return _records(tx.execute(query, (after, limit)).fetchall())
    query = query.replace("WHERE", "WHERE txn_id = ? AND")
    return _records(tx.execute(query, (txn_id, after, limit)).fetchall())


def _records(rows: Sequence[Any]) -> Sequence[AuditRecord]:
    return [
        AuditRecord(number, TxnId(txn_id), before, after, Signature(*signed))
        for number, txn_id, before, after, *signed in rows
    ]
