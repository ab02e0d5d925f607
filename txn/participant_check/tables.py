"""What the tables of a resource hold."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from txn.store import sql_branches
from txn.store.migrate import apply

Tx = sqlite3.Connection


class Tables:
    """Reads all tables but the participant's own; the order of rows does not count."""

    def __init__(self) -> None:
        with closing(sqlite3.connect(":memory:")) as own:
            for component, migrations in sql_branches.schema().items():
                apply(own, component, migrations)
            self._own = set(_names(own))

    def __call__(self, tx: Tx) -> dict[str, list[str]]:
        """The rows of each table, as text."""
        return {
            name: sorted(repr(tuple(row)) for row in tx.execute(f'SELECT * FROM "{name}"'))  # noqa: S608
            for name in _names(tx)
            if name not in self._own
        }


def _names(tx: Tx) -> list[str]:
    rows = tx.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return [name for (name,) in rows if not name.startswith("sqlite_")]
