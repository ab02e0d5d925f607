"""Reading and writing many rows of SQLite with few statements."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache
from itertools import chain, islice
from typing import Any

# How many keys, or rows, a statement takes; few sizes, so that each stays prepared.
_KEYS = (1, 8, 64, 256)
_ROWS = (256, 128, 64, 32, 16, 8, 4, 2, 1)


def select_in(
    tx: sqlite3.Connection, query: str, keys: Sequence[str], *, fixed: Sequence[str] = ()
) -> list[tuple[Any, ...]]:
    """The rows of `query`, which ends with `... IN`, for all of `keys`, in no given order.

    `fixed` are the parameters before them. One statement for each key takes three times as
    long: 3 us instead of 1 for a row that is there.
    """
    rows: list[tuple[Any, ...]] = []
    left = iter(keys)
    while chunk := list(islice(left, _KEYS[-1])):
        size = next(size for size in _KEYS if size >= len(chunk))
        # A key that is there twice is found once.
        chunk += chunk[-1:] * (size - len(chunk))
        places = ", ".join("?" * size)
        rows += tx.execute(f"{query} ({places})", (*fixed, *chunk)).fetchall()
    return rows


def write_rows(tx: sqlite3.Connection, statement: str, rows: Sequence[Sequence[object]]) -> int:
    """Runs `statement`, in which {rows} stands for `VALUES (...), ...`, over all of `rows`.

    Returns how many rows were changed.

    One statement for each row takes half as long again: 2.6 us instead of 1.6 for an insert.
    Where a key has several columns write `IN (SELECT column1, column2 FROM ({rows}))`: with
    {rows} alone SQLite scans the table.
    """
    at = changed = 0
    for size in _ROWS:
        while len(rows) - at >= size:
            chunk = rows[at : at + size]
            query = _over(statement, len(chunk[0]), size)
            changed += tx.execute(query, tuple(chain.from_iterable(chunk))).rowcount
            at += size
    return changed


@cache
def _over(statement: str, width: int, size: int) -> str:
    row = f"({', '.join('?' * width)})"
    return statement.format(rows=f"VALUES {', '.join([row] * size)}")
