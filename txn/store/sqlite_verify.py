"""Whether a decision log on SQLite is whole, looked at before anything is answered from it.

A damaged log must not answer "no such transaction", since that means abort. Each row has a
checksum, which is compared whenever it is read (sql_log.py). What a checksum cannot show
is that a row is missing, and absence is what matters. So at the start the structure is looked
through, every commit without an end has to be found by its id, the newest rows also by
their keys, and the rows have to be there that each writer was the last to force (log_mark.py).
Others may write meanwhile: all is looked at in one snapshot, taken after the notes were read.

The log is opened for reading only: a connection that may write would cut off, and on closing
overwrite, what SQLite cannot read and people perhaps can.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from txn.errors import LogDamaged
from txn.state import Outcome
from txn.store import sql_truncation
from txn.store.log_mark import Noted, all_noted
from txn.store.sql_log import COLUMNS, Row, check_row
from txn.store.sqlite import connect_to_read

# Of a log whose structure is looked through: about 0.3 s.
STRUCTURE_MAX_BYTES = 256 * 1024 * 1024
# Of the newest rows whose contents and keys are looked at: each key is a page somewhere else.
NEWEST_ROWS_MAX = 2_000
_SHOWN_CHARS_MAX = 500

_UNFINISHED = "SELECT txn_id FROM decision INDEXED BY decision_unfinished WHERE ended = 0"
_KEYS_THAT_LEAD_ASTRAY = """
SELECT newest.txn_id FROM (
    SELECT txn_id, caller, idempotency_key FROM decision ORDER BY txn_id DESC LIMIT ?
) AS newest WHERE idempotency_key IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM decision AS found INDEXED BY sqlite_autoindex_decision_2
    WHERE found.caller = newest.caller AND found.idempotency_key = newest.idempotency_key
    AND found.txn_id = newest.txn_id
) LIMIT 1
"""


def verify(path: Path) -> None:
    """Looks whether the log at `path` is as it was written; one that is not there yet is.

    Raises LogDamaged: then absence in it means nothing, and nobody may be answered.
    """
    forced = all_noted(path)
    if not forced and not path.exists():
        return
    try:
        with closing(connect_to_read(path)) as connection:
            connection.execute("BEGIN")
            _verify(connection, forced)
    except (LogDamaged, sqlite3.Error, UnicodeDecodeError) as error:
        # The last: sqlite3 cannot say what SQLite found where that is no text.
        raise LogDamaged(
            f"{path} is not as it was written: {_shown(error)}. Nothing was changed. Put back "
            f"what is missing{_believed_without(forced, error)}"
        ) from error


def _shown(error: Exception) -> str:
    """SQLite quotes what it finds, and that may be anything."""
    return "".join(each if each.isprintable() else " " for each in str(error)[:_SHOWN_CHARS_MAX])


class _NotThere(LogDamaged):
    """What one note says was forced is not there."""

    def __init__(self, error: LogDamaged, noted: Noted) -> None:
        super().__init__(str(error))
        self.noted = noted


def _believed_without(forced: Sequence[Noted], error: Exception) -> str:
    accusing = [error.noted] if isinstance(error, _NotThere) else forced
    marks = ", ".join(str(each.mark) for each in accusing)
    return f"; one that is to be believed as it is starts without {marks}" if marks else ""


def _verify(connection: sqlite3.Connection, forced: Sequence[Noted]) -> None:
    _structure(connection)
    names = [name for _, name, *_ in connection.execute("PRAGMA table_info(decision)")]
    if not names:
        if forced:
            raise LogDamaged("it is empty")
        return
    # A log from before there were checksums gets them when it is brought up to date.
    columns = COLUMNS if "checksum" in names else COLUMNS.replace("checksum", "NULL")
    rows = f"SELECT {columns} FROM decision"
    unfinished = _unfinished(connection, rows)
    for row in connection.execute(f"{rows} ORDER BY txn_id DESC LIMIT ?", (NEWEST_ROWS_MAX,)):
        check_row(row)
        if _ended(row) is (row[0] in unfinished):
            raise LogDamaged(f"whether {row[0]} has ended is not certain")
    for (txn_id,) in connection.execute(_KEYS_THAT_LEAD_ASTRAY, (NEWEST_ROWS_MAX,)):
        raise LogDamaged(f"the key of {txn_id} does not lead to it")
    for noted in forced:
        try:
            _is_there(connection, rows, noted)
        except LogDamaged as error:
            raise _NotThere(error, noted) from error


def _is_there(connection: sqlite3.Connection, rows: str, noted: Noted) -> None:
    if noted.txn_id > _truncated(connection):
        row = _find(connection, rows, noted.txn_id)
        if noted.closed and _outcome(row) == Outcome.PENDING.value:
            raise LogDamaged(f"{noted.txn_id} was closed and stands as a claim")
    name = connection.execute("SELECT log_id FROM log_identity").fetchone()
    if name is None or not noted.txn_id.endswith(str(name[0])):
        raise LogDamaged("its name is not that of its rows")


def _unfinished(connection: sqlite3.Connection, rows: str) -> frozenset[str]:
    """What recovery will find; each of it is in the table, once."""
    found = [txn_id for (txn_id,) in connection.execute(_UNFINISHED)]
    for txn_id in found:
        if _ended(_find(connection, rows, txn_id)):
            raise LogDamaged(f"whether {txn_id} has ended is not certain")
    if len(set(found)) < len(found):
        raise LogDamaged("a commit without an end is named twice")
    return frozenset(found)


def _truncated(connection: sqlite3.Connection) -> str:
    """Rows up to here may have been deleted on purpose."""
    names = connection.execute("PRAGMA table_info(truncation)").fetchall()
    return sql_truncation.horizon(connection) if names else ""


def _structure(connection: sqlite3.Connection) -> None:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    if pages * page_bytes <= STRUCTURE_MAX_BYTES:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise LogDamaged(found)


def _find(connection: sqlite3.Connection, rows: str, txn_id: str) -> Row:
    row: Row | None = connection.execute(f"{rows} WHERE txn_id = ?", (txn_id,)).fetchone()
    if row is None:
        raise LogDamaged(f"{txn_id} was written and is not there")
    check_row(row)
    return row


def _ended(row: Row) -> bool:
    return bool(row[-1])


def _outcome(row: Row) -> str:
    return str(row[1])
