"""How many commits stand in SQLite's write-ahead log: a look at the file, which slows nobody down.

See "The WAL File Format" in SQLite's documentation of its file format.
"""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Final

_HEADER: Final = struct.Struct(">8xI4x8s8x")
_FRAME_HEADER: Final = struct.Struct(">4xI8s8x")


def empty(database: Path) -> None:
    """Moves all of the log into the database, whose processes are idle."""
    with closing(sqlite3.connect(database)) as connection:
        (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not busy


def commits(database: Path) -> int:
    """Commits since `empty`. Raises ValueError when the log has begun anew since."""
    log = Path(f"{database}-wal").read_bytes()
    if not log:
        return 0
    page_size, salt = _HEADER.unpack_from(log)
    count = 0
    step = _FRAME_HEADER.size + page_size
    for at in range(_HEADER.size, len(log) - step + 1, step):
        size_after_commit, of = _FRAME_HEADER.unpack_from(log, at)
        if of != salt:
            # What follows was written before a checkpoint, and part of it is overwritten.
            raise ValueError("a checkpoint came between")
        count += size_after_commit > 0
    return count
