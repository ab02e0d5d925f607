"""PostgreSQL as a backend: one connection that writes, and one turn at a time for replicas.

The replicas of a participant share one database, and each group of theirs reads before it
writes: what an account has left, whether a branch is known. Locks on rows do not guard
what is not there yet, and groups of hundreds of rows that lock them in turn come to wait
for each other. So a group takes an advisory lock on its store first, which goes with its
transaction, however that ends; who waits for it stands in line. (ADR 0006)

A COMMIT that fails is in doubt and ends the process, see GroupCommit. A connection that is
lost before is a group lost: nothing of it was done, and the next one connects anew.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NoReturn, TypeAlias, TypeVar

import psycopg
from psycopg import conninfo, sql
from psycopg.pq import TransactionStatus

from txn.errors import AlreadyOwned, GroupLost, StoreAway, StoreError
from txn.metrics import NO_METRICS, StoreMetrics
from txn.store.loop_store import LoopStore
from txn.store.migrate import Migration, apply
from txn.store.opening import Schema, die_in_doubt

# libpq takes no less than 2.
CONNECT_TIMEOUT_S = 3
# Who hears nothing from the server for so long takes the connection for lost.
SILENCE_MAX_S = 10
# How long a group waits for its turn, and a statement for a stranger's lock.
LOCK_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 30
# Who stops in the middle of a group, with the turn, loses both.
IDLE_IN_GROUP_MAX_S = 10
# How often one piece of work is tried that others are in the way of.
TRIES_MAX = 3
RECONNECT_FIRST_DELAY_S = 0.05
RECONNECT_DELAY_MAX_S = 1.0
QUERIES_KNOWN_MAX = 512

# Every statement of a group, and every look-up, follows an index. What the planner takes for
# cheaper while tables are small, or not looked at yet, stays prepared when they no longer are.
_BY_INDEX = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
LIMITS = {
    "lock_timeout": f"{LOCK_TIMEOUT_S}s",
    "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
    "idle_in_transaction_session_timeout": f"{IDLE_IN_GROUP_MAX_S}s",
}
# Classes of SQLSTATE that say nothing of the work: connection, resources, operator
# intervention, system errors. https://www.postgresql.org/docs/current/errcodes-appendix.html
_SERVER_AT_FAULT = ("08", "53", "57", "58", "XX")
# Serialization failure, deadlock, lock not available: at another moment it would have gone.
IN_THE_WAY = ("40001", "40P01", "55P03")

_log = logging.getLogger(__name__)

T = TypeVar("T")


class PostgresTx:
    """A transaction, whose statements have `?` for each parameter, as everywhere here."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self.sqlstate = ""
        """Of the statement that failed last; empty when there was none or no answer."""

    @property
    def status(self) -> TransactionStatus:
        """In a transaction, in one that has failed, in none, or UNKNOWN: not connected."""
        return self._connection.info.transaction_status

    def execute(self, query: str, parameters: Any = (), /) -> psycopg.Cursor[Any]:
        """Runs one statement. Raises psycopg.Error."""
        cursor = self._connection.cursor()
        try:
            return cursor.execute(_native(query), parameters)
        except psycopg.Error as error:
            self.sqlstate = error.sqlstate or ""
            raise

    def script(self, statements: str) -> psycopg.Cursor[Any]:
        """Runs several that have no parameters, in one message. Raises psycopg.Error."""
        return self._connection.execute(statements.encode())

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


PostgresStore: TypeAlias = LoopStore[PostgresTx]


@lru_cache(QUERIES_KNOWN_MAX)
def _native(query: str) -> bytes:
    return query.replace("%", "%%").replace("?", "%s").encode()


