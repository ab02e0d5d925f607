"""Schema versions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from txn.store.migrate import Migration, MigrationError, apply, load

ONE = Migration(1, "CREATE TABLE a (x);")
TWO = Migration(2, "-- a comment; with a semicolon\nINSERT INTO a VALUES (1);\nCREATE TABLE b (x);")


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """A database in memory."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


def count(connection: sqlite3.Connection) -> int:
    """Rows of table a."""
    return int(connection.execute("SELECT COUNT(*) FROM a").fetchone()[0])


def test_each_is_applied_once(connection: sqlite3.Connection) -> None:
    """A second start changes nothing; a newer program adds what is new."""
    apply(connection, "c", (ONE,))
    for _ in range(3):
        apply(connection, "c", (ONE, TWO))
    assert 1 == count(connection)


def test_components_have_versions_of_their_own(connection: sqlite3.Connection) -> None:
    """One store holds several lines of versions."""
    apply(connection, "c", (ONE, TWO))
    apply(connection, "d", (Migration(1, "CREATE TABLE d (x);"),))
    versions = connection.execute("SELECT * FROM schema_version ORDER BY 1").fetchall()
    assert [("c", 2), ("d", 1)] == versions


def test_a_newer_store_is_refused(connection: sqlite3.Connection) -> None:
    """An old program does not touch what a newer one wrote."""
    apply(connection, "c", (ONE, TWO))
    with pytest.raises(MigrationError, match="version 2; this program knows 1"):
        apply(connection, "c", (ONE,))


def test_a_last_statement_needs_no_semicolon(connection: sqlite3.Connection) -> None:
    """Nothing at the end of a file is left out in silence."""
    apply(connection, "c", (Migration(1, "CREATE TABLE a (x);\nINSERT INTO a VALUES (1)\n"),))
    assert 1 == count(connection)


def test_a_trailing_comment_is_no_statement(connection: sqlite3.Connection) -> None:
    """A file may end with a remark."""
    apply(connection, "c", (Migration(1, "CREATE TABLE a (x);\n-- the end\n"),))
    assert 0 == count(connection)


def test_triggers_are_one_statement(connection: sqlite3.Connection) -> None:
    """Semicolons within a statement do not end it."""
    trigger = "CREATE TRIGGER t AFTER INSERT ON a BEGIN\nDELETE FROM a;\nDELETE FROM a;\nEND;"
    apply(connection, "c", (ONE, Migration(2, trigger)))
    connection.execute("INSERT INTO a VALUES (1)")
    assert 0 == count(connection)


def test_files_are_loaded_in_order(tmp_path: Path) -> None:
    """By number; what is not a migration is left alone."""
    (tmp_path / "0002_more.sql").write_text("SELECT 2;")
    (tmp_path / "0001_first.sql").write_text("SELECT 'é';", encoding="utf-8")
    (tmp_path / "README").write_text("no")
    assert (Migration(1, "SELECT 'é';"), Migration(2, "SELECT 2;")) == load(tmp_path)


@pytest.mark.parametrize("names", [[], ["0002_b.sql"], ["0001_a.sql", "0003_c.sql"]])
def test_gaps_are_refused(tmp_path: Path, names: list[str]) -> None:
    """A missing number means a missing file."""
    for name in names:
        (tmp_path / name).write_text("SELECT 1;")
    with pytest.raises(MigrationError):
        load(tmp_path)


def test_two_with_one_number_are_refused(tmp_path: Path) -> None:
    """Two branches of development must not both be number 1."""
    for name in ("0001_a.sql", "0001_b.sql"):
        (tmp_path / name).write_text("SELECT 1;")
    with pytest.raises(MigrationError):
        load(tmp_path)
