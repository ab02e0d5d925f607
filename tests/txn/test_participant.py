"""The participant: one message at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.txn.helpers import key, operation, prepare
from tests.txn.participant_rig import KINDS, MemoryEffects, Rig, kind_id, open_rig
from txn import crash_point as at
from txn.errors import (
    BranchAborted,
    BranchCommitted,
    IdempotencyConflict,
    InvalidOperation,
    ResourceFailed,
    UnknownBranch,
)
from txn.model import Prepare, VoteReply
from txn.participant import LATE_PREPARE
from txn.resource import REFUSED
from txn.state import BranchState, Vote
from txn.testing import MemoryBackend, MemoryBranchTable, MemoryStore, Tables


@pytest_asyncio.fixture(params=KINDS, ids=kind_id)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """A participant over each kind of store, with each kind of resource."""
    async with open_rig(request.param, tmp_path) as rig:
        yield rig


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


async def test_crash_points_lie_around_messages_and_forces(rig: Rig) -> None:
    """There is one before and after each, and none behind the force of what forces nothing."""
    await rig.participant.prepare(prepare("t0", value=b"refuse"))
    assert rig.crash_points == [at.PREPARE_ARRIVES, at.BEFORE_VOTE, at.VOTE_LEAVES]
    rig.crash_points.clear()
    await rig.participant.prepare(prepare())
    await rig.participant.commit(key())
    assert rig.crash_points == [
        *(at.PREPARE_ARRIVES, at.BEFORE_VOTE, at.AFTER_VOTE, at.VOTE_LEAVES),
        *(at.COMMIT_ARRIVES, at.BEFORE_APPLY, at.AFTER_APPLY, at.ACKNOWLEDGEMENT_LEAVES),
    ]


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