class Session:
    """A connection that is made again when it is lost, not more often than makes sense."""

    def __init__(
        self, dsn: str, schema: str, settings: Mapping[str, str], *, owner: bool = False
    ) -> None:
        # What is said in `dsn` goes first.
        self._dsn = conninfo.make_conninfo(
            "",
            **{
                "connect_timeout": CONNECT_TIMEOUT_S,
                "keepalives_idle": SILENCE_MAX_S // 2,
                "keepalives_interval": 1,
                "keepalives_count": SILENCE_MAX_S // 2,
                "tcp_user_timeout": SILENCE_MAX_S * 1_000,
                "application_name": f"tallystick {schema}",
                **conninfo.conninfo_to_dict(dsn),
            },
        )
        self._schema = schema
        self._settings = {"search_path": f'"{schema}"', **LIMITS, **settings}
        self._owner = owner
        self._tx: PostgresTx | None = None
        self._delay_s = RECONNECT_FIRST_DELAY_S
        self._next_try_s = 0.0

    def begin(self, script: str) -> PostgresTx:
        """Runs what opens a transaction. Raises StoreError; then none is open."""
        fresh = self._tx is None
        tx = self._connected()
        try:
            tx.script(script)
        except psycopg.Error as error:
            self.end(tx)
            if fresh or self._tx is not None:
                _log.warning("no transaction for %s: %s", self._schema, error)
                raise StoreError("no transaction could be opened") from error
            # It was lost while nobody looked, and nothing was begun.
            return self.begin(script)
        return tx

    def end(self, tx: PostgresTx) -> None:
        """Undoes what is open, and lets go of a connection that is lost. Never raises."""
        if tx.status is TransactionStatus.IDLE:
            return
        try:
            tx.script("ROLLBACK")
        except psycopg.Error:
            self.close()

    def close(self) -> None:
        """Closes the connection, if there is one."""
        if self._tx is not None:
            self._tx.close()
            self._tx = None

    def _connected(self) -> PostgresTx:
        if self._tx is None:
            if time.monotonic() < self._next_try_s:
                raise StoreAway("the database cannot be reached: tried a moment ago")
            try:
                self._tx = self._connect()
            except psycopg.Error as error:
                self._next_try_s = time.monotonic() + self._delay_s
                self._delay_s = min(2 * self._delay_s, RECONNECT_DELAY_MAX_S)
                # What the driver says names hosts and users: not for callers.
                _log.warning("no connection for %s: %s", self._schema, error)
                raise StoreAway("the database cannot be reached") from error
            self._delay_s = RECONNECT_FIRST_DELAY_S
        return self._tx

    def _connect(self) -> PostgresTx:
        connection = psycopg.connect(self._dsn, autocommit=True)
        tx = PostgresTx(connection)
        try:
            for name, setting in self._settings.items():
                tx.execute("SELECT set_config(?, ?, false)", (name, setting))
            _check_forces(tx)
            if self._owner:
                _own_with_others(tx, self._schema)
        except BaseException:
            connection.close()
            raise
        return tx


class PostgresWriter:
    """The one connection of this process that writes; one thread at a time uses it."""

    def __init__(
        self,
        dsn: str,
        name: str,
        schema: Mapping[str, tuple[Migration, ...]],
        *,
        owner: bool = False,
    ) -> None:
        """Opens or creates the schema `name` and brings each component of `schema` up to date.

        An `owner` is a coordinator, one of several that decide under epochs: as long as it is
        connected it keeps those out that want the log for themselves. Raises AlreadyOwned when
        there is one of these, StoreAway when there is no server, and MigrationError when a
        newer program has written there.
        """
        self._name = name
        self._session = Session(dsn, name, _BY_INDEX, owner=owner)
        self._begin = f"BEGIN; SELECT pg_advisory_xact_lock({lock_number(f'{name}/turn')})"
        try:
            self._bring_up_to_date(schema)
        except BaseException:
            self.close()
            raise

    def has_room(self) -> bool:
        """Only the server knows. A full disk there is an error of a statement, or ends it."""
        return True

    def begin(self) -> PostgresTx:
        """Waits for this process's turn and opens a transaction. Raises StoreError."""
        return self._session.begin(self._begin)

    def begin_now(self) -> PostgresTx | None:
        """Never: to ask already means to wait."""
        return None

    def run(self, tx: PostgresTx, work: Callable[[PostgresTx], T]) -> T:
        """Runs one piece of work in a savepoint; again, if others were in the way."""
        for _ in range(TRIES_MAX):
            try:
                tx.sqlstate = ""
                tx.script("SAVEPOINT work")
                result = work(tx)
                tx.execute("RELEASE work")
            except BaseException as error:
                _undo(tx, error)
                if tx.sqlstate not in IN_THE_WAY:
                    raise
            else:
                return result
        # What the group has locked before is in their way as well: all of it goes.
        raise GroupLost("others were in the way, again and again")

    def commit(self, tx: PostgresTx) -> None:
        """Commits and forces; that ends the turn, too."""
        said = tx.execute("COMMIT").statusmessage
        if said != "COMMIT":
            # What COMMIT answers in a transaction that has failed.
            raise StoreError(f"COMMIT was answered with {said}")

    def rollback(self, tx: PostgresTx) -> None:
        """Undoes the group, if it is still there."""
        self._session.end(tx)

    def close(self) -> None:
        """Closes the connection."""
        self._session.close()

    def _bring_up_to_date(self, schema: Mapping[str, tuple[Migration, ...]]) -> None:
        tx = self.begin()
        try:
            name = sql.Identifier(self._name).as_string(None)
            tx.script(f"CREATE SCHEMA IF NOT EXISTS {name}")
            for component, migrations in schema.items():
                apply(tx, component, migrations)
            self.commit(tx)
        except psycopg.Error as error:
            raise StoreError(f"the schema {self._name} cannot be set up: {error}") from error
        finally:
            self.rollback(tx)


