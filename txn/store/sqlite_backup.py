"""Copies of SQLite stores that others write to, all of them as they were at one instant.

Stores that were copied one after the other are of several instants: the one has committed what
the other has not been asked yet (txn/reconcile.py says what comes of that). Every writer takes
`flock` on `<store>.lock` for each group (sqlite.py). Who has those of all stores at once stands
between all groups: the snapshots that it opens then are what a power cut would have left, and
from that every start recovers. Writers wait only until the snapshots are open; copying comes after.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from txn.errors import StoreError
from txn.store.sqlite import connect_to_read, lock_file

# How long writers are kept waiting at most, all stores together.
PAUSE_MAX_S = 1.0


class _Turn:
    """A place in the line for the turn to write to a store, which can be left.

    On a thread of its own, since who waits for `flock` can neither set a deadline nor, asking
    again and again, get before those who wait for it all the time.
    """

    def __init__(self, path: Path) -> None:
        self._descriptors = [lock_file(Path(f"{path}.line")), lock_file(Path(f"{path}.lock"))]
        self._mine = threading.Event()
        self._left = False
        self._guard = threading.Lock()
        threading.Thread(target=self._stand_in_line, daemon=True).start()

    def _stand_in_line(self) -> None:
        for descriptor in self._descriptors:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with self._guard:
            self._mine.set()
            if self._left:
                self._let_go()

    def _let_go(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)

    def wait(self, timeout_s: float) -> bool:
        """Whether the turn has come in time."""
        return self._mine.wait(timeout_s)

    def leave(self) -> None:
        """Gives the turn to the next, now or as soon as it comes."""
        with self._guard:
            self._left = True
            if self._mine.is_set():
                self._let_go()


@contextmanager
def _nobody_writes(paths: Sequence[Path]) -> Iterator[None]:
    """Raises StoreError when a writer does not come to an end."""
    until_s = time.monotonic() + PAUSE_MAX_S
    with ExitStack() as stack:
        # In one order, so that two who do this do not wait for each other.
        for path in sorted(paths):
            turn = _Turn(path)
            stack.callback(turn.leave)
            if not turn.wait(max(0.0, until_s - time.monotonic())):
                raise StoreError(f"a writer of {path.name} does not come to an end")
        yield


class Snapshots(NamedTuple):
    """A connection to each store, in a read transaction, and how long writers had to wait."""

    connections: list[sqlite3.Connection]
    pause_s: float


@contextmanager
def one_instant(paths: Sequence[Path]) -> Iterator[Snapshots]:
    """Snapshots of stores, in the order of `paths`; all show what stood at one instant.

    Raises StoreError, or sqlite3.Error when one is not there.
    """
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(connect_to_read(path))) for path in paths]
        began_s = time.monotonic()
        with _nobody_writes(paths):
            for connection in connections:
                connection.execute("BEGIN")
                # The snapshot is that of the first read.
                connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        yield Snapshots(connections, time.monotonic() - began_s)


def copy(source: sqlite3.Connection, target: Path) -> None:
    """Writes what `source` sees to a new file, which is one file and durable. Raises sqlite3.Error.

    https://www.sqlite.org/backup.html: pages are read in the transaction that is open.
    """
    with closing(sqlite3.connect(target)) as copied:
        source.backup(copied)
        # In WAL, as the original is, reading it would make files beside it.
        copied.execute("PRAGMA journal_mode = DELETE")


def check(connection: sqlite3.Connection) -> str:
    """What SQLite finds wrong with a file; empty when it is whole."""
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    return "" if found == "ok" else str(found)
