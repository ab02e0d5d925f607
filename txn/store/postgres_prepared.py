"""The database of a participant that prepares transactions: its connections, and what fails there.

Business code may wait for locks of other branches, whose Commits set them free. So what settles
has connections of its own, and is never behind what waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import psycopg

from txn.clock import Clock
from txn.errors import Busy, NotFound, StoreError
from txn.model import (
    Abort,
    BranchKey,
    BranchRow,
    Commit,
    Perform,
    Prepare,
    Resolve,
    TxnId,
    VoteReply,
)
from txn.prepared_name import is_schema
from txn.state import BranchState
from txn.store import sql_branches
from txn.store.opening import Schema
from txn.store.postgres import IN_THE_WAY, PostgresTx, PostgresWriter, Session, at_fault
from txn.store.postgres_pool import PostgresPool
from txn.store.prepared_branches import PreparedBranches, Run, settings_of

# Of one process: branches whose statements run at once, and messages that settle at once.
PREPARING_CONNECTIONS_MAX = 8
SETTLING_CONNECTIONS_MAX = 4
LOCKED = "LOCKED"

_log = logging.getLogger(__name__)

T = TypeVar("T")


class PreparedStore:
    """See the module's docstring. Must be made on the loop that uses it."""

    def __init__(
        self, dsn: str, name: str, schema: Schema, clock: Clock, *, connections: int
    ) -> None:
        """See `open_prepared_store`."""
        if not is_schema(name):
            raise ValueError(f"name must be a letter, then letters, digits or _: {name!r}")
        # It brings the tables up to date, and is not needed any more.
        PostgresWriter(dsn, name, {**schema, **sql_branches.schema("postgres")}).close()
        self._branches = PreparedBranches(name, clock.utc_us)

        def connect() -> Session:
            return Session(dsn, name, settings_of(name))

        _refuse_unprepared(connect())
        self._preparing = PostgresPool(connect, connections)
        self._settling = PostgresPool(connect, SETTLING_CONNECTIONS_MAX)

    async def vote(self, message: Prepare | Perform, run: Run) -> VoteReply:
        """Prepares or performs a branch, whose business code is `run`; durable on return.

        Raises Refused, Busy when a lock does not come free in time, IdempotencyConflict,
        ResourceFailed, Overloaded, StoreError, or whatever `run` raises.
        """

        def vote(tx: PostgresTx) -> VoteReply:
            try:
                if isinstance(message, Prepare):
                    return self._branches.prepare(tx, message, run)
                return self._branches.perform(tx, message, run)
            except psycopg.Error as error:
                _told(tx, error)
                raise

        return await self._preparing.run(
            lambda session: self._branches.with_branch(session, message.key, vote)
        )

    async def settle(self, message: Commit | Abort | Resolve) -> VoteReply | None:
        """Does what was promised, or says what was performed; durable on return.

        Raises an Alarm, Overloaded or StoreError: then it may or may not have been done.
        """

        def settle(tx: PostgresTx) -> VoteReply | None:
            if isinstance(message, Resolve):
                return self._branches.resolve(tx, message)
            if isinstance(message, Commit):
                self._branches.commit(tx, message)
            else:
                self._branches.abort(tx, message)
            return None

        return await self._settling.run(
            lambda session: _or_store_error(
                lambda: self._branches.with_branch(session, message.key, settle)
            )
        )

    async def get(self, key: BranchKey) -> BranchRow:
        """What is remembered of a branch. Raises NotFound, Overloaded or StoreError."""
        row = await self._in_transaction("", lambda tx: self._branches.get(tx, key))
        if row is None:
            raise NotFound("no such branch")
        return row

    async def list_rows(
        self, after: BranchKey | None, limit: int, state: BranchState | None
    ) -> Sequence[BranchRow]:
        """See BranchTable.list_rows. Raises Overloaded or StoreError."""
        return await self._in_transaction(
            "", lambda tx: self._branches.list_rows(tx, after, limit, state)
        )

    async def forget(self, keys: Sequence[BranchKey], horizon: TxnId) -> int:
        """See BranchTable.forget. Raises Overloaded or StoreError."""
        return await self._in_transaction(
            "COMMIT", lambda tx: self._branches.forget(tx, keys, horizon)
        )

    async def close(self) -> None:
        """Waits for what runs, and closes the connections. What is prepared stays so."""
        await self._preparing.close()
        await self._settling.close()

    async def _in_transaction(self, end: str, work: Callable[[PostgresTx], T]) -> T:
        def run(session: Session) -> T:
            tx = session.begin("BEGIN")
            try:
                result = work(tx)
                if end:
                    tx.script(end)
                return result
            finally:
                session.end(tx)

        return await self._settling.run(lambda session: _or_store_error(lambda: run(session)))


def open_prepared_store(
    dsn: str,
    name: str,
    schema: Schema,
    clock: Clock,
    *,
    connections: int = PREPARING_CONNECTIONS_MAX,
) -> PreparedStore:
    """Opens or creates the schema `name` of a database, with the barrier beside `schema`.

    `connections` is how many branches run at once. Raises StoreError, also where the server has
    `max_prepared_transactions` at 0, StoreAway, MigrationError, and ValueError for a name that
    cannot stand in that of a prepared transaction.
    """
    return PreparedStore(dsn, name, schema, clock, connections=connections)


def _refuse_unprepared(session: Session) -> None:
    tx = session.begin("BEGIN")
    try:
        query = "SELECT current_setting('max_prepared_transactions')::int"
        if tx.execute(query).fetchone() == (0,):
            raise StoreError(
                "the database server has max_prepared_transactions = 0: nothing can be prepared "
                "there; set it to as many branches as are in doubt at once, and start it again"
            )
    finally:
        session.end(tx)
        session.close()


def _told(tx: PostgresTx, error: psycopg.Error) -> None:
    """Raises what callers hear of an error that says nothing of the work."""
    tx.sqlstate = error.sqlstate or ""
    if tx.sqlstate in IN_THE_WAY:
        raise Busy(LOCKED) from error
    if at_fault(tx):
        _log.warning("a branch was not run: %s", error)
        raise StoreError("the database does not answer") from error


def _or_store_error(work: Callable[[], T]) -> T:
    """Nothing that settles may fail for good: whoever asked asks again."""
    try:
        return work()
    except psycopg.Error as error:
        _log.warning("not settled: %s", error)
        raise StoreError("the database could not do it") from error
