"""The participant: many messages at once, and what it forgets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from tests.txn.helpers import key, operation, prepare
from tests.txn.participant_rig import (
    KINDS,
    CountingAll,
    MemoryEffects,
    Rig,
    kind_id,
    open_rig,
)
from txn import crash_point as at
from txn.errors import (
    BranchAborted,
    BranchCommitted,
    Busy,
    IdempotencyConflict,
    InvalidOperation,
    NotFound,
    Overloaded,
    ResourceFailed,
    StoreFull,
    UnknownBranch,
    Unreachable,
)
from txn.model import (
    Abort,
    Batch,
    BranchId,
    BranchKey,
    Commit,
    Message,
    Prepare,
    Reply,
    TxnId,
    VoteReply,
)
from txn.participant import LATE_PREPARE
from txn.state import BranchState, Vote
from txn.store import group_commit, sqlite
from txn.testing import MemoryBackend, MemoryBranchTable, MemoryStore

YES = VoteReply(Vote.COMMIT)
LATE = VoteReply(Vote.ABORT, LATE_PREPARE)


@pytest_asyncio.fixture(params=KINDS, ids=kind_id)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """A participant over each kind of store, with each kind of resource."""
    async with open_rig(request.param, tmp_path) as rig:
        yield rig


async def said(rig: Rig, *messages: Message) -> list[Reply | type[Exception]]:
    """The answers to one batch; errors as their types."""
    return _plain(await rig.participant.exchange(Batch(messages)))


def _plain(replies: Sequence[Reply]) -> list[Reply | type[Exception]]:
    return [type(each) if isinstance(each, Exception) else each for each in replies]


async def states(rig: Rig) -> dict[str, BranchState]:
    """What is remembered, by transaction."""
    rows = await rig.participant.list_branches(after=None, limit=100, state=None)
    return {row.key.txn_id: row.state for row in rows}


async def forget(rig: Rig, *names: str, horizon: str) -> None:
    """Tells the participant what it may forget; when this returns it has heard and forced it."""
    keys = [key(name) for name in names]
    await rig.participant.exchange(Batch([], keys, TxnId(horizon)))
    await rig.store.write(lambda tx: None)


async def test_every_message_has_its_answer_in_its_place(rig: Rig) -> None:
    """Votes, acknowledgements and errors, in the order of the messages."""
    await said(rig, prepare("p1"), prepare("p2"))
    replies = await said(
        rig,
        prepare("t1"),
        prepare("t2", value=b"refuse"),
        Commit(key("t3")),
        Abort(key("t4")),
        prepare("t5", value=b"bad"),
        prepare("t6", value=b"busy"),
        prepare("t7", value=b"read"),
        Commit(key("p1")),
        Abort(key("p2")),
        Prepare(key("t8"), "stranger", operation()),
        prepare("t9"),
    )
    expected = [
        YES,
        VoteReply(Vote.ABORT, "NO"),
        UnknownBranch,
        None,
        InvalidOperation,
        Busy,
        VoteReply(Vote.READ_ONLY),
        None,
        None,
        InvalidOperation,
        YES,
    ]
    assert expected == replies
    assert {
        "p1": BranchState.COMMITTED,
        "p2": BranchState.ABORTED,
        "t1": BranchState.PREPARED,
        "t4": BranchState.ABORTED,
        "t9": BranchState.PREPARED,
    } == await states(rig)


async def test_nothing_to_say_is_answered_with_nothing(rig: Rig) -> None:
    """A batch that only forgets has no answers."""
    assert [] == await said(rig)


async def test_a_branch_that_cannot_commit_fails_alone(rig: Rig) -> None:
    """A resource that breaks one promise keeps the others, each once."""
    names = ("t1", "t2", "t3", "t4")
    await said(rig, *(prepare(name, value=b"op") for name in names), prepare("t0", value=b"break"))
    replies = await said(rig, *(Commit(key(name)) for name in ("t1", "t2", "t0", "t3", "t4")))
    assert [None, None, ResourceFailed, None, None] == replies
    assert {"prepare": 5, "commit op": 4} == await rig.effects()
    assert BranchState.PREPARED is (await states(rig))["t0"]


async def test_a_prepare_that_explodes_fails_alone(tmp_path: Path) -> None:
    """What nobody foresaw says nothing of the others, and the other side learns no detail."""
    async with open_rig(("sqlite", CountingAll), tmp_path) as rig:
        replies = await rig.participant.exchange(
            Batch([prepare("t1"), prepare("t2", value=b"explode"), prepare("t3")])
        )
        assert [YES, Unreachable, YES] == _plain(replies)
        assert "INTERNAL" == str(replies[1])
        assert {"prepare": 2} == await rig.effects()
        assert {"t1", "t3"} == set(await states(rig))


async def test_a_batch_resource_is_called_once_for_all() -> None:
    """That is what it is for: batches that come together are one call too."""
    effects = MemoryEffects()
    resource = CountingAll(effects)
    rig = Rig(MemoryStore(), MemoryBranchTable(), effects, resource)
    await asyncio.gather(
        said(rig, prepare("t1"), prepare("t2")), said(rig, prepare("t3")), said(rig, prepare("t4"))
    )
    await said(rig, Commit(key("t1")), Abort(key("t2")), Commit(key("t3")), Abort(key("t4")))
    assert [("prepare", 4), ("commit", 2), ("abort", 2)] == resource.calls


async def test_batches_that_come_together_share_a_force() -> None:
    """However many they are, and whatever is in them."""
    backend, effects = MemoryBackend(), MemoryEffects()
    rig = Rig(MemoryStore(backend), MemoryBranchTable(), effects, CountingAll(effects))
    await asyncio.gather(*(said(rig, prepare(f"t{number}")) for number in range(8)))
    assert 1 == backend.forces
    await asyncio.gather(*(said(rig, Commit(key(f"t{number}"))) for number in range(8)))
    assert 2 == backend.forces


async def test_a_mixed_batch_is_forced_once() -> None:
    """Votes and acknowledgements of one batch do not wait for each other."""
    backend, effects = MemoryBackend(), MemoryEffects()
    rig = Rig(MemoryStore(backend), MemoryBranchTable(), effects, CountingAll(effects))
    await said(rig, prepare("t1"), prepare("t2"))
    assert [YES, None, None] == await said(rig, prepare("t3"), Commit(key("t1")), Abort(key("t2")))
    assert 2 == backend.forces


@pytest.mark.parametrize(
    ("messages", "replies", "state", "effects"),
    [
        ([prepare(), prepare()], [YES, YES], BranchState.PREPARED, {"prepare": 1}),
        (
            [prepare(), prepare(value=b"other")],
            [YES, IdempotencyConflict],
            BranchState.PREPARED,
            {"prepare": 1},
        ),
        ([Abort(key()), prepare()], [None, LATE], BranchState.ABORTED, {}),
        ([Abort(key()), Abort(key())], [None, None], BranchState.ABORTED, {}),
        (
            [prepare(value=b"refuse"), prepare(value=b"op")],
            [VoteReply(Vote.ABORT, "NO"), YES],
            BranchState.PREPARED,
            {"prepare": 1},
        ),
    ],
    ids=["repeated", "other operation", "late prepare", "repeated abort", "asked anew"],
)
async def test_a_branch_that_is_named_twice_is_answered_in_order(
    rig: Rig,
    messages: list[Message],
    replies: list[Reply],
    state: BranchState,
    effects: dict[str, int],
) -> None:
    """As if the messages had come one after the other; around them the others of the batch."""
    assert [YES, *replies, YES] == await said(rig, prepare("t0"), *messages, prepare("t9"))
    assert {"t0": BranchState.PREPARED, "t1": state, "t9": BranchState.PREPARED} == await states(
        rig
    )
    assert {**effects, "prepare": effects.get("prepare", 0) + 2} == await rig.effects()


@pytest.mark.parametrize(
    ("messages", "replies", "effect"),
    [
        ([Commit(key()), Commit(key())], [None, None], "commit op"),
        ([Abort(key()), Abort(key())], [None, None], "abort op"),
        ([Commit(key()), Abort(key())], [None, BranchCommitted], "commit op"),
        ([Abort(key()), Commit(key())], [None, BranchAborted], "abort op"),
        ([Commit(key()), prepare()], [None, YES], "commit op"),
        ([Abort(key()), prepare()], [None, LATE], "abort op"),
    ],
    ids=lambda param: (
        "-".join(type(each).__name__ for each in param) if isinstance(param, list) else None
    ),
)
async def test_a_prepared_branch_that_is_named_twice_is_answered_in_order(
    rig: Rig, messages: list[Message], replies: list[Reply], effect: str
) -> None:
    """The first word counts, and has its effect once."""
    await said(rig, prepare())
    assert replies == await said(rig, *messages)
    assert {"prepare": 1, effect: 1} == await rig.effects()


async def test_an_abort_beside_its_prepare_leaves_nothing_held(rig: Rig) -> None:
    """Whichever of the two is done first, in the end the branch is aborted and holds nothing."""
    vote, done = await said(rig, prepare(), Abort(key()))
    assert (None, True) == (done, vote in (YES, LATE))
    effects = await rig.effects()
    assert effects.get("prepare", 0) == effects.get("abort op", 0)
    assert {"t1": BranchState.ABORTED} == await states(rig)


async def test_what_was_promised_is_done_though_there_is_no_room(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New work of the batch is refused; phase two is not."""
    await said(rig, prepare("t1"), prepare("t2"))
    monkeypatch.setattr(sqlite, "FREE_SPACE_RESERVE_BYTES", 1 << 62)
    monkeypatch.setattr(MemoryBackend, "has_room", lambda _: False)
    replies = await said(rig, prepare("t3"), Commit(key("t1")), prepare("t4"), Abort(key("t2")))
    assert [StoreFull, None, StoreFull, None] == replies
    assert {"t1": BranchState.COMMITTED, "t2": BranchState.ABORTED} == await states(rig)


