"""The participant, over a store in memory and over SQLite, with a resource of counters."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import pytest
import pytest_asyncio

from tests.txn.helpers import COORDINATORS, FastClock, key, operation, prepare
from tests.txn.support import open_sqlite
from txn.branch_table import BranchTable
from txn.crash_point import AFTER_APPLY, AFTER_VOTE
from txn.errors import (
    BranchAborted,
    BranchCommitted,
    Busy,
    FieldViolation,
    IdempotencyConflict,
    InvalidOperation,
    NotFound,
    Refused,
    ResourceFailed,
    UnknownBranch,
)
from txn.model import BranchKey, Operation, Prepare, VoteReply
from txn.participant import LATE_PREPARE, REFUSED, Participant
from txn.state import BranchState, Vote
from txn.store.group_commit import Store
from txn.store.sqlite_branches import SqliteBranchTable
from txn.testing import MemoryBackend, MemoryBranchTable, MemoryStore, Tables


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

    def __init__(self, store: Store[Any], branches: BranchTable[Any], effects: Effects) -> None:
        self.store = store
        self.crash_points: list[str] = []
        self.codec = TextCodec()
        self.participant: Participant[Any, str] = Participant(
            store=store,
            branches=branches,
            resource=Counting(effects),
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


@pytest_asyncio.fixture(params=["memory", "sqlite"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """A participant over each kind of store."""
    if request.param == "memory":
        yield Rig(MemoryStore(), MemoryBranchTable(), MemoryEffects())
        return
    async with open_sqlite(
        tmp_path / "p.db", "CREATE TABLE effect (name PRIMARY KEY, count);"
    ) as s:
        yield Rig(s, SqliteBranchTable(), SqliteEffects())


async def test_prepare_then_commit(rig: Rig) -> None:
    """A vote reserves, a commit makes it final; each once."""
    assert VoteReply(Vote.COMMIT) == await rig.participant.prepare(prepare())
    assert BranchState.PREPARED is await rig.state()
    await rig.participant.commit(key())
    assert BranchState.COMMITTED is await rig.state()
    assert {"prepare": 1, "commit op": 1} == await rig.effects()


async def test_prepare_then_abort(rig: Rig) -> None:
    """An abort gives back what was reserved."""
    await rig.participant.prepare(prepare())
    await rig.participant.abort(key())
    assert BranchState.ABORTED is await rig.state()
    assert {"prepare": 1, "abort op": 1} == await rig.effects()


async def test_repeated_messages_have_one_effect(rig: Rig) -> None:
    """Every message may come twice, also after the end."""
    for _ in range(3):
        assert VoteReply(Vote.COMMIT) == await rig.participant.prepare(prepare())
    for _ in range(3):
        await rig.participant.commit(key())
    assert VoteReply(Vote.COMMIT) == await rig.participant.prepare(prepare())
    assert {"prepare": 1, "commit op": 1} == await rig.effects()


async def test_repeated_aborts_have_one_effect(rig: Rig) -> None:
    """An abort may come twice."""
    await rig.participant.prepare(prepare())
    for _ in range(3):
        await rig.participant.abort(key())
    assert {"prepare": 1, "abort op": 1} == await rig.effects()


async def test_messages_at_once_have_one_effect(rig: Rig) -> None:
    """Duplicates that arrive together are as good as duplicates that arrive in turn."""
    votes = await asyncio.gather(*[rig.participant.prepare(prepare()) for _ in range(8)])
    await asyncio.gather(*[rig.participant.commit(key()) for _ in range(8)])
    assert [VoteReply(Vote.COMMIT)] * 8 == votes
    assert {"prepare": 1, "commit op": 1} == await rig.effects()


async def test_empty_abort_and_late_prepare(rig: Rig) -> None:
    """An abort of the unknown is remembered, and the prepare behind it reserves nothing."""
    await rig.participant.abort(key())
    await rig.participant.abort(key())
    assert BranchState.ABORTED is await rig.state()
    assert VoteReply(Vote.ABORT, LATE_PREPARE) == await rig.participant.prepare(prepare())
    assert {} == await rig.effects()


async def test_late_prepare_after_an_abort_that_undid(rig: Rig) -> None:
    """A duplicate prepare that arrives minutes late does not reserve again."""
    await rig.participant.prepare(prepare())
    await rig.participant.abort(key())
    assert VoteReply(Vote.ABORT, LATE_PREPARE) == await rig.participant.prepare(prepare())
    assert {"prepare": 1, "abort op": 1} == await rig.effects()


@pytest.mark.parametrize("committed", [False, True])
async def test_another_operation_under_one_name_conflicts(rig: Rig, committed: bool) -> None:
    """A branch stands for the operation that it was prepared with."""
    await rig.participant.prepare(prepare(value=b"first"))
    if committed:
        await rig.participant.commit(key())
    with pytest.raises(IdempotencyConflict):
        await rig.participant.prepare(prepare(value=b"second"))
    assert 1 == (await rig.effects())["prepare"]


async def test_commit_of_the_unknown_is_an_alarm(rig: Rig) -> None:
    """Never success, and nothing is remembered of it."""
    with pytest.raises(UnknownBranch):
        await rig.participant.commit(key())
    assert (None, {}) == (await rig.state(), await rig.effects())


async def test_commit_of_the_aborted_is_an_alarm(rig: Rig) -> None:
    """An abort cannot be taken back."""
    await rig.participant.prepare(prepare())
    await rig.participant.abort(key())
    with pytest.raises(BranchAborted):
        await rig.participant.commit(key())
    assert {"prepare": 1, "abort op": 1} == await rig.effects()


async def test_abort_of_the_committed_is_an_alarm(rig: Rig) -> None:
    """A commit cannot be taken back."""
    await rig.participant.prepare(prepare())
    await rig.participant.commit(key())
    with pytest.raises(BranchCommitted):
        await rig.participant.abort(key())
    assert {"prepare": 1, "commit op": 1} == await rig.effects()


@pytest.mark.parametrize(("value", "reason"), [(b"refuse", "NO"), (b"abort", REFUSED)])
async def test_a_refusal_leaves_nothing(rig: Rig, value: bytes, reason: str) -> None:
    """Neither a row nor what the resource had changed, whichever way it says no."""
    assert VoteReply(Vote.ABORT, reason) == await rig.participant.prepare(prepare(value=value))
    assert (None, {}) == (await rig.state(), await rig.effects())


async def test_read_only_leaves_no_row(rig: Rig) -> None:
    """Nothing to commit, nothing to remember; an abort all the same is an empty one."""
    assert VoteReply(Vote.READ_ONLY) == await rig.participant.prepare(prepare(value=b"read"))
    assert None is await rig.state()


async def test_an_unreadable_operation_writes_nothing(rig: Rig) -> None:
    """What cannot be read is refused before the store is asked."""
    with pytest.raises(InvalidOperation):
        await rig.participant.prepare(prepare(value=b"bad"))
    assert None is await rig.state()


async def test_branches_are_listed_by_page_and_state(rig: Rig) -> None:
    """Pages continue behind the last key; a state narrows them down."""
    for number in range(4):
        await rig.participant.prepare(prepare(f"t{number}"))
    await rig.participant.commit(key("t1"))
    listing = rig.participant.list_branches
    first = await listing(after=None, limit=3, state=None)
    rest = await listing(after=first[-1].key, limit=3, state=None)
    in_doubt = await listing(after=None, limit=9, state=BranchState.PREPARED)
    assert ["t0", "t1", "t2"] == [row.key.txn_id for row in first]
    assert ["t3"] == [row.key.txn_id for row in rest]
    assert ["t0", "t2", "t3"] == [row.key.txn_id for row in in_doubt]


async def test_crash_points_lie_behind_the_force(rig: Rig) -> None:
    """The named moments come once the change is durable, and not for a refusal."""
    await rig.participant.prepare(prepare("t0", value=b"refuse"))
    assert [] == rig.crash_points
    await rig.participant.prepare(prepare())
    await rig.participant.commit(key())
    assert [AFTER_VOTE, AFTER_APPLY] == rig.crash_points


class WatchedBackend(MemoryBackend):
    """A backend that notes at each force whether the call has its answer already."""

    def __init__(self) -> None:
        super().__init__()
        self.call: asyncio.Future[Any] | None = None
        self.answered: list[bool] = []

    def commit(self, tx: Tables) -> None:
        """Notes, then forces."""
        if self.call is not None:
            self.answered.append(self.call.done())
        super().commit(tx)


async def test_the_answer_comes_after_the_force() -> None:
    """No vote and no acknowledgement leaves before the store has forced it; none forces twice."""
    backend = WatchedBackend()
    participant = Rig(MemoryStore(backend), MemoryBranchTable(), MemoryEffects()).participant
    forces = []
    for work in (
        participant.prepare(prepare()),
        participant.prepare(prepare()),
        participant.commit(key()),
        participant.prepare(prepare("t2", value=b"refuse")),
        participant.abort(key("t2")),
    ):
        backend.call = asyncio.ensure_future(work)
        await backend.call
        forces.append(backend.forces)
    assert [False] * 5 == backend.answered
    assert [1, 1, 2, 2, 3] == forces


async def test_prepare_that_names_a_stranger_as_coordinator_is_refused(rig: Rig) -> None:
    """Nobody could be asked about such a branch, so it must not reserve anything."""
    message = Prepare(key(), "stranger", operation())
    with pytest.raises(InvalidOperation) as refused:
        await rig.participant.prepare(message)
    assert ["coordinator"] == [violation.field for violation in refused.value.violations]
    assert await rig.state() is None


async def test_rules_of_a_newer_release_do_not_strand_what_is_prepared(rig: Rig) -> None:
    """What was valid when it was prepared is committed, whatever is valid now."""
    await rig.participant.prepare(prepare(value=b"old"))
    rig.codec.bad = b"old"
    await rig.participant.commit(key())
    assert await rig.state() is BranchState.COMMITTED


async def test_resource_that_breaks_its_promise_is_an_alarm(rig: Rig) -> None:
    """A commit that raises is no answer to wait for: it stays prepared, and people hear of it."""
    await rig.participant.prepare(prepare(value=b"break"))
    with pytest.raises(ResourceFailed):
        await rig.participant.commit(key())
    assert await rig.state() is BranchState.PREPARED
    assert {"prepare": 1} == await rig.effects()
