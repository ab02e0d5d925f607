"""A participant over a store in memory or on SQLite, with a resource of counters."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from tests.txn.helpers import COORDINATORS, FastClock, key
from tests.txn.support import open_sqlite
from txn.branch_table import BranchTable
from txn.errors import Busy, FieldViolation, InvalidOperation, NotFound, Refused
from txn.model import BranchKey, Operation
from txn.participant import Participant
from txn.resource import BatchResource, Item, Resource
from txn.state import BranchState, Vote
from txn.store.group_commit import Store
from txn.store.sql_branches import SqlBranchTable
from txn.testing import MemoryBranchTable, MemoryStore, Tables

EFFECTS = "CREATE TABLE effect (name PRIMARY KEY, count);"


class Effects(Protocol):
    """Where the resource below writes, for either kind of store."""

    def add(self, tx: Any, name: str) -> None:
        """Counts one effect."""

    def all(self, tx: Any) -> dict[str, int]:
        """Every effect with its count."""


class MemoryEffects:
    """Effects in a memory store."""

    def add(self, tx: Tables, name: str) -> None:
        """See Effects."""
        rows = tx.setdefault("effect", {})
        rows[name] = rows.get(name, 0) + 1

    def all(self, tx: Tables) -> dict[str, int]:
        """See Effects."""
        return dict(tx.get("effect", {}))


class SqliteEffects:
    """Effects in a table of their own."""

    def add(self, tx: sqlite3.Connection, name: str) -> None:
        """See Effects."""
        tx.execute(
            "INSERT INTO effect VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET count = count + 1",
            (name,),
        )

    def all(self, tx: sqlite3.Connection) -> dict[str, int]:
        """See Effects."""
        return dict(tx.execute("SELECT name, count FROM effect").fetchall())


class Counting:
    """A resource whose operation says how to vote; it counts what it was asked to do."""

    def __init__(self, effects: Effects) -> None:
        self._effects = effects

    def prepare(self, tx: Any, key: BranchKey, operation: str) -> Vote:
        """Counts, then votes as told."""
        self._effects.add(tx, "prepare")
        if operation == "refuse":
            raise Refused("NO")
        if operation == "busy":
            raise Busy("TAKEN")
        return {"read": Vote.READ_ONLY, "abort": Vote.ABORT}.get(operation, Vote.COMMIT)

    def commit(self, tx: Any, key: BranchKey, operation: str) -> None:
        """Counts."""
        self._effects.add(tx, f"commit {operation}")
        if operation == "break":
            raise ZeroDivisionError("a defect in a resource")

    def abort(self, tx: Any, key: BranchKey, operation: str) -> None:
        """Counts."""
        self._effects.add(tx, f"abort {operation}")


class CountingAll(Counting):
    """The same as a BatchResource: it also counts its calls, and never fails alone."""

    refusals: Mapping[str, Vote | Refused | Busy] = {
        "refuse": Refused("NO"),
        "busy": Busy("TAKEN"),
        "abort": Vote.ABORT,
    }

    def __init__(self, effects: Effects) -> None:
        super().__init__(effects)
        self.calls: list[tuple[str, int]] = []

    def prepare_all(self, tx: Any, items: Sequence[Item[str]]) -> Sequence[Vote | Refused | Busy]:
        """See BatchResource."""
        self.calls.append(("prepare", len(items)))
        votes: list[Vote | Refused | Busy] = []
        for item in items:
            if item.operation == "explode":
                raise ZeroDivisionError("a defect in a resource")
            if item.operation in self.refusals:
                votes.append(self.refusals[item.operation])
            else:
                votes.append(self.prepare(tx, *item))
        return votes

    def commit_all(self, tx: Any, items: Sequence[Item[str]]) -> None:
        """See BatchResource."""
        self.calls.append(("commit", len(items)))
        for item in items:
            self.commit(tx, *item)

    def abort_all(self, tx: Any, items: Sequence[Item[str]]) -> None:
        """See BatchResource."""
        self.calls.append(("abort", len(items)))
        for item in items:
            self.abort(tx, *item)


class TextCodec:
    """Operations as text; from outside, the text of `bad` breaks a rule."""

    bad = b"bad"

    def decode(self, operation: Operation) -> str:
        """See Codec."""
        if operation.value == self.bad:
            raise InvalidOperation([FieldViolation("operation", "rule", "is bad")])
        return self.read(operation)

    def read(self, operation: Operation) -> str:
        """See Codec."""
        return operation.value.decode()


class Rig:
    """A participant with everything that a test looks at."""

    def __init__(
        self,
        store: Store[Any],
        branches: BranchTable[Any],
        effects: Effects,
        resource: Resource[Any, str] | BatchResource[Any, str] | None = None,
    ) -> None:
        self.store = store
        self.resource = resource or Counting(effects)
        self.crash_points: list[str] = []
        self.codec = TextCodec()
        self.participant: Participant[Any, str] = Participant(
            store=store,
            branches=branches,
            resource=self.resource,
            codec=self.codec,
            coordinators=COORDINATORS,
            clock=FastClock(),
            crash_point=self.crash_points.append,
        )
        self._effects = effects

    async def effects(self) -> dict[str, int]:
        """What stands in the store."""
        return await self.store.read(self._effects.all)

    async def state(self) -> BranchState | None:
        """What is remembered of the branch."""
        try:
            return (await self.participant.get(key())).state
        except NotFound:
            return None


KINDS = [(store, of) for store in ("memory", "sqlite") for of in (Counting, CountingAll)]


def kind_id(kind: tuple[str, type[Counting]]) -> str:
    """What a test calls it."""
    return f"{kind[0]}-{kind[1].__name__}"


@asynccontextmanager
async def open_rig(kind: tuple[str, type[Counting]], directory: Path) -> AsyncIterator[Rig]:
    """A participant over a kind of store, with a kind of resource."""
    store, resource = kind
    if store == "memory":
        effects = MemoryEffects()
        yield Rig(MemoryStore(), MemoryBranchTable(), effects, resource(effects))
        return
    async with open_sqlite(directory / "p.db", EFFECTS) as s:
        yield Rig(s, SqlBranchTable(), SqliteEffects(), resource(SqliteEffects()))