class PostgresReader:
    """A connection that only reads, each time from one snapshot."""

    def __init__(self, dsn: str, name: str, *, by_index: bool = False) -> None:
        """`by_index` is for who looks up a few rows, and never reads through a table."""
        self._session = Session(dsn, name, _BY_INDEX if by_index else {})

    def begin(self) -> PostgresTx:
        """Opens a read transaction. Raises StoreError."""
        return self._session.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def run(self, tx: PostgresTx, work: Callable[[PostgresTx], T]) -> T:
        """Runs `work` on the snapshot. Raises StoreError when the server fails."""
        try:
            return work(tx)
        except psycopg.Error as error:
            if at_fault(tx):
                _log.warning("no answer: %s", error)
                raise StoreError("the database does not answer") from error
            raise

    def rollback(self, tx: PostgresTx) -> None:
        """Ends the snapshot."""
        self._session.end(tx)

    def close(self) -> None:
        """Closes the connection."""
        self._session.close()


def open_store(
    dsn: str,
    name: str,
    schema: Schema,
    *,
    owner: bool = False,
    on_commit_failure: Callable[[BaseException], NoReturn] = die_in_doubt,
    metrics: StoreMetrics = NO_METRICS,
) -> PostgresStore:
    """Opens or creates the store that is the schema `name` of the database that `dsn` names.

    Must be called on the loop that uses it. See PostgresWriter for `owner` and what is raised.
    """
    return LoopStore(
        name,
        writer=lambda: PostgresWriter(dsn, name, schema, owner=owner),
        reader=lambda: PostgresReader(dsn, name),
        on_commit_failure=on_commit_failure,
        metrics=metrics,
        looker=lambda: PostgresReader(dsn, name, by_index=True),
    )


def _undo(tx: PostgresTx, error: BaseException) -> None:
    """Undoes one piece of work alone. Raises GroupLost when the whole group is gone."""
    failed = (TransactionStatus.INTRANS, TransactionStatus.INERROR)
    if tx.status not in failed or at_fault(tx):
        raise GroupLost("the group was rolled back") from error
    try:
        tx.script("ROLLBACK TO work; RELEASE work")
    except psycopg.Error as failure:
        raise GroupLost("one piece of work could not be undone alone") from failure


def at_fault(tx: PostgresTx) -> bool:
    """Whether what failed says nothing of the work: the server did not do it, or is gone."""
    return tx.status is TransactionStatus.UNKNOWN or tx.sqlstate.startswith(_SERVER_AT_FAULT)


def _check_forces(tx: PostgresTx) -> None:
    """A vote that a power cut can take back is none. Raises StoreError."""
    query = "SELECT current_setting('fsync'), current_setting('synchronous_commit')"
    fsync, synchronous = tx.execute(query).fetchone() or ("", "")
    if fsync != "on":
        raise StoreError("the database server runs with fsync off: nothing it says is durable")
    if synchronous == "off":
        tx.execute("SELECT set_config('synchronous_commit', 'on', false)")


def own_alone(tx: PostgresTx, schema: str) -> None:
    """Makes this connection the only one that has the log, until it ends. Raises AlreadyOwned."""
    _own(tx, schema, "SELECT pg_try_advisory_lock(?)")


def _own_with_others(tx: PostgresTx, schema: str) -> None:
    """The same, beside others that have it in this way: those decide under epochs."""
    _own(tx, schema, "SELECT pg_try_advisory_lock_shared(?)")


def _own(tx: PostgresTx, schema: str, query: str) -> None:
    if tx.execute(query, (lock_number(f"{schema}/owner"),)).fetchone() != (True,):
        raise AlreadyOwned(f"another coordinator runs on the schema {schema}")


def lock_number(name: str) -> int:
    """The key of an advisory lock; all of a database share 64 bits."""
    digest = hashlib.sha256(f"tallystick/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
