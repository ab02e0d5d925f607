"""Reading many rows of SQLite by their keys, with few statements."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import islice
from typing import Any

# How many keys a statement takes; few sizes, so that each stays prepared.
_SIZES = (1, 8, 64, 256)


def select_in(
    tx: sqlite3.Connection, query: str, keys: Sequence[str], *, fixed: Sequence[str] = ()
) -> list[tuple[Any, ...]]:
    """The rows of `query`, which ends with `... IN`, for all of `keys`, in no given order.

    `fixed` are the parameters before them. One statement for each key takes three times as
    long: 3 us instead of 1 for a row that is there.
    """
    rows: list[tuple[Any, ...]] = []
    left = iter(keys)
    while chunk := list(islice(left, _SIZES[-1])):
        size = next(size for size in _SIZES if size >= len(chunk))
        # A key that is there twice is found once.
        chunk += chunk[-1:] * (size - len(chunk))
        places = ", ".join("?" * size)
        rows += tx.execute(f"{query} ({places})", (*fixed, *chunk)).fetchall()
    return rows
