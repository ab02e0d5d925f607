"""In which store a home's books are: noted by who starts a mesh there, for who reads the books.

SQLite files in the home say nothing of it: they may be what was there before PostgreSQL.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

SQLITE = "sqlite"
_NAME = "store"


def note(home: Path, store: str) -> None:
    """The books of `home` are in `store` from now on. Raises OSError."""
    (home / _NAME).write_text(f"{store}\n", encoding="ascii")


def noted(home: Path) -> str:
    """The store of the mesh that was last started in `home`; SQLITE where none was."""
    with suppress(FileNotFoundError, UnicodeDecodeError):
        return (home / _NAME).read_text(encoding="ascii").strip()
    return SQLITE
