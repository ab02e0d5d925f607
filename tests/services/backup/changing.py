"""Changes books behind everybody's back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def execute(book: Path, statement: str) -> None:
    """Changes a book behind everybody's back."""
    with closing(sqlite3.connect(book)) as connection:
        connection.execute(statement)
        connection.commit()
