"""What may be forced, and by whom; and that its record cannot be skipped, changed or lost."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.postgres import PostgresServer
from tests.txn.helpers import commit_row, decide
from tests.txn.support import open_postgres, open_sqlite
from txn.audit import (
    AUDIT_REASON_LENGTH_MAX,
    OPERATOR_LENGTH_MAX,
    Forced,
    Signature,
    may_take_the_place,
    standing,
)
from txn.errors import InvalidOperation
from txn.model import Decision, RequestKey, TxnId
from txn.state import Outcome, Vote
from txn.store import sql_audit, sql_log
from txn.store.migrate import Dialect
from txn.store.postgres import PostgresWriter
from txn.store.sql_log import SqlDecisionLog
from txn.store.sqlite import SqliteWriter

BY = Signature("ann", "its host is gone", 7)
COMMIT = commit_row("t1", ("ledger", Vote.COMMIT))
ENDED = replace(COMMIT, ended=True)
ABORT = replace(COMMIT, outcome=Outcome.ABORTED)
ABORT_ENDED = replace(ABORT, ended=True)
CLAIM = replace(COMMIT, outcome=Outcome.PENDING)
ROWS = (COMMIT, ENDED, ABORT, ABORT_ENDED, CLAIM)
# What stands, and what may take its place.
LEGAL: list[tuple[Decision | None, Decision]] = [
    (None, ABORT),
    (None, ABORT_ENDED),
    (CLAIM, COMMIT),
    (CLAIM, ENDED),
    (CLAIM, ABORT),
    (CLAIM, ABORT_ENDED),
    (COMMIT, ENDED),
    (ABORT, ABORT_ENDED),
]


@pytest.mark.parametrize(("stands", "row"), list(product([None, *ROWS], ROWS)))
def test_what_may_take_the_place_of_what(stands: Decision | None, row: Decision) -> None:
    """An abort of what has no row, an outcome of a claim, an end of an outcome: nothing else."""
    seen = None if stands is None else stands.outcome
    assert ((stands, row) in LEGAL) is may_take_the_place(row, stands, seen)


@pytest.mark.parametrize(("stands", "row"), LEGAL)
def test_what_was_not_seen_is_left_alone(stands: Decision | None, row: Decision) -> None:
    """A word is about what stood when it was given, and about nothing that came meanwhile."""
    seen = None if stands is None else stands.outcome
    for over in {None, *Outcome} - {seen}:
        assert not may_take_the_place(row, stands, over)


@pytest.mark.parametrize(("stands", "row"), LEGAL[2:])
def test_what_is_anothers_is_left_alone(stands: Decision, row: Decision) -> None:
    """A row that has the key under another txn_id, or the txn_id under another key, stays."""
    other_key = RequestKey("other", "k", b"body")
    seen = stands.outcome
    assert not may_take_the_place(row, replace(stands, txn_id=TxnId("t9")), seen)
    assert not may_take_the_place(row, replace(stands, request=other_key), seen)


def test_what_stands_has_a_name() -> None:
    """The record says what was there before and after."""
    names = ["NONE", "COMMITTED", "COMMITTED_ENDED", "ABORTED", "ABORTED_ENDED", "PENDING"]
    assert names == [standing(row) for row in (None, *ROWS)]


@pytest.mark.parametrize("text", ["", "  ", "a\nb", "a\x1b[2Jb"])
@pytest.mark.parametrize("field", ["operator", "reason"])
def test_a_signature_says_who_and_why(field: str, text: str) -> None:
    """Neither the name nor the reason is left out, or moves a terminal's cursor."""
    with pytest.raises(InvalidOperation) as refused:
        replace(BY, **{field: text})  # type: ignore[arg-type]
    assert [field] == [each.field for each in refused.value.violations]


def test_a_signature_has_limits() -> None:
    """Each text fits up to its limit, and both that do not are named."""
    Signature("a" * OPERATOR_LENGTH_MAX, "r" * AUDIT_REASON_LENGTH_MAX, 1)
    with pytest.raises(InvalidOperation) as refused:
        Signature("a" * (OPERATOR_LENGTH_MAX + 1), "r" * (AUDIT_REASON_LENGTH_MAX + 1), 1)
    assert ["operator", "reason"] == [each.field for each in refused.value.violations]


