"""A disk that outlives processes, and the backends through which a LoopStore uses it.

What is not forced is lost: a group's changes are a copy until its force, and then they are the
truth all at once, so that a group is there wholly or not at all. A force that fails leaves it
open which of the two. Processes that share a disk take turns, as SQLite's writers do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple, TypeVar

from tests.sim.loop import Blocked, Process
from txn.errors import GroupLost, StoreError
from txn.model import BranchKey, BranchRow
from txn.state import BranchState
from txn.testing import MemoryBranchTable, Tables

T = TypeVar("T")

# Told what stood before a force, and what stands after it.
Watch = Callable[[Tables, Tables], None]


class Disk:
    """What one service has written down. Tables are replaced, never changed in place."""

    def __init__(self, name: str, rng: Random, watch: Watch) -> None:
        self.name = name
        self.rng = rng
        self.tables: Tables = {}
        self.full = False
        self.forces = 0
        # Who is writing.
        self.turn: Process | None = None
        # Whose group was the last to be forced.
        self.writer = ""
        # How many of the next forces fail, how many groups are undone by the storage, and
        # how many cannot even be begun.
        self.failing = 0
        self.losing = 0
        self.refusing = 0
        self._watch = watch

    def force(self, tables: Tables) -> None:
        """Makes a group the truth; whoever watches sees it first."""
        before, self.tables = self.tables, tables
        self.forces += 1
        self._watch(before, tables)


class Writer:
    """LoopBackend of one process over a disk."""

    def __init__(self, disk: Disk, process: Process, see: Callable[[str], None]) -> None:
        self._disk = disk
        self._process = process
        self._see = see

    def has_room(self) -> bool:
        """See Backend.has_room."""
        if self._disk.full:
            self._see("new work shed")
        return not self._disk.full

    def begin_now(self) -> Tables | None:
        """See LoopBackend.begin_now. Raises StoreError."""
        if self._is_taken():
            return None
        return self._begun()

    def begin(self) -> Tables:
        """See Backend.begin. Raises StoreError."""
        if self._is_taken():
            raise Blocked
        return self._begun()

    def run(self, tx: Tables, work: Callable[[Tables], T]) -> T:
        """See Backend.run."""
        if self._disk.losing:
            self._disk.losing -= 1
            raise GroupLost("the storage undid the group")
        before = copied(tx)
        try:
            return work(tx)
        except BaseException:
            tx.clear()
            tx.update(before)
            raise

    def commit(self, tx: Tables) -> None:
        """See Backend.commit. Raises OSError, and then it may be there all the same."""
        disk = self._disk
        disk.turn, disk.writer = None, self._process.name
        if disk.failing:
            disk.failing -= 1
            if disk.rng.random() < 0.5:
                disk.force(tx)
            raise OSError("the force failed")
        disk.force(tx)

    def rollback(self, tx: Tables) -> None:
        """See Backend.rollback."""
        self._disk.turn = None

    def close(self) -> None:
        """See Backend.close."""

    def _is_taken(self) -> bool:
        turn = self._disk.turn
        return turn is not None and turn.alive

    def _begun(self) -> Tables:
        if self._disk.refusing:
            self._disk.refusing -= 1
            raise StoreError("the storage is busy")
        self._disk.turn = self._process
        tables = copied(self._disk.tables)
        tables["move"] = {}
        return tables


class Reader:
    """Snapshots of a disk, as long as it can be read."""

    def __init__(self, disk: Disk, readable: Callable[[], bool]) -> None:
        self._disk = disk
        self._readable = readable

    def begin(self) -> Tables:
        """See Snapshots.begin. Raises StoreError."""
        if not self._readable():
            raise StoreError("the storage cannot be read")
        return self._disk.tables

    def run(self, tx: Tables, work: Callable[[Tables], T]) -> T:
        """See Snapshots.run."""
        return work(tx)

    def rollback(self, tx: Tables) -> None:
        """See Snapshots.rollback."""

    def close(self) -> None:
        """See Snapshots.close."""


def copied(tables: Tables) -> Tables:
    """Tables that may be changed without changing these."""
    return {name: dict(rows) for name, rows in tables.items()}


class Move(NamedTuple):
    """What a group did to one branch, one step of it. No state is no row."""

    key: BranchKey
    was: BranchState | None
    now: BranchState | None


class NotedBranchTable(MemoryBranchTable):
    """The branch table; what a group does to a branch in several steps is noted step by step."""

    def insert_all(self, tx: Tables, rows: Sequence[BranchRow]) -> None:
        """See BranchTable.insert_all."""
        super().insert_all(tx, rows)
        for row in rows:
            _note(tx, Move(row.key, None, row.state))

    def set_state_all(self, tx: Tables, keys: Sequence[BranchKey], state: BranchState) -> None:
        """See BranchTable.set_state_all."""
        for key in keys:
            _note(tx, Move(key, tx["branch"][key].state, state))
        super().set_state_all(tx, keys, state)

    def forget(self, tx: Tables, keys: Sequence[BranchKey], log_id: str, horizon: str) -> int:
        """See BranchTable.forget."""
        before = dict(tx.get("branch", {}))
        deleted = super().forget(tx, keys, log_id, horizon)
        rows = tx["branch"]
        if len(rows) < len(before):
            for key, row in before.items():
                if key not in rows:
                    _note(tx, Move(key, row.state, None))
        return deleted


def _note(tx: Tables, move: Move) -> None:
    moves = tx.setdefault("move", {})
    moves[len(moves)] = move
