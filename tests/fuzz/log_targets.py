"""What txn reads of its own disk, where a bit may have flipped: the decision log and its mark."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from tests.fuzz.target import Feed, Target
from txn.errors import LogDamaged
from txn.ids import new_id_after
from txn.model import BranchId, Decision, LoggedBranch, RequestKey, TxnId, epoch_of, log_id_of
from txn.state import Outcome, Vote
from txn.store import log_mark, migrate, sql_log
from txn.store.log_mark import LogMark, all_noted
from txn.store.sqlite_verify import verify


def _row(data: bytes) -> None:
    """A row of the log, each column of any type that SQLite has."""
    feed = Feed(data)
    columns = tuple(_column(feed) for _ in range(9))
    checksum = (None, 0, "right")[feed.number(3)]
    if checksum == "right":
        try:
            checksum = sql_log._checksum(columns)
        except (TypeError, UnicodeEncodeError):
            checksum = 1
    decision = sql_log._decoded((*columns, checksum, feed.number(2)), frozenset())
    assert isinstance(decision.outcome, Outcome)
    assert all(isinstance(each, LoggedBranch) for each in decision.branches)


def _column(feed: Feed) -> object:
    kind = feed.number(8)
    if kind == 0:
        return None
    if kind == 1:
        return feed.number(2**32)
    if kind == 2:
        return feed.number(1000) / 7
    raw = feed.some(80)
    return raw if kind == 3 else raw.decode("utf-8", "replace")


def _decision(number: int) -> Decision:
    request = RequestKey("anonymous", f"key-{number}", b"body")
    branches = (LoggedBranch(BranchId("ledger"), "ledger", Vote.COMMIT),)
    return Decision(
        TxnId(f"{number:08x}-0123"), Outcome.COMMITTED, request, branches, 7, ended=number < 3
    )


def _written() -> bytes:
    """A log of a few rows, in one file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA page_size = 1024")
            connection.execute("BEGIN")
            for component, migrations in sql_log.schema().items():
                migrate.apply(connection, component, migrations)
            sql_log._identity(connection, "-0123")
            sql_log._insert_all(connection, [_decision(number) for number in range(6)])
            connection.execute("COMMIT")
        return path.read_bytes()


LOG = _written()


def _log_file(data: bytes) -> None:
    """Some bytes of a log are other ones: it is refused, or no commit in it is lost or other."""
    feed, content = Feed(data), bytearray(LOG)
    while feed:
        at = feed.number(len(content))
        content[at] = feed.number(256)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.db"
        path.write_bytes(content)
        mark = LogMark(path)
        try:
            mark.write(_decision(5).txn_id)
            verify(path)
        finally:
            mark.close()
        with closing(sqlite3.connect(path)) as connection:
            for number in range(6):
                wanted = _decision(number)
                try:
                    row = sql_log._by_txn_id(connection, wanted.txn_id)
                except sqlite3.DatabaseError:
                    continue
                assert row is not None, f"{number} is gone"
                assert wanted == sql_log._decoded(row, frozenset())


def _mark(data: bytes) -> None:
    feed = Feed(data)
    is_right, raw = feed.number(2), feed.rest()
    if is_right:
        text = raw.ljust(log_mark._SIZE_BYTES - log_mark._CHECKSUM_BYTES, b"\0")
        raw = log_mark._checksum(text) + text
    with tempfile.TemporaryDirectory() as folder:
        mark = LogMark(Path(folder) / "log.db")
        try:
            mark.path.write_bytes(raw)
            path = Path(folder) / "log.db"
            assert all(isinstance(found.txn_id, str) for found in all_noted(path))
            mark.write("0001-a", closed=True)
            assert all_noted(path) == [("0001-a", True, mark.path)]
        finally:
            mark.close()


def _ids(data: bytes) -> None:
    feed = Feed(data)
    epoch = feed.number(2**31)
    name = f"{feed.number(2**63):016x}{feed.number(2**63):016x}"
    newest = f"{name}.{epoch}-{feed.number(2**63):016x}"
    made = f"{new_id_after(newest)}.{epoch}{log_id_of(newest)}"
    assert made > newest
    assert (log_id_of(made), epoch_of(made)) == (log_id_of(newest), epoch)
    text = feed.rest().decode("utf-8", "replace")
    assert text.endswith(log_id_of(text))
    assert epoch_of(text) >= 0


_TEXT_ROW = b"".join(
    bytes([4, len(each)]) + each
    for each in (b"0001-a", b"COMMITTED", b"c", b"k", b"d", b'[["b","p","COMMIT"]]', b"", b"", b"7")
)

TARGETS = (
    Target("log-row", _row, (LogDamaged,), (_TEXT_ROW + b"\2\1", _TEXT_ROW + b"\0\1")),
    Target("log-file", _log_file, (LogDamaged,), (b"", bytes(7) + b"\x40\1")),
    Target("log-mark", _mark, (), (b"\0", b"\x010001-a", b"\1\xff", b"\0" + bytes(128))),
    Target("ids", _ids, (), (bytes(28), b"\xff" * 28 + b"a.12-c")),
)
