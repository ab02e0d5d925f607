"""In which store a home's books are: noted by who starts a mesh there, for who reads the books.

SQLite files in the home say nothing of it: they may be what was there before PostgreSQL.
"""

from __future__ import annotations

import os
from pathlib import Path

STORES = SQLITE, POSTGRES = ("sqlite", "postgres")
_NAME = "store"


def note(home: Path, store: str) -> None:
    """The books of `home` are in `store` from now on; durable on return. Raises OSError."""
    draft = home / f"{_NAME}.new"
    with draft.open("w", encoding="ascii") as file:
        file.write(f"{store}\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(home / _NAME)


def noted(home: Path) -> str:
    """The store of the mesh that was last started in `home`; SQLite where none was.

    Raises OSError, and ValueError, when the note cannot be read.
    """
    try:
        store = (home / _NAME).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return SQLITE
    if store not in STORES:
        raise ValueError(f"{home / _NAME} is neither {SQLITE} nor {POSTGRES}")
    return store
