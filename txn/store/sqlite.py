"""SQLite as a backend: WAL, synchronous=FULL, fair turns between processes of one host.

With synchronous=NORMAL a power cut loses acknowledged commits; with FULL none. The
replicas of a service on one host share one file. SQLite's own busy handler polls, and
lets a process that commits back to back starve the others, so every group takes
`flock` on a file beside the database before BEGIN IMMEDIATE and yields after it. Who wants
that lock stands in line for it at another one: so that who has just had a turn does not
take the next one from under who waits.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from txn.errors import AlreadyOwned, GroupLost, StoreError
from txn.store.migrate import Migration, apply

# A stranger's lock on the file, such as a shell's: how long a group waits for it, looking
# again and again.
BUSY_TIMEOUT_S = 5.0
_BUSY_POLL_S = 0.005
FREE_SPACE_RESERVE_BYTES = 64 * 1024 * 1024
# Checkpoints cost forces of their own, so they are kept rare: every 64 MiB of log.
WAL_CHECKPOINT_PAGES = 16_384
WAL_SIZE_LIMIT_BYTES = 128 * 1024 * 1024
# Of pages, in memory, for the connection that writes: with SQLite's own 2 MiB most pages of
# large tables are read again for every group.
CACHE_SIZE_BYTES = 64 * 1024 * 1024

# UPDATE ... FROM, and thousands of variables in a statement.
VERSION_MIN = (3, 33)
# Those over many rows come in several sizes, see sqlite_many.py.
STATEMENTS_PREPARED_MAX = 512

T = TypeVar("T")


class SqliteWriter:
    """The one connection of this process that writes to a file; one thread at a time uses it."""

    def __init__(self, path: Path, schema: Mapping[str, tuple[Migration, ...]]) -> None:
        """Opens or creates `path` and brings each component of `schema` up to date.

        Raises MigrationError when the file is newer than this program, sqlite3.Error when
        it is not a database, StoreError when Python's SQLite is older than VERSION_MIN.
        """
        if sqlite3.sqlite_version_info < VERSION_MIN:
            needed = ".".join(map(str, VERSION_MIN))
            raise StoreError(f"SQLite {needed} is needed, this is {sqlite3.sqlite_version}")
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock_fd = lock_file(Path(f"{path}.lock"))
        self._line_fd = lock_file(Path(f"{path}.line"))
        self._connection = _connect(f"file:{_quoted(path)}?mode=rwc")
        # Taking a turn makes switching to WAL safe when replicas start together.
        self._take_turn()
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
        finally:
            self._yield_turn()
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA fullfsync = ON")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_CHECKPOINT_PAGES}")
        self._connection.execute(f"PRAGMA journal_size_limit = {WAL_SIZE_LIMIT_BYTES}")
        # Negative: in KiB, not in pages.
        self._connection.execute(f"PRAGMA cache_size = {-(CACHE_SIZE_BYTES // 1024)}")
        try:
            self._bring_up_to_date(schema)
            # From here on waiting is this file's business.
            self._connection.execute("PRAGMA busy_timeout = 0")
        except BaseException:
            # The lock belongs to the descriptor: one left open would stop every replica.
            self.close()
            raise

    def has_room(self) -> bool:
        """Whether more than the reserve is free: a commit on a full disk would be in doubt."""
        return _free_bytes(self._path) >= FREE_SPACE_RESERVE_BYTES

    def begin(self) -> sqlite3.Connection:
        """Waits for this process's turn and opens a transaction. Raises StoreError."""
        self._take_turn()
        until_s = time.monotonic() + BUSY_TIMEOUT_S
        while not self._begun():
            if time.monotonic() >= until_s:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
                raise StoreError("the database is busy")
            time.sleep(_BUSY_POLL_S)
        return self._connection

    def begin_now(self) -> sqlite3.Connection | None:
        """The same if nobody is in the way; None where `begin` would wait. Raises StoreError."""
        if not _locked_now(self._line_fd):
            return None
        mine = _locked_now(self._lock_fd)
        fcntl.flock(self._line_fd, fcntl.LOCK_UN)
        if mine and not self._begun():
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
            mine = False
        return self._connection if mine else None

    def _begun(self) -> bool:
        """Whether the transaction is open; False when a stranger is writing to the file."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                return False
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
            raise StoreError("no transaction could be opened") from error
        return True

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
        """Closes the connection and the lock files."""
        self._connection.close()
        os.close(self._lock_fd)
        os.close(self._line_fd)

    def _bring_up_to_date(self, schema: Mapping[str, tuple[Migration, ...]]) -> None:
        tx = self.begin()
        for component, migrations in schema.items():
            apply(tx, component, migrations)
        self.commit(tx)

    def _take_turn(self) -> None:
        fcntl.flock(self._line_fd, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._line_fd, fcntl.LOCK_UN)

    def _yield_turn(self) -> None:
        fcntl.flock(self._lock_fd, fcntl.LOCK_UN)


class SqliteReader:
    """A connection that only reads, each time from one snapshot."""

    def __init__(self, path: Path) -> None:
        self._connection = connect_to_read(path)

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


def take_ownership(path: Path, *, shared: bool = False) -> int:
    """Makes this process the only coordinator over the log at `path`, until it ends.

    Or one of several that decide under epochs, all `shared`: those from before there were any
    are kept out by them, and keep them out. Returns the descriptor that holds the lock; the
    kernel lets go of it when the process dies, however that comes. Raises AlreadyOwned.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(f"{path}.owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise AlreadyOwned(f"another coordinator runs on {path}") from error
    return descriptor


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing. Raises sqlite3.Error when there is no such file."""
    return _connect(f"file:{_quoted(path)}?mode=ro")


def _connect(uri: str) -> sqlite3.Connection:
    # Opened on one thread, used on another, never on two at once.
    return sqlite3.connect(
        uri,
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=STATEMENTS_PREPARED_MAX,
    )


def lock_file(path: Path) -> int:
    """The descriptor of a file to lock, made if need be."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _locked_now(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _quoted(path: Path) -> str:
    return str(path.resolve()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _free_bytes(path: Path) -> int:
    stat = os.statvfs(path.parent)
    return stat.f_bavail * stat.f_frsize
