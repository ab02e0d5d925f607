"""A decision log of every earlier version takes claims, with nothing lost of what was in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.txn.helpers import decide
from tests.txn.support import open_sqlite
from txn.errors import LogDamaged, StoreClosed
from txn.model import BranchId, Decision, LoggedBranch, RequestKey, TxnId
from txn.state import Outcome, Vote
from txn.store import sql_log
from txn.store.log_mark import LogMark
from txn.store.migrate import apply
from txn.store.sql_log import COLUMNS, SqlDecisionLog
from txn.store.sqlite import SqliteWriter
from txn.store.sqlite_verify import verify

LATEST = len(sql_log.schema()["coordinator"])
NAME = "-some-log"


def row(number: int, outcome: Outcome, *, ended: bool, keyed: bool = True) -> Decision:
    """An outcome, or a claim."""
    return Decision(
        TxnId(f"t{number}{NAME}"),
        outcome,
        RequestKey("caller", f"k{number}", b"\x00body") if keyed else None,
        (LoggedBranch(BranchId("a"), "ledger", Vote.COMMIT),) if keyed else (),
        decided_at_us=number,
        reason="" if outcome is Outcome.COMMITTED else "WHY",
        ended=ended,
    )


ROWS = [
    row(1, Outcome.COMMITTED, ended=True),
    row(2, Outcome.ABORTED, ended=True),
    row(3, Outcome.COMMITTED, ended=False),
    row(4, Outcome.ABORTED, ended=True, keyed=False),
]


def log_of(version: int, path: Path) -> Path:
    """A log as a release has left it that knew so many migrations."""
    columns = COLUMNS.split(", ")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        apply(connection, "coordinator", sql_log.schema()["coordinator"][:version])
        known = {name for _, name, *_ in connection.execute("PRAGMA table_info(decision)")}
        connection.execute("INSERT INTO log_identity VALUES (1, ?)", (NAME,))
        for each in ROWS:
            written = dict(zip(columns, sql_log._encoded(each), strict=True))
            names = [name for name in columns if name in known]
            connection.execute(
                f"INSERT INTO decision ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
                [written[name] for name in names],
            )
        if version >= 2:
            connection.execute("INSERT INTO truncation VALUES (1, 't0-gone')")
    return path


@pytest.mark.parametrize("version", range(1, LATEST + 1))
async def test_a_log_of_every_version_takes_claims(version: int, tmp_path: Path) -> None:
    """What stood stands, is found by id and key, and what has no end still has none."""
    path = log_of(version, tmp_path / "c.db")
    mark = LogMark(path)
    verify(path)
    async with open_sqlite(path) as store:
        log = SqlDecisionLog(store, mark=mark)
        assert ROWS == list(await log.list_decisions(after="", limit=9))
        assert ROWS[2:3] == list(await log.list_decisions(after="", limit=9, unfinished_only=True))
        found = await log.by_keys([("caller", f"k{number}") for number in range(9)])
        assert {("caller", f"k{number}"): ROWS[number - 1] for number in (1, 2, 3)} == found
        assert NAME == await log.identity("-other")
        claim = row(7, Outcome.PENDING, ended=False)
        assert [claim] == await decide(log, claim)
        assert [claim] == await decide(log, row(7, Outcome.ABORTED, ended=True))
        closed = row(7, Outcome.COMMITTED, ended=True)
        assert [closed] == list(await log.close_all([closed]))
        assert claim.txn_id == await log.newest_txn_id()
    verify(path)
    mark.close()


def test_who_opens_it_again_migrates_nothing(tmp_path: Path) -> None:
    """And leaves nothing of the table that was replaced."""
    path = log_of(LATEST - 1, tmp_path / "c.db")
    SqliteWriter(tmp_path / "new.db", sql_log.schema()).close()
    for _ in range(2):
        SqliteWriter(path, sql_log.schema()).close()
        assert _shape(tmp_path / "new.db") == _shape(path)


def _shape(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return sorted(connection.execute("SELECT name, sql FROM sqlite_master").fetchall(), key=str)


async def test_a_claim_that_is_damaged_is_noticed(tmp_path: Path) -> None:
    """It has a checksum as an outcome has, of what it is and of what it becomes."""
    path = log_of(LATEST, tmp_path / "c.db")
    claim = row(7, Outcome.PENDING, ended=False)
    async with open_sqlite(path) as store:
        await decide(SqlDecisionLog(store), claim)
        await SqlDecisionLog(store).close_all([row(7, Outcome.COMMITTED, ended=True)])
        await decide(SqlDecisionLog(store), row(8, Outcome.PENDING, ended=False))
    mark = LogMark(path)
    verify(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE decision SET outcome = 'ABORTED' WHERE txn_id LIKE 't8%'")
        connection.commit()
    with pytest.raises(LogDamaged, match="t8"):
        verify(path)
    mark.close()


async def test_a_store_that_is_closed_says_so_of_each_claim(tmp_path: Path) -> None:
    """Whoever closes several is told of each, as when they are decided."""
    async with open_sqlite(tmp_path / "c.db") as store:
        log = SqlDecisionLog(store)
        await store.close()
        answers = await log.close_all([row(7, Outcome.COMMITTED, ended=True)] * 2)
    assert [StoreClosed, StoreClosed] == [type(each) for each in answers]


async def test_what_is_no_claim_is_not_closed(tmp_path: Path) -> None:
    """A row that is not there, or has another key, is a log that has lost something."""
    async with open_sqlite(tmp_path / "c.db") as store:
        log = SqlDecisionLog(store)
        (missing,) = await log.close_all([row(7, Outcome.COMMITTED, ended=True)])
        assert isinstance(missing, LogDamaged)
        await decide(log, row(8, Outcome.PENDING, ended=False))
        stranger = Decision(
            TxnId(f"t8{NAME}"), Outcome.COMMITTED, RequestKey("caller", "k9", b""), (), 9
        )
        (other,) = await log.close_all([stranger])
        assert isinstance(other, LogDamaged)
        assert [row(8, Outcome.PENDING, ended=False)] == list(
            await log.list_decisions(after="", limit=9)
        )
