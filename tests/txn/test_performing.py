"""The participant in one phase: what is performed, refused, resolved, and remembered of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from tests.txn.helpers import key, operation, prepare
from tests.txn.participant_rig import KINDS, Rig, kind_id, open_rig
from txn import crash_point as at
from txn.errors import (
    BranchCommitted,
    BranchDiffers,
    BranchForgotten,
    BranchPrepared,
    Busy,
    Refused,
    StoreFull,
    Unreachable,
)
from txn.model import Abort, Batch, Commit, Message, Perform, Reply, Resolve, TxnId, VoteReply
from txn.participant import INVALID_OPERATION, LATE_PREPARE
from txn.state import BranchState, Vote
from txn.store import sqlite

YES = VoteReply(Vote.COMMIT)
NO = VoteReply(Vote.ABORT, "NO")
LATE = VoteReply(Vote.ABORT, LATE_PREPARE)


@pytest_asyncio.fixture(params=KINDS, ids=kind_id)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """A participant over each kind of store, with each kind of resource."""
    async with open_rig(request.param, tmp_path) as rig:
        yield rig


def perform(txn_id: str = "t1", value: bytes = b"op", coordinator: str = "coordinator") -> Perform:
    """A perform of the branch of these tests."""
    return Perform(key(txn_id), coordinator, operation(value))


async def said(rig: Rig, *messages: Message) -> list[Reply | type[Exception]]:
    """The answers to one batch; errors as their types."""
    replies: Sequence[Reply] = await rig.participant.exchange(Batch(messages))
    return [type(each) if isinstance(each, Exception) else each for each in replies]


async def test_what_is_performed_is_done_at_once_and_once(rig: Rig) -> None:
    """Reserved and made final before it is answered; repeated, it is only answered."""
    for _ in range(3):
        assert [YES] == await said(rig, perform())
    assert {"prepare": 1, "commit op": 1} == await rig.effects()
    assert BranchState.COMMITTED is await rig.state()
    row = await rig.participant.get(key())
    assert ("coordinator", operation()) == (row.coordinator, row.operation)
    assert [at.PERFORM_ARRIVES, at.BEFORE_PERFORM, at.AFTER_PERFORM, at.VOTE_LEAVES] * 3 == (
        rig.crash_points
    )


async def test_a_repetition_in_the_same_batch_is_one(rig: Rig) -> None:
    """Whatever order a stream brings them in."""
    assert [YES, YES, YES] == await said(rig, perform(), Resolve(key()), perform())
    assert {"prepare": 1, "commit op": 1} == await rig.effects()


@pytest.mark.parametrize(
    ("value", "reason"),
    [(b"refuse", "NO"), (b"abort", "REFUSED"), (b"bad", INVALID_OPERATION)],
)
async def test_a_refusal_is_remembered_with_its_reason(rig: Rig, value: bytes, reason: str) -> None:
    """However it is refused: what comes late is not tried again, and hears why."""
    refused = VoteReply(Vote.ABORT, reason)
    assert [refused] == await said(rig, perform(value=value))
    assert {} == await rig.effects()
    assert BranchState.ABORTED is await rig.state()
    assert [refused, refused] == await said(rig, Resolve(key()), perform(value=b"op"))
    assert {} == await rig.effects()


async def test_who_is_named_as_coordinator_has_to_be_known(rig: Rig) -> None:
    """Nobody else could say when it may be forgotten."""
    refused = VoteReply(Vote.ABORT, INVALID_OPERATION)
    assert [refused] == await said(rig, perform(coordinator="stranger"))
    assert BranchState.ABORTED is await rig.state()


async def test_busy_and_read_only_leave_nothing(rig: Rig) -> None:
    """Who is in the way may be gone the next time, and what was read may be read again."""
    assert [Busy] == await said(rig, perform(value=b"busy"))
    assert [VoteReply(Vote.READ_ONLY)] == await said(rig, perform("t2", value=b"read"))
    rows = await rig.participant.list_branches(after=None, limit=9, state=None)
    assert [] == list(rows)


async def test_resolve_remembers_that_it_was_not_done(rig: Rig) -> None:
    """A perform that was on its way finds that, and does nothing."""
    for _ in range(2):
        assert [VoteReply(Vote.ABORT)] == await said(rig, Resolve(key()))
    assert BranchState.ABORTED is await rig.state()
    assert [LATE] == await said(rig, perform())
    assert {} == await rig.effects()


async def test_a_resource_that_fails_at_commit_has_done_nothing(rig: Rig) -> None:
    """Nothing was promised: it is no alarm, and leaves no row."""
    assert [Unreachable] == await said(rig, perform(value=b"break"))
    assert {} == await rig.effects()
    assert None is await rig.state()
    assert [VoteReply(Vote.ABORT)] == await said(rig, Resolve(key()))


async def test_each_of_a_batch_is_answered_in_its_place(rig: Rig) -> None:
    """With what takes two phases beside it; what fails harms no other."""
    await said(rig, prepare("p1"), prepare("p2"))
    expected: list[Reply | type[Exception]] = [
        YES, NO, Busy, Unreachable, VoteReply(Vote.ABORT), None, YES, None, YES,
    ]  # fmt: skip
    assert expected == await said(
        rig,
        perform("t1"),
        perform("t2", b"refuse"),
        perform("t3", b"busy"),
        perform("t4", b"break"),
        Resolve(key("t5")),
        Commit(key("p1")),
        prepare("t6"),
        Abort(key("p2")),
        perform("t7"),
    )
    rows = await rig.participant.list_branches(after=None, limit=99, state=None)
    assert {
        "p1": BranchState.COMMITTED,
        "p2": BranchState.ABORTED,
        "t1": BranchState.COMMITTED,
        "t2": BranchState.ABORTED,
        "t5": BranchState.ABORTED,
        "t6": BranchState.PREPARED,
        "t7": BranchState.COMMITTED,
    } == {row.key.txn_id: row.state for row in rows}


async def test_contradictions_are_alarms(rig: Rig) -> None:
    """A branch takes one way only, and is one operation for ever."""
    await said(rig, prepare("t1"), perform("t2"))
    alarms = [BranchPrepared, BranchPrepared, BranchDiffers, BranchCommitted]
    assert alarms == await said(
        rig, perform("t1"), Resolve(key("t1")), perform("t2", b"other"), Abort(key("t2"))
    )
    assert [YES] == await said(rig, prepare("t2"))
    assert {"prepare": 2, "commit op": 1} == await rig.effects()


async def test_what_is_forgotten_is_late_and_nothing_is_guessed_of_it(rig: Rig) -> None:
    """Below the horizon nothing is performed, and absence is no answer."""
    await said(rig, perform("t1-x"), perform("t2-x", b"refuse"))
    await rig.participant.forget([key("t1-x")], TxnId("t5-x"))
    rows = await rig.participant.list_branches(after=None, limit=9, state=None)
    assert [] == list(rows)
    for txn_id in ("t1-x", "t2-x", "t3-x"):
        assert [LATE, BranchForgotten] == await said(rig, perform(txn_id), Resolve(key(txn_id)))
    assert [YES] == await said(rig, perform("t5-x"))
    assert {"prepare": 2, "commit op": 2} == await rig.effects()


async def test_without_room_nothing_is_performed_and_all_is_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New work is shed, and who asks what became of it is answered."""
    async with open_rig(KINDS[-1], tmp_path) as rig:
        await said(rig, perform("t1"))
        monkeypatch.setattr(sqlite, "FREE_SPACE_RESERVE_BYTES", 1 << 62)
        expected = [StoreFull, YES, VoteReply(Vote.ABORT)]
        assert expected == await said(rig, perform("t2"), Resolve(key("t1")), Resolve(key("t2")))


