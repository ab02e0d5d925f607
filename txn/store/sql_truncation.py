"""How the decision log of a database is truncated, and what is known of the rows that are gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from txn.model import TxnId
from txn.store.sql import Sql, select_in, write_rows


class Page(NamedTuple):
    """Some rows in the order of their ids: the last one, whether any is old, what may go.

    `newest_keyed` is the greatest id in `going` of a row with a key; empty if there is none.
    """

    last: str
    full: bool
    any_old: bool
    going: Sequence[tuple[str]]
    newest_keyed: str


def look(tx: Sql, after: str, limit: int, before_us: int) -> Page:
    """The next `limit` rows above `after`."""
    rows = tx.execute(
        "SELECT txn_id, decided_at_us < ?, ended, caller IS NOT NULL FROM decision "
        "WHERE txn_id > ? ORDER BY txn_id LIMIT ?",
        (before_us, after, limit),
    ).fetchall()
    going = [(txn_id, keyed) for txn_id, old, ended, keyed in rows if old and ended]
    return Page(
        last=rows[-1][0] if rows else after,
        full=len(rows) == limit,
        any_old=any(old for _, old, *_ in rows),
        going=[(txn_id,) for txn_id, _ in going],
        newest_keyed=max((txn_id for txn_id, keyed in going if keyed), default=""),
    )


def delete(tx: Sql, page: Page) -> int:
    """Deletes rows, and remembers in the same transaction up to where. Only what has ended."""
    gone = "DELETE FROM decision WHERE txn_id IN ({rows}) AND ended = 1"
    deleted = write_rows(tx, gone, page.going, "text")
    if page.newest_keyed:
        tx.execute(
            "INSERT INTO truncation (one, txn_id) VALUES (1, ?) ON CONFLICT (one) "
            "DO UPDATE SET txn_id = excluded.txn_id WHERE excluded.txn_id > truncation.txn_id",
            (page.newest_keyed,),
        )
    return deleted


def horizon(tx: Sql) -> str:
    """The greatest txn_id of a deleted row that had a key; empty when none was deleted."""
    row = tx.execute("SELECT txn_id FROM truncation").fetchone()
    return "" if row is None else str(row[0])


def ended(tx: Sql, txn_ids: Sequence[TxnId]) -> frozenset[TxnId]:
    """Those whose commit has ended; a row that is gone had."""
    gone = horizon(tx)
    query = "SELECT txn_id, ended = 1 AND outcome = 'COMMITTED' FROM decision WHERE txn_id IN"
    rows = dict(select_in(tx, query, txn_ids))
    return frozenset(txn_id for txn_id in txn_ids if rows.get(txn_id, txn_id <= gone))
