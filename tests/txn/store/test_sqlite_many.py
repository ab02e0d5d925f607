"""Reading and writing many rows with few statements."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from txn.store.sqlite_many import select_in, write_rows

# Around every size of a statement, and more than the largest takes.
COUNTS = (0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 255, 256, 257, 700)


@pytest.fixture
def tx() -> Iterator[sqlite3.Connection]:
    """An empty table of names and numbers."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE item (name TEXT PRIMARY KEY, number INTEGER) STRICT")
        yield connection


def _items(count: int) -> list[tuple[str, int]]:
    return [(f"{at:04}", at) for at in range(count)]


def _stored(tx: sqlite3.Connection) -> list[tuple[str, int]]:
    return tx.execute("SELECT name, number FROM item ORDER BY name").fetchall()


@pytest.mark.parametrize("count", COUNTS)
def test_every_row_is_written_once(tx: sqlite3.Connection, count: int) -> None:
    """However many rows there are, each is inserted, changed and deleted, and no other."""
    others = [("other", -1)]
    write_rows(tx, "INSERT INTO item {rows}", others + _items(count))
    assert _stored(tx) == _items(count) + others
    changes = [(at * 3, name) for name, at in _items(count)]
    write_rows(
        tx, "UPDATE item SET number = number + column1 FROM ({rows}) WHERE name = column2", changes
    )
    assert _stored(tx) == [(name, at * 4) for name, at in _items(count)] + others
    write_rows(
        tx, "DELETE FROM item WHERE (name) IN ({rows})", [(name,) for name, _ in _items(count)]
    )
    assert _stored(tx) == others


@pytest.mark.parametrize("count", COUNTS)
def test_every_key_is_found_once(tx: sqlite3.Connection, count: int) -> None:
    """However many keys are asked for, and however often, the rows of each come once."""
    write_rows(tx, "INSERT INTO item {rows}", [*_items(count), ("other", -1)])
    keys = [name for name, _ in _items(count)]
    found = select_in(tx, "SELECT name, number FROM item WHERE name IN", [*keys, "absent"])
    assert sorted(found) == _items(count)


def test_only_so_many_statements_are_made(tx: sqlite3.Connection) -> None:
    """Any number of rows below 512 goes with at most nine statements, of nine shapes in all."""
    shapes = set()
    for count in range(1, 512):
        seen: list[str] = []
        tx.execute("DELETE FROM item")
        tx.set_trace_callback(seen.append)
        write_rows(tx, "INSERT INTO item {rows}", _items(count))
        tx.set_trace_callback(None)
        assert len(seen) <= 9
        shapes |= {statement.count("(") for statement in seen}
    assert len(shapes) == 9
