"""Copies of stores that are written to all the time."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from txn.errors import StoreError
from txn.store import sqlite_backup
from txn.store.opening import schema_of
from txn.store.sqlite import SqliteWriter

SCHEMA = schema_of("count", ["CREATE TABLE count (n INTEGER);\nINSERT INTO count VALUES (0);"])
ROUNDS = 20
STORES = ("first", "second", "third")


def writers(directory: Path) -> list[SqliteWriter]:
    """Several stores, each with a number in it."""
    return [SqliteWriter(directory / f"{name}.db", SCHEMA) for name in STORES]


def paths(directory: Path) -> list[Path]:
    """Their files."""
    return [directory / f"{name}.db" for name in STORES]


@contextmanager
def counting(directory: Path) -> Iterator[None]:
    """Writes each number to the first store, then to the second and the third, and on."""
    stop = threading.Event()
    begun = threading.Event()

    def count() -> None:
        stores = writers(directory)
        while not stop.is_set():
            for store in stores:
                tx = store.begin()
                tx.execute("UPDATE count SET n = n + 1")
                store.commit(tx)
            begun.set()
        for store in stores:
            store.close()

    thread = threading.Thread(target=count)
    thread.start()
    try:
        assert begun.wait(10)
        yield
    finally:
        stop.set()
        thread.join()


def number(connection: sqlite3.Connection) -> int:
    """What stands in a store."""
    (n,) = connection.execute("SELECT n FROM count").fetchone()
    return int(n)


def test_snapshots_are_of_one_instant(tmp_path: Path) -> None:
    """What one store has been told after another has been written is never there without it."""
    seen = []
    with counting(tmp_path):
        for _ in range(ROUNDS):
            with sqlite_backup.one_instant(paths(tmp_path)) as (connections, _):
                seen.append([number(each) for each in connections])
    for first, second, third in seen:
        assert first >= second >= third >= first - 1
    assert len({first for first, *_ in seen}) > 1


def test_a_copy_is_of_the_instant_and_one_file_that_is_whole(tmp_path: Path) -> None:
    """What is written while it is copied is not in it, and it needs no other file."""
    with counting(tmp_path), sqlite_backup.one_instant(paths(tmp_path)) as (connections, _):
        then = [number(each) for each in connections]
        with closing(sqlite3.connect(tmp_path / "first.db")) as live:
            while number(live) < then[0] + ROUNDS:
                pass
        copies = [tmp_path / f"copy-{at}.db" for at in range(len(connections))]
        for source, copy in zip(connections, copies, strict=True):
            sqlite_backup.copy(source, copy)
    for copy in copies:
        with closing(sqlite3.connect(f"file:{copy}?mode=ro", uri=True)) as copied:
            assert sqlite_backup.check(copied) == ""
            assert number(copied) == then[copies.index(copy)]
    assert sorted(copies) == sorted(tmp_path.glob("copy-*"))


def test_a_writer_that_hangs_ends_the_attempt_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cannot have all turns in time gives back those it has, and the late one when it comes."""
    monkeypatch.setattr(sqlite_backup, "PAUSE_MAX_S", 0.05)
    first, _, last = stores = writers(tmp_path)
    tx = last.begin()
    with (
        pytest.raises(StoreError, match=r"third\.db does not come to an end"),
        sqlite_backup.one_instant(paths(tmp_path)),
    ):
        pass
    first.commit(first.begin())
    last.commit(tx)
    last.commit(last.begin())
    for store in stores:
        store.close()


def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    """What SQLite finds wrong is said."""
    path = tmp_path / "damaged.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE many (n INTEGER PRIMARY KEY, text TEXT)")
        connection.execute("CREATE INDEX by_text ON many (text)")
        connection.executemany("INSERT INTO many VALUES (?, ?)", [(n, str(n)) for n in range(99)])
        connection.commit()
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = 'CREATE INDEX by_text ON many (n)'"
            " WHERE name = 'by_text'"
        )
        connection.commit()
    with closing(sqlite3.connect(path)) as connection:
        assert sqlite_backup.check(connection) != ""
