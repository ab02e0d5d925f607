"""Whether a decision log on PostgreSQL still has its end, looked at before it answers.

The server guards its pages and its own log by checksums. What it cannot know is that it is
not the server which said that a row was durable, but a replica that lagged behind, or a
backup: then rows are missing, and absence means abort. The note beside the log says which
row has to be there (log_mark.py).
"""

from __future__ import annotations

from txn.errors import LogDamaged
from txn.state import Outcome
from txn.store import sql_truncation
from txn.store.group_commit import Store
from txn.store.log_mark import LogMark, Noted
from txn.store.sql import Sql


async def verify(store: Store[Sql], mark: LogMark) -> None:
    """Looks whether the row that was forced last is there. Raises LogDamaged."""
    forced = mark.read()
    if forced is None:
        return
    if missing := await store.read(lambda tx: _missing(tx, forced)):
        raise LogDamaged(
            f"the decision log is not as it was written: {missing}. Nothing was changed. One that "
            f"is to be believed as it is starts without {mark}"
        )


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