async def test_a_queue_that_is_full_is_answered(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every message of the batch hears that nothing was done."""
    monkeypatch.setattr(group_commit, "QUEUE_SIZE_MAX", 0)
    assert [Overloaded, Overloaded] == await said(rig, prepare("t1"), Abort(key("t2")))
    monkeypatch.undo()
    assert {} == await states(rig)


async def test_crash_points_of_a_batch_come_once(rig: Rig) -> None:
    """Each once for all messages of a kind, and none for an alarm's acknowledgement."""
    votes = [at.PREPARE_ARRIVES, at.BEFORE_VOTE, at.AFTER_VOTE, at.VOTE_LEAVES]
    await said(rig, prepare("t1"), prepare("t2"))
    assert votes == rig.crash_points
    rig.crash_points.clear()
    await said(rig, Commit(key("unknown")))
    assert rig.crash_points == [at.COMMIT_ARRIVES, at.BEFORE_APPLY]
    rig.crash_points.clear()
    await said(rig, Commit(key("t1")), Abort(key("t2")), Abort(key("t9")))
    assert rig.crash_points == [
        *(at.COMMIT_ARRIVES, at.ABORT_ARRIVES, at.BEFORE_APPLY, at.BEFORE_UNDO),
        *(at.AFTER_APPLY, at.AFTER_UNDO, at.ACKNOWLEDGEMENT_LEAVES),
    ]


async def test_crash_points_of_forgetting_are_passed(rig: Rig) -> None:
    """When word of it arrives, in the transaction that deletes, and behind its force."""
    await said(rig, prepare("t1"), prepare("t2"))
    await said(rig, Commit(key("t1")))
    rig.crash_points.clear()
    await forget(rig, "t1", horizon="t2")
    assert [name for name in rig.crash_points if "forget" in name] == [
        *(at.FORGET_ARRIVES, at.BEFORE_FORGETTING, at.AFTER_FORGETTING),
    ]


async def test_what_could_not_be_forgotten_is_not_behind_its_force(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it: it fails alone, and the branch is remembered."""

    def broken(*_: object) -> int:
        raise LookupError("a defect in a table")

    await said(rig, prepare("t1"), Commit(key("t1")))
    monkeypatch.setattr(rig.participant._branches, "forget", broken)
    rig.crash_points.clear()
    await forget(rig, "t1", horizon="t2")
    assert [at.FORGET_ARRIVES, at.BEFORE_FORGETTING] == [
        name for name in rig.crash_points if "forget" in name
    ]
    assert {"t1": BranchState.COMMITTED} == await states(rig)


async def test_what_is_forgotten_is_gone_and_stays_late(rig: Rig) -> None:
    """The row is deleted, and a prepare that comes after that reserves nothing."""
    await said(rig, prepare("t1"), prepare("t2"))
    await said(rig, Commit(key("t1")), Commit(key("t2")))
    await forget(rig, "t1", horizon="t2")
    with pytest.raises(NotFound):
        await rig.participant.get(key("t1"))
    assert [LATE, YES] == await said(rig, prepare("t1"), prepare("t2"))
    assert {"prepare": 2, "commit op": 2} == await rig.effects()


async def test_before_anything_is_forgotten_nothing_is_late(rig: Rig) -> None:
    """A horizon alone is not kept: while every row is there, the rows say what is late."""
    await rig.participant.exchange(Batch([], (), TxnId("t9")))
    assert [YES] == await said(rig, prepare("t1"))


async def test_what_is_in_doubt_is_not_forgotten(rig: Rig) -> None:
    """Whatever a coordinator says, a promise is kept until its outcome is known."""
    await said(rig, prepare("t1"))
    await forget(rig, "t1", horizon="t9")
    assert {"t1": BranchState.PREPARED} == await states(rig)
    assert [YES] == await said(rig, prepare("t1"))
    assert [None] == await said(rig, Commit(key("t1")))


async def test_an_empty_abort_below_the_horizon_is_forgotten_and_stays_late(rig: Rig) -> None:
    """Its prepare is late by the horizon instead; those above it are remembered."""
    await said(rig, Abort(key("t1")), Abort(key("t5")), prepare("t2"))
    await said(rig, Commit(key("t2")))
    await forget(rig, "t2", horizon="t3")
    assert {"t5": BranchState.ABORTED} == await states(rig)
    assert [LATE, LATE, YES] == await said(rig, prepare("t1"), prepare("t5"), prepare("t3"))


async def test_a_horizon_speaks_for_its_own_log_only(rig: Rig) -> None:
    """Another coordinator's ids are no older or younger than anything of this one."""
    await said(rig, prepare("t1-mine"), prepare("t1-other"))
    await said(rig, Commit(key("t1-mine")), Commit(key("t1-other")), Abort(key("t2-other")))
    await forget(rig, "t1-mine", horizon="t5-mine")
    assert {"t1-other": BranchState.COMMITTED, "t2-other": BranchState.ABORTED} == await states(rig)
    replies = await said(rig, prepare("t4-mine"), prepare("t4-other"), prepare("t5-mine"))
    assert [LATE, YES, YES] == replies


async def test_forgetting_that_cannot_be_queued_harms_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows stay, that is all."""
    await said(rig, prepare("t1"))
    await said(rig, Commit(key("t1")))
    monkeypatch.setattr(group_commit, "QUEUE_SIZE_MAX", 0)
    assert [] == await rig.participant.exchange(Batch([], [key("t1")], TxnId("t9")))
    monkeypatch.undo()
    await rig.store.write(lambda tx: None)
    assert {"t1": BranchState.COMMITTED} == await states(rig)


async def test_branches_of_one_transaction_are_told_apart(rig: Rig) -> None:
    """Several branches of a transaction at one participant are branches like any others."""
    a, b = BranchKey(TxnId("t1"), BranchId("a")), BranchKey(TxnId("t1"), BranchId("b"))
    assert [YES, YES] == await said(rig, prepare("t1", "a"), prepare("t1", "b", b"other"))
    assert [None, None] == await said(rig, Commit(b), Commit(a))
    assert {"prepare": 2, "commit op": 1, "commit other": 1} == await rig.effects()