async def _forced(path: Path) -> None:
    async with open_sqlite(path) as store:
        log = SqlDecisionLog(store)
        await decide(log, COMMIT)
        await log.force(ENDED, BY, over=Outcome.COMMITTED)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET operator = 'bob'",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit VALUES (1, 't1', 'bob', 'no', 'NONE', 'NONE', 1)",
        "INSERT INTO audit VALUES (1, 't1', 'bob', 'no', 'NONE', 'NONE', 1) "
        "ON CONFLICT (number) DO UPDATE SET operator = 'bob'",
    ],
)
async def test_a_record_stays_as_it_was_written(statement: str, tmp_path: Path) -> None:
    """The database itself refuses whoever changes, deletes or replaces a record."""
    await _forced(tmp_path / "s.db")
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        with pytest.raises(sqlite3.IntegrityError, match="is never"):
            connection.execute(statement)
        (row,) = connection.execute("SELECT txn_id, operator, reason FROM audit")
    assert ("t1", "ann", "its host is gone") == row


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET operator = 'bob'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "INSERT INTO audit OVERRIDING SYSTEM VALUE VALUES (1, 't1', 'bob', 'no', 'a', 'b', 1) "
        "ON CONFLICT (number) DO UPDATE SET operator = 'bob'",
    ],
)
async def test_a_record_stays_as_it_was_written_on_postgres(
    statement: str, postgres_server: PostgresServer
) -> None:
    """There, too, the database itself refuses."""
    schema = postgres_server.schema()
    async with open_postgres(postgres_server, schema) as store:
        log = SqlDecisionLog(store)
        await decide(log, COMMIT)
        await log.force(ENDED, BY, over=Outcome.COMMITTED)
    with postgres_server.connect() as connection:
        connection.execute(f"SET search_path TO {schema}".encode())
        with pytest.raises(psycopg.Error, match="is never changed"):
            connection.execute(statement.encode())
        (row,) = connection.execute("SELECT txn_id, operator, reason FROM audit").fetchall()
    assert ("t1", "ann", "its host is gone") == row


@pytest.mark.parametrize("unsigned", [("", "why"), ("ann", " "), ("a" * 65, "y"), ("a", "y" * 501)])
async def test_the_store_has_the_limits_too(unsigned: tuple[str, str], tmp_path: Path) -> None:
    """A record without a name or a reason is not written, whoever tries."""
    async with open_sqlite(tmp_path / "s.db"):
        pass
    with (
        closing(sqlite3.connect(tmp_path / "s.db")) as connection,
        pytest.raises(sqlite3.IntegrityError, match="CHECK"),
    ):
        connection.execute("INSERT INTO audit VALUES (1, 't', ?, ?, 'a', 'b', 1)", unsigned)


async def test_a_change_without_its_record_is_not_made(tmp_path: Path) -> None:
    """Both are one local transaction: where the record cannot be written nothing is changed."""
    async with open_sqlite(tmp_path / "s.db") as store:
        log = SqlDecisionLog(store)
        await decide(log, COMMIT)
        await store.write(lambda tx: tx.execute(
            "CREATE TRIGGER no BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END"
        ))  # fmt: skip
        with pytest.raises(sqlite3.IntegrityError):
            await log.force(ENDED, BY, over=Outcome.COMMITTED)
        assert COMMIT == await log.by_txn_id(TxnId("t1"))


async def test_what_does_not_stand_leaves_no_record(tmp_path: Path) -> None:
    """On a store that others write to, what stands afterwards rules, and not what was meant."""
    async with open_sqlite(tmp_path / "s.db") as store:
        log = SqlDecisionLog(store)
        await decide(log, COMMIT)
        await store.write(lambda tx: tx.execute(
            "CREATE TRIGGER other AFTER UPDATE ON decision BEGIN "
            "UPDATE decision SET ended = 0; END"
        ))  # fmt: skip
        assert Forced(COMMIT, None) == await log.force(ENDED, BY, over=Outcome.COMMITTED)
        assert [] == list(await log.list_audit(after=0, limit=9))


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
async def test_a_log_of_before_there_were_records_is_known_by_its_schema(
    dialect: Dialect, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """Whoever reads a backup of an earlier release asks no table that is not there."""
    versions = sql_log.schema(dialect)
    since = 1 + next(
        at for at, each in enumerate(versions["coordinator"]) if "TABLE audit" in each.sql
    )
    for count, known in ((since - 1, False), (since, True)):
        these = {"coordinator": versions["coordinator"][:count]}
        if dialect == "sqlite":
            writer: Any = SqliteWriter(tmp_path / f"{count}.db", these)
        else:
            writer = PostgresWriter(postgres_server.dsn, postgres_server.schema(), these)
        try:
            tx = writer.begin()
            assert known is sql_audit.known(tx)
            writer.rollback(tx)
        finally:
            writer.close()
