"""SQLite as a backend: WAL, synchronous=FULL, fair turns between processes of one host.

With synchronous=NORMAL a power cut loses acknowledged commits; with FULL none. The
replicas of a service on one host share one file. SQLite's own busy handler polls, and
lets a process that commits back to back starve the others, so every group takes
`flock` on a file beside the database before BEGIN IMMEDIATE and yields after it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from txn.errors import GroupLost, StoreError
from txn.store.migrate import Migration, apply

BUSY_TIMEOUT_S = 5.0
FREE_SPACE_RESERVE_BYTES = 64 * 1024 * 1024
# Checkpoints cost forces of their own, so they are kept rare: every 64 MiB of log.
WAL_CHECKPOINT_PAGES = 16_384
WAL_SIZE_LIMIT_BYTES = 128 * 1024 * 1024

T = TypeVar("T")


class SqliteWriter:
    """The one connection of this process that writes to a file; one thread at a time uses it."""

    def __init__(self, path: Path, schema: Mapping[str, tuple[Migration, ...]]) -> None:
        """Opens or creates `path` and brings each component of `schema` up to date.

        Raises MigrationError when the file is newer than this program, sqlite3.Error when
        it is not a database.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock_fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._connection = _connect(f"file:{_quoted(path)}?mode=rwc")
        # Taking the lock makes switching to WAL safe when replicas start together.
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA fullfsync = ON")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_CHECKPOINT_PAGES}")
        self._connection.execute(f"PRAGMA journal_size_limit = {WAL_SIZE_LIMIT_BYTES}")
        try:
            self._bring_up_to_date(schema)
        except BaseException:
            # The lock belongs to the descriptor: one left open would stop every replica.
            self.close()
            raise

    def has_room(self) -> bool:
        """Whether more than the reserve is free: a commit on a full disk would be in doubt."""
        return _free_bytes(self._path) >= FREE_SPACE_RESERVE_BYTES

    def begin(self) -> sqlite3.Connection:
        """Waits for this process's turn and opens a transaction. Raises StoreError."""
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
            raise StoreError("the database is busy") from error
        return self._connection

    def run(self, tx: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs one piece of work in a savepoint of its own."""
        if not tx.in_transaction:
            # A savepoint outside of a transaction would be one of its own.
            raise GroupLost("the group was rolled back")
        tx.execute("SAVEPOINT work")
        try:
            result = work(tx)
            tx.execute("RELEASE work")
        except BaseException as error:
            if not tx.in_transaction:
                # On a full disk or an I/O error SQLite rolls everything back by itself;
                # what ran after that would be committed statement by statement.
                raise GroupLost("the group was rolled back") from error
            try:
                tx.execute("ROLLBACK TO work")
                tx.execute("RELEASE work")
            except sqlite3.Error as failure:
                raise GroupLost("one piece of work could not be undone alone") from failure
            raise
        return result

    def commit(self, tx: sqlite3.Connection) -> None:
        """Commits and forces, then lets another process have its turn."""
        tx.execute("COMMIT")
        self._yield_turn()

    def rollback(self, tx: sqlite3.Connection) -> None:
        """Undoes the group, if it is still there."""
        if tx.in_transaction:
            tx.execute("ROLLBACK")
        self._yield_turn()

    def close(self) -> None:
        """Closes the connection and the lock file."""
        self._connection.close()
        os.close(self._lock_fd)

    def _bring_up_to_date(self, schema: Mapping[str, tuple[Migration, ...]]) -> None:
        tx = self.begin()
        for component, migrations in schema.items():
            apply(tx, component, migrations)
        self.commit(tx)

    def _yield_turn(self) -> None:
        fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
        # Without this the thread takes the lock back before a waiter was scheduled.
        time.sleep(0)


class SqliteReader:
    """A connection that only reads, each time from one snapshot."""

    def __init__(self, path: Path) -> None:
        self._connection = _connect(f"file:{_quoted(path)}?mode=ro")

    def begin(self) -> sqlite3.Connection:
        """Opens a read transaction."""
        self._connection.execute("BEGIN")
        return self._connection

    def run(self, tx: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` on the snapshot."""
        return work(tx)

    def rollback(self, tx: sqlite3.Connection) -> None:
        """Ends the snapshot."""
        tx.execute("ROLLBACK")

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def _connect(uri: str) -> sqlite3.Connection:
    # Opened on one thread, used on another, never on two at once.
    return sqlite3.connect(
        uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )


def _quoted(path: Path) -> str:
    return str(path.resolve()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _free_bytes(path: Path) -> int:
    stat = os.statvfs(path.parent)
    return stat.f_bavail * stat.f_frsize
