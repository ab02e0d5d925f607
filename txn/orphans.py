"""What is prepared in a database, beside what the decision log says of it.

A participant asks about what it has left in doubt. Where none runs any more, for instance since
its service was given up, a prepared transaction stays, with its locks, and holds back VACUUM, for
ever. This looks for them. Resolved is what the log has decided, and nothing else: in doubt is in
doubt, however old, and what others have prepared is theirs.

Who asks the log about a transaction of which it knows nothing, and which is not active, has its
abort written there first, as a participant that asks has: absence alone decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum
from typing import Protocol

import psycopg

from txn.clock import Clock
from txn.errors import Alarm, OtherLog, StoreError, TooOld, TxnError
from txn.model import Abort, BranchKey, Commit
from txn.prepared_name import PreparedName, name_in
from txn.state import Outcome
from txn.store.postgres import PostgresReader, Session
from txn.store.prepared_branches import PreparedBranches, settings_of
from txn.value import value

_PREPARED = (
    "SELECT gid, (extract(epoch FROM now() - prepared))::float8 FROM pg_prepared_xacts "
    "WHERE database = current_database() ORDER BY gid"
)


class OrphanKind(Enum):
    """What the log says of a prepared transaction."""

    COMMITTED = "the log has committed it: it is to be committed here"
    ABORTED = "the log has aborted it, for good: it is to be undone here"
    PENDING = "its transaction is still active, or not yet decided"
    NO_ANSWER = "the coordinator did not answer: in doubt"
    OTHER_LOG = "another log decides it: ask a coordinator of that one"
    TOO_OLD = "older than the log remembers: only people can tell"
    FOREIGN = "not of this project: left alone"


@value
class Orphan:
    """A prepared transaction. `name` is None of what is FOREIGN.

    `resolved` is whether it is no more; where that was tried and failed `problem` says why.
    """

    gid: str
    age_s: float
    name: PreparedName | None
    kind: OrphanKind
    resolved: bool = False
    problem: str = ""


class Inquiry(Protocol):
    """The way to a coordinator."""

    async def ask(self, key: BranchKey) -> Outcome:
        """What it says of a branch in doubt. Raises OtherLog, TooOld, or Unreachable."""


class OrphanScan:
    """See the module's docstring. One at a time may use it."""

    def __init__(self, dsn: str, inquiry: Inquiry, clock: Clock) -> None:
        """`dsn` names the database: only who is connected to it can end what is prepared in it."""
        self._dsn = dsn
        self._inquiry = inquiry
        self._clock = clock

    async def look(self, *, resolve: bool) -> list[Orphan]:
        """All that is prepared there; resolves what is proved, if told to. Raises StoreError."""
        found: list[Orphan] = []
        for gid, age_s in await asyncio.to_thread(self._prepared):
            name = name_in(gid)
            kind = OrphanKind.FOREIGN if name is None else await self._kind(name.key)
            orphan = Orphan(gid, age_s, name, kind)
            found.append(await self._resolved(orphan) if resolve else orphan)
        return found

    async def _kind(self, key: BranchKey) -> OrphanKind:
        try:
            return OrphanKind[(await self._inquiry.ask(key)).name]
        except OtherLog:
            return OrphanKind.OTHER_LOG
        except TooOld:
            return OrphanKind.TOO_OLD
        except TxnError:
            return OrphanKind.NO_ANSWER

    async def _resolved(self, orphan: Orphan) -> Orphan:
        name, kind = orphan.name, orphan.kind
        if name is None or kind not in (OrphanKind.COMMITTED, OrphanKind.ABORTED):
            return orphan
        problem = await asyncio.to_thread(self._settle, name, kind)
        return Orphan(orphan.gid, orphan.age_s, name, kind, not problem, problem)

    def _settle(self, name: PreparedName, kind: OrphanKind) -> str:
        """As its participant would, which may be running; returns what went wrong."""
        branches = PreparedBranches(name.schema, self._clock.utc_us)
        session = Session(self._dsn, name.schema, settings_of(name.schema))
        try:
            if kind is OrphanKind.COMMITTED:
                commit = Commit(name.key)
                branches.with_branch(session, name.key, lambda tx: branches.commit(tx, commit))
            else:
                abort = Abort(name.key)
                branches.with_branch(session, name.key, lambda tx: branches.abort(tx, abort))
        except (Alarm, StoreError, psycopg.Error) as error:
            return str(error).strip()
        finally:
            session.close()
        return ""

    def _prepared(self) -> Sequence[tuple[str, float]]:
        reader = PostgresReader(self._dsn, "orphans")
        try:
            return reader.run(reader.begin(), lambda tx: tx.execute(_PREPARED).fetchall())
        finally:
            reader.close()
