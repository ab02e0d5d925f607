"""Whether a decision log on PostgreSQL still has its end, looked at before it answers.

The server guards its pages and its own log by checksums. What it cannot know is that it is
not the server which said that a row was durable, but a replica that lagged behind, or a
backup: then rows are missing, and absence means abort. The notes of those who write to the
log from this host say which rows have to be there (log_mark.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from txn.errors import LogDamaged
from txn.state import Outcome
from txn.store import sql_truncation
from txn.store.group_commit import Store
from txn.store.log_mark import Noted, all_noted
from txn.store.sql import Sql


async def verify(store: Store[Sql], path: Path) -> None:
    """Looks whether what the notes of `path` name is there. Raises LogDamaged."""
    forced = all_noted(path)
    if not forced:
        return
    if missing := await store.read(lambda tx: _any_missing(tx, forced)):
        raise LogDamaged(
            f"the decision log is not as it was written: {missing[0]}. Nothing was changed. One "
            f"that is to be believed as it is starts without {missing[1]}"
        )


def _any_missing(tx: Sql, forced: Sequence[Noted]) -> tuple[str, Path] | None:
    found = ((_missing(tx, noted), noted.mark) for noted in forced)
    return next((each for each in found if each[0]), None)


def _missing(tx: Sql, forced: Noted) -> str:
    txn_id = forced.txn_id
    if txn_id <= sql_truncation.horizon(tx):
        return ""
    row = tx.execute("SELECT outcome FROM decision WHERE txn_id = ?", (txn_id,)).fetchone()
    if row is None:
        return f"{txn_id} was written and is not there"
    if forced.closed and row[0] == Outcome.PENDING.value:
        return f"{txn_id} was closed and stands as a claim"
    name = tx.execute("SELECT log_id FROM log_identity").fetchone()
    if name is None or not txn_id.endswith(name[0]):
        return "its name is not that of its rows"
    return ""