@pytest.mark.parametrize("kind", KINDS, ids=kind_id)
async def test_the_same_that_succeeded_meanwhile_is_the_answer(
    kind: tuple[str, type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two attempts at once, one of which is refused before the other is done."""
    async with open_rig(kind, tmp_path) as rig:
        participant = rig.participant
        written = participant._written

        async def refused_at_first(works: object) -> object:
            monkeypatch.setattr(participant, "_written", written)
            assert [YES] == await said(rig, perform())
            return [Refused("NO")]

        monkeypatch.setattr(participant, "_written", refused_at_first)
        assert [YES] == await said(rig, perform())
        assert {"prepare": 1, "commit op": 1} == await rig.effects()


async def test_many_at_once_are_one_group(rig: Rig) -> None:
    """They share calls and forces, whatever way they come."""
    batches = [said(rig, *(perform(f"t{at}{n}") for n in range(10))) for at in range(10)]
    assert [[YES] * 10] * 10 == await asyncio.gather(*batches)
    assert {"prepare": 100, "commit op": 100} == await rig.effects()


async def test_refusals_that_could_not_be_in_time_raise_no_alarm(rig: Rig) -> None:
    """What breaks a rule, and comes when the horizon has passed it, is refused as before."""
    late = perform("t1-x", b"bad")
    assert [VoteReply(Vote.ABORT, INVALID_OPERATION)] == await said(rig, late)
    await rig.participant.forget([], TxnId("t5-x"))
    assert [VoteReply(Vote.ABORT, INVALID_OPERATION)] == await said(rig, late)


async def test_what_breaks_a_rule_takes_no_room_that_is_kept_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was promised: it is not answered, and asked again when there is room."""
    async with open_rig(KINDS[-1], tmp_path) as rig:
        monkeypatch.setattr(sqlite, "FREE_SPACE_RESERVE_BYTES", 1 << 62)
        assert [StoreFull, StoreFull] == await said(rig, perform("g"), perform("b", b"bad"))
        assert [] == list(await rig.participant.list_branches(after=None, limit=9, state=None))
