"""Books on PostgreSQL: compared, and written into, as those in files."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from services.backup import reconciling, working
from services.backup.errors import NothingToBackUp, NotTaken
from services.backup.postgres import PostgresBooks
from tests.support.postgres import PostgresServer
from txn.reconcile import Kind
from txn.store import sql_log
from txn.store.postgres import PostgresWriter


def execute(dsn: str, statement: str) -> None:
    """Changes books behind everybody's back."""
    with psycopg.connect(dsn) as connection:
        connection.execute(statement.encode())


def branch(dsn: str, participant: str, state: str) -> None:
    """What a participant remembers."""
    execute(
        dsn,
        f'INSERT INTO "{participant}".branch (txn_id, branch_id, state, coordinator, '
        f"prepared_at_us) VALUES ('1-log', '{participant}', '{state}', 'coordinator', 1)",
    )


def kinds(dsn: str) -> list[Kind]:
    """What is found in the books."""
    return [each.kind for each in working.look(PostgresBooks(dsn)).findings]


async def test_a_log_that_is_older_is_told_what_the_books_prove(dsn: str) -> None:
    """The same as with files."""
    branch(dsn, "ledger", "COMMITTED")
    branch(dsn, "order", "PREPARED")
    assert [Kind.UNLOGGED, Kind.SPLIT] == kinds(dsn)
    assert 1 == len(await reconciling.reconcile(PostgresBooks(dsn)))
    assert [Kind.WILL_COMMIT] == kinds(dsn)


async def test_beside_a_coordinator_nothing_is_written(dsn: str) -> None:
    """It has the log as long as it is connected."""
    branch(dsn, "ledger", "COMMITTED")
    owner = PostgresWriter(dsn, "coordinator", sql_log.schema("postgres"), owner=True)
    with pytest.raises(NotTaken, match="another coordinator runs"):
        await reconciling.reconcile(PostgresBooks(dsn))
    owner.close()
    assert [Kind.UNLOGGED] == kinds(dsn)


def test_without_books_nothing_is_taken(postgres_server: PostgresServer, tmp_path: Path) -> None:
    """An empty database, and one that is not there."""
    empty = postgres_server.database()
    with pytest.raises(NothingToBackUp, match="no books in the database"):
        working.take(PostgresBooks(empty), tmp_path / "backup", "1")
    with pytest.raises(NotTaken, match="cannot be read"):
        working.look(PostgresBooks("host=127.0.0.1 port=1 dbname=none"))
    assert [] == list(tmp_path.iterdir())


def test_without_the_programs_that_is_said(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dump is made by a program of PostgreSQL's."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotTaken, match="no pg_dump on PATH"):
        working.take(PostgresBooks(dsn), tmp_path / "backup", "1")
    assert [] == list(tmp_path.iterdir())
