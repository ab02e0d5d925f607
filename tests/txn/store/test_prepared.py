"""Branches that PostgreSQL keeps prepared: every rule of the barrier, and what fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.postgres import PostgresServer, running
from tests.support.waiting import eventually
from tests.txn.helpers import DEADLINE_S, key
from tests.txn.store.prepared_rig import LONG_NAME, PreparedRig, open_prepared, roll_back_all
from txn import crash_point as at
from txn.clock import SystemClock
from txn.errors import (
    BranchAborted,
    BranchCommitted,
    BranchDiffers,
    BranchForgotten,
    BranchPrepared,
    Busy,
    IdempotencyConflict,
    InvalidOperation,
    NotFound,
    Overloaded,
    ResourceFailed,
    StoreError,
    UnknownBranch,
    Unreachable,
)
from txn.metrics import NoMetrics
from txn.model import Abort, Batch, Commit, Message, Operation, Perform, Prepare, Resolve, TxnId
from txn.model import VoteReply as Voted
from txn.participant import INVALID_OPERATION, LATE_PREPARE
from txn.state import BranchState, Vote
from txn.store import postgres_pool, postgres_prepared, prepared_branches
from txn.store.postgres_prepared import LOCKED, open_prepared_store
from txn.store.prepared_branches import PREPARING_LOCK_TIMEOUT_S

YES = Voted(Vote.COMMIT)
NO = Voted(Vote.ABORT, "NO")
LATE = Voted(Vote.ABORT, LATE_PREPARE)


@pytest_asyncio.fixture
async def rig(postgres_server: PostgresServer) -> AsyncIterator[PreparedRig]:
    """A participant in a schema of its own."""
    async with open_prepared(postgres_server) as rig:
        yield rig
    roll_back_all(postgres_server, rig.schema)


@pytest_asyncio.fixture
async def patient(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PreparedRig]:
    """One, and whoever shares its schema, that waits for locks longer than a busy machine takes."""
    monkeypatch.setattr(prepared_branches, "PREPARING_LOCK_TIMEOUT_S", int(DEADLINE_S))
    async with open_prepared(postgres_server) as rig:
        yield rig
    roll_back_all(postgres_server, rig.schema)


def take(txn_id: str = "t1", what: str = "ann", coordinator: str = "coordinator") -> Prepare:
    """A prepare of the branch of these tests."""
    return Prepare(key(txn_id), coordinator, Operation("type.example/Op", what.encode()))


def perform(txn_id: str = "t1", what: str = "ann") -> Perform:
    """The same in one phase."""
    return Perform(key(txn_id), "coordinator", take(what=what).operation)


async def test_what_is_prepared_takes_effect_when_it_is_committed(rig: PreparedRig) -> None:
    """Nobody sees anything of it before; the barrier's row comes with it."""
    assert YES == await rig.participant.prepare(take())
    assert ({"ann": 0, "bob": 0}, [], 1) == (rig.amounts(), rig.rows(), len(rig.gids()))
    await rig.participant.commit(key())
    assert ({"ann": 1, "bob": 0}, []) == (rig.amounts(), rig.gids())
    assert [("t1", "COMMITTED", "")] == rig.rows()
    row = await rig.participant.get(key())
    assert ("coordinator", take().operation) == (row.coordinator, row.operation)


async def test_what_is_aborted_is_undone_and_remembered(rig: PreparedRig) -> None:
    """And a prepare that comes after it runs nothing."""
    await rig.participant.prepare(take())
    await rig.participant.abort(key())
    assert ({"ann": 0, "bob": 0}, []) == (rig.amounts(), rig.gids())
    assert [LATE, None] == await rig.said(take(), Abort(key()))
    assert [("t1", "ABORTED", "")] == rig.rows()


async def test_every_message_may_come_again(rig: PreparedRig) -> None:
    """It is answered the same, and nothing is done twice: prepared, committed, and after both."""
    for _ in range(2):
        assert [YES, YES] == await rig.said(take(), take())
    for _ in range(2):
        assert [None, None, YES] == await rig.said(Commit(key()), Commit(key()), take())
    assert {"ann": 1, "bob": 0} == rig.amounts()


async def test_another_operation_under_the_same_name_is_a_conflict(rig: PreparedRig) -> None:
    """While it is prepared, which only its name tells, and when it is committed."""
    await rig.participant.prepare(take())
    assert [IdempotencyConflict] == await rig.said(take(what="bob"))
    await rig.participant.commit(key())
    assert [IdempotencyConflict] == await rig.said(take(what="bob"))
    assert {"ann": 1, "bob": 0} == rig.amounts()


async def test_an_abort_before_its_prepare_is_remembered(rig: PreparedRig) -> None:
    """An empty abort; the late prepare reserves nothing."""
    assert [None, None, LATE] == await rig.said(Abort(key()), Abort(key()), take())
    assert [] == rig.gids()


async def test_contradictions_are_alarms(rig: PreparedRig) -> None:
    """Commit of what is unknown or aborted, abort of what is committed: never success."""
    assert [UnknownBranch] == await rig.said(Commit(key("t0")))
    await rig.said(Abort(key("t1")), take("t2"), Commit(key("t2")))
    assert [BranchAborted, BranchCommitted] == await rig.said(Commit(key("t1")), Abort(key("t2")))
    with pytest.raises(UnknownBranch):
        await rig.participant.commit(key("t0"))
    with pytest.raises(BranchCommitted):
        await rig.participant.abort(key("t2"))


@pytest.mark.parametrize(
    ("what", "reply"),
    [("refuse", NO), ("abort", Voted(Vote.ABORT, "REFUSED")), ("read", Voted(Vote.READ_ONLY))],
)
async def test_what_is_not_to_be_committed_leaves_nothing(
    rig: PreparedRig, what: str, reply: Voted
) -> None:
    """Whatever it has written is undone, and the branch was never heard of."""
    assert reply == await rig.participant.prepare(take(what=what))
    assert ([], [], {"ann": 0, "bob": 0}) == (rig.gids(), rig.rows(), rig.amounts())
    with pytest.raises(NotFound):
        await rig.participant.get(key())


async def test_below_the_horizon_every_prepare_is_late(rig: PreparedRig) -> None:
    """What was there may have been forgotten; what is prepared there is not, and is repeated."""
    await rig.said(take("t1"), take("t2", "bob"), Commit(key("t2")), Abort(key("t3")))
    await rig.said(take("t6", "SELECT 1"))
    assert 2 == await rig.participant.forget([key("t1"), key("t2")], TxnId("t5"))
    assert [YES, LATE, LATE, LATE, YES] == await rig.said(
        take("t1"), take("t2"), take("t3"), take("t4"), take("t6", "SELECT 1")
    )
    assert [None] == await rig.said(Commit(key("t1")))


async def test_what_a_batch_says_may_be_forgotten_is(rig: PreparedRig) -> None:
    """Beside its messages, and not before they are answered."""
    await rig.said(take("t1"), Commit(key("t1")))
    await rig.participant.exchange(Batch([take("t2")], [key("t1")], TxnId("t2")))
    await eventually(lambda: rig.rows() == [])
    assert [LATE] == await rig.said(take("t1"))


async def test_what_cannot_be_forgotten_now_harms_nobody(
    rig: PreparedRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The messages of the batch are answered; the forgetter finds it later."""
    await rig.said(take("t1"), Commit(key("t1")))
    with rig.server.connect() as stranger:
        stranger.execute(f"BEGIN; LOCK TABLE {rig.schema}.prepare_horizon".encode())
        batch = Batch([perform("t2", "read")], [key("t1")], TxnId("t2"))
        # One at a time: the second finds the first at it.
        for _ in range(2):
            await rig.participant.exchange(batch)
        await rig.participant.close()
        stranger.execute("ROLLBACK")
    assert [("t1", "COMMITTED", "")] == rig.rows()


async def test_an_abort_that_was_interrupted_is_repeated(rig: PreparedRig) -> None:
    """Its process died between ROLLBACK PREPARED and the row: the repeated one leaves the row."""
    await rig.participant.prepare(take())
    roll_back_all(rig.server, rig.schema)
    assert [None, LATE] == await rig.said(Abort(key()), take())
    assert [("t1", "ABORTED", "")] == rig.rows()


async def test_a_connection_that_is_lost_says_nothing_of_the_work(rig: PreparedRig) -> None:
    """Nothing is prepared, the coordinator asks again, and another connection is found."""
    lost = "SELECT pg_terminate_backend(pg_backend_pid())"
    for _ in range(2):
        assert [StoreError, YES] == await rig.said(take("t1", lost), take("t2", "SELECT 1"))
    assert 1 == len(rig.gids())


async def test_crash_points_are_passed_around_each_force(rig: PreparedRig) -> None:
    """Those of a Participant, in their order; after a force only where there was one."""
    passed: list[str] = []
    async with open_prepared(rig.server, rig.schema, crash_point=passed.append) as seen:

        async def passing(message: Message) -> list[str]:
            passed.clear()
            await seen.said(message)
            return list(passed)

        voted = [at.PREPARE_ARRIVES, at.BEFORE_VOTE, at.AFTER_VOTE, at.VOTE_LEAVES]
        assert voted == await passing(take())
        applied = [at.COMMIT_ARRIVES, at.BEFORE_APPLY, at.AFTER_APPLY, at.ACKNOWLEDGEMENT_LEAVES]
        assert applied == await passing(Commit(key()))
        assert [at.PREPARE_ARRIVES, at.BEFORE_VOTE] == (await passing(take("t2", "refuse")))[:2]
        assert at.AFTER_VOTE not in passed
        asked = [at.PREPARE_ARRIVES, at.BEFORE_VOTE, at.VOTE_LEAVES]
        assert asked == await passing(take("t2", "read"))
        await seen.participant.exchange(Batch([], [key()], TxnId("t2")))
        await seen.participant.close()
        assert [at.FORGET_ARRIVES, at.BEFORE_FORGETTING, at.AFTER_FORGETTING] == passed[-3:]


async def test_alarms_and_answers_are_counted(rig: PreparedRig) -> None:
    """As those of a Participant."""
    told: list[tuple[str, int]] = []

    class Metrics(NoMetrics):
        def answered(self, messages: int, latency_s: float) -> None:
            told.append(("answered", messages))

        def alarmed(self, *counted: object) -> None:
            told.append(("alarmed", len(counted)))

    rig.participant._metrics = Metrics()
    await rig.said(Commit(key()), Abort(key("t2")))
    assert [("answered", 2), ("alarmed", 1)] == told


async def test_in_one_phase_it_is_done_at_once_and_once(rig: PreparedRig) -> None:
    """Without being prepared; another operation under its name is an alarm."""
    assert [YES, YES, YES] == await rig.said(perform(), perform(), Resolve(key(), "WHY"))
    assert ({"ann": 1, "bob": 0}, []) == (rig.amounts(), rig.gids())
    assert [BranchDiffers] == await rig.said(perform(what="bob"))


async def test_in_one_phase_a_refusal_is_remembered(rig: PreparedRig) -> None:
    """With its reason, and one that breaks a rule, too; READ_ONLY leaves nothing."""
    empty = Voted(Vote.ABORT, INVALID_OPERATION)
    for _ in range(2):
        assert [NO] == await rig.said(perform("t1", "refuse"))
        assert [empty] == await rig.said(perform("t2", ""))
    assert [Voted(Vote.READ_ONLY)] == await rig.said(perform("t3", "read"))
    assert [NO, empty] == await rig.said(perform("t1"), perform("t2"))
    assert [("t1", "ABORTED", "NO"), ("t2", "ABORTED", INVALID_OPERATION)] == rig.rows()
    assert {"ann": 0, "bob": 0} == rig.amounts()


async def test_what_was_not_performed_never_will_be(rig: PreparedRig) -> None:
    """Once somebody has asked; unless it is so old that it may have been forgotten."""
    why = Voted(Vote.ABORT, "WHY")
    assert [why, why, why] == await rig.said(
        Resolve(key(), "WHY"), perform(), Resolve(key(), "LATER")
    )
    await rig.participant.forget([], TxnId("t0"))
    assert [BranchForgotten, LATE] == await rig.said(Resolve(key("s"), "WHY"), perform("s"))
    assert [Voted(Vote.ABORT, INVALID_OPERATION)] == await rig.said(perform("s", ""))


async def test_one_phase_and_two_are_not_mixed(rig: PreparedRig) -> None:
    """A branch that is prepared is not performed as well."""
    messages: list[Message] = [take(), perform(), Resolve(key(), "WHY")]
    assert [YES, BranchPrepared, BranchPrepared] == await rig.said(*messages)


async def test_one_that_fails_fails_alone(rig: PreparedRig) -> None:
    """The others of its batch are prepared; what went wrong inside is not told."""
    whats = ["ann", "raise", "refuse", "SELECT 1 / 0", "deferred", "", "bob"]
    batch = Batch([take(f"t{at}", what) for at, what in enumerate(whats)])
    replies = await rig.participant.exchange(batch)
    assert [YES, Unreachable, Voted, Unreachable, Unreachable, InvalidOperation, YES] == [
        reply if reply == YES else type(reply) for reply in replies
    ]
    assert "secret" not in repr(replies)
    assert 2 == len(rig.gids())
    with pytest.raises(Unreachable, match=r"^INTERNAL$"):
        await rig.participant.prepare(take("t9", "raise"))


@pytest.mark.parametrize("what", ["again", "failed"])
async def test_business_code_must_not_end_its_transaction(rig: PreparedRig, what: str) -> None:
    """Nor leave it failed, which PREPARE TRANSACTION would undo: it is an alarm, and no vote."""
    assert [ResourceFailed] == await rig.said(take(what=what))
    assert [ResourceFailed] == await rig.said(perform("t2", what=what))
    assert [] == rig.gids()


async def test_what_business_code_sets_does_not_stay(rig: PreparedRig) -> None:
    """The next branch on its connection finds its tables, and waits no longer for a lock."""
    # It fails where the limit is another one.
    holds = f"SELECT 1 / (current_setting('lock_timeout') = '{PREPARING_LOCK_TIMEOUT_S}s')::int"
    async with open_prepared(rig.server, rig.schema, connections=1) as one:
        for number, what in enumerate((holds, "settings", "SET lock_timeout TO 0", holds, "bob")):
            assert [YES] == await one.said(take(f"t{number}", what))


async def test_what_a_prepared_branch_has_locked_makes_another_busy(
    rig: PreparedRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the lock timeout; not what wants something else, and not the Commit that frees it."""
    monkeypatch.setattr(postgres_pool, "CONNECTION_WAIT_MAX_S", DEADLINE_S)
    await rig.participant.prepare(take("t1", "ann"))
    began_s = SystemClock().monotonic()
    waiting = asyncio.ensure_future(
        rig.participant.exchange(Batch([take(f"t{number}", "ann") for number in range(2, 10)]))
    )
    assert [YES, None] == await rig.said(perform("t0", "bob"), Abort(key("t11")))
    replies = await waiting
    assert SystemClock().monotonic() - began_s >= PREPARING_LOCK_TIMEOUT_S
    assert [(Busy, LOCKED)] * 8 == [(type(each), getattr(each, "reason", "")) for each in replies]
    assert [None, YES] == await rig.said(Commit(key("t1")), take("t2", "ann"))


async def test_a_commit_goes_through_while_all_connections_wait_for_it(
    patient: PreparedRig,
) -> None:
    """What settles has connections of its own, so those who wait get what it frees."""
    rig = patient
    await rig.participant.prepare(take("t1", "ann"))
    waiting = asyncio.ensure_future(rig.said(*[take(f"t{n}", "ann") for n in range(2, 10)]))

    def locked() -> bool:
        (counted,) = rig.query("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(counted[0])

    await eventually(locked)
    assert [None] == await rig.said(Commit(key("t1")))
    assert YES in await waiting


async def test_messages_of_one_branch_go_one_after_the_other(patient: PreparedRig) -> None:
    """Also at different replicas, at the same moment: whoever comes second sees what is there."""
    rig = patient
    async with open_prepared(rig.server, rig.schema) as other:
        for number in range(20):
            name = f"t{number:02}"
            replies = await asyncio.gather(
                rig.said(take(name)), other.said(Abort(key(name))), other.said(take(name))
            )
            assert [None] == replies[1]
            assert {"ann": 0, "bob": 0} == rig.amounts()
            assert [] == rig.gids()


async def test_branches_that_are_in_doubt_are_listed(rig: PreparedRig) -> None:
    """Whoever prepared them, in the order of their keys, page by page, and with the others."""
    async with open_prepared(rig.server, rig.schema) as other:
        await other.said(perform("t1", "read"), *[take(f"t{n}", "SELECT 1") for n in (5, 3, 4)])
    await rig.said(perform("t2"), Abort(key("t6")))
    listed = rig.participant.list_branches
    found = await listed(after=None, limit=2, state=BranchState.PREPARED)
    assert [(key("t3"), "coordinator"), (key("t4"), "coordinator")] == [
        (row.key, row.coordinator) for row in found
    ]
    assert abs(found[0].prepared_at_us - SystemClock().utc_us()) < 60_000_000
    assert [key("t5")] == [
        row.key for row in await listed(after=key("t4"), limit=2, state=BranchState.PREPARED)
    ]
    every = [
        (row.key.txn_id, row.state.value) for row in await listed(after=None, limit=9, state=None)
    ]
    prepared = [(name, "PREPARED") for name in ("t3", "t4", "t5")]
    assert [("t2", "COMMITTED"), *prepared, ("t6", "ABORTED")] == every
    assert every[1:3] == [
        (row.key.txn_id, row.state.value)
        for row in await listed(after=key("t2"), limit=2, state=None)
    ]
    for state, name in ((BranchState.COMMITTED, "t2"), (BranchState.ABORTED, "t6")):
        rows = await listed(after=None, limit=9, state=state)
        assert [(key(name), state)] == [(row.key, row.state) for row in rows]
    assert BranchState.PREPARED is (await rig.participant.get(key("t3"))).state


async def test_a_participant_sees_only_its_own_schema(rig: PreparedRig) -> None:
    """The same key is another branch there."""
    await rig.participant.prepare(take())
    async with open_prepared(rig.server) as other:
        assert [] == await other.participant.list_branches(after=None, limit=9, state=None)
        assert [UnknownBranch] == await other.said(Commit(key()))


async def test_a_name_that_is_too_long_is_refused(rig: PreparedRig) -> None:
    """With the rule, before anything is run."""
    long = Prepare(key("t" * 64, "b" * 64), LONG_NAME, take().operation)
    with pytest.raises(InvalidOperation, match="longer than a prepared transaction can be named"):
        await rig.participant.prepare(long)
    assert [] == rig.gids()
    odd = Prepare(key("t'; --"), "coordinator", take().operation)
    with pytest.raises(InvalidOperation) as caught:
        await rig.participant.prepare(odd)
    assert ["prepared.gid"] == [each.rule for each in caught.value.violations]


async def test_a_stranger_is_not_asked_back(rig: PreparedRig) -> None:
    """A coordinator that nobody has allowed could leave locks in doubt for ever."""
    with pytest.raises(InvalidOperation, match="not a coordinator"):
        await rig.participant.prepare(take(coordinator="stranger"))


async def test_a_schema_that_cannot_be_named_is_refused(postgres_server: PostgresServer) -> None:
    """Before it is made."""
    with pytest.raises(ValueError, match="name must be a letter"):
        open_prepared_store(postgres_server.dsn, "a/b", {}, SystemClock())


async def test_a_server_that_prepares_nothing_is_refused() -> None:
    """By the name of the setting: 0 is what a server has unless somebody says otherwise."""
    said = "max_prepared_transactions = 0"
    none = {"max_prepared_transactions": "0"}
    with running(settings=none) as server, pytest.raises(StoreError, match=said):
        open_prepared_store(server.dsn, "test", {}, SystemClock())


async def test_a_server_on_which_nothing_is_durable_is_refused() -> None:
    """As for any other store."""
    off = {"fsync": "off"}
    with running(settings=off) as server, pytest.raises(StoreError, match="fsync off"):
        open_prepared_store(server.dsn, "test", {}, SystemClock())


async def test_more_than_the_server_can_prepare_is_turned_away() -> None:
    """With nothing done; there is room again when one is settled."""
    with running(settings={"max_prepared_transactions": "1"}) as server:
        async with open_prepared(server) as rig:
            assert [YES] == await rig.said(take("t1", "ann"))
            assert [Overloaded] == await rig.said(take("t2", "bob"))
            assert [None] == await rig.said(Commit(key("t1")))
            assert [YES] == await rig.said(take("t2", "bob"))


async def test_who_gets_no_connection_in_time_is_turned_away(
    rig: PreparedRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waits for a lock keeps the only one; nothing was done for the other."""
    monkeypatch.setattr(postgres_pool, "CONNECTION_WAIT_MAX_S", 0.05)
    await rig.participant.prepare(take("t1", "ann"))
    async with open_prepared(rig.server, rig.schema, connections=1) as one:
        assert [Busy, Overloaded] == await one.said(take("t2", "ann"), take("t3", "bob"))
        monkeypatch.setattr(postgres_pool, "CONNECTION_WAITERS_MAX", 0)
        with pytest.raises(Overloaded, match="too many wait"):
            await one.participant.prepare(take("t3", "bob"))


async def test_who_gives_up_waiting_takes_no_connection_with_it(rig: PreparedRig) -> None:
    """What it has begun runs to its end, and the repeated message is told what became of it."""
    async with open_prepared(rig.server, rig.schema, connections=1) as one:
        for number in range(3):
            gone = asyncio.ensure_future(one.participant.prepare(take(f"t{number}", "SELECT 1")))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            assert [YES] == await one.said(take(f"t{number}", "SELECT 1"))


async def test_all_ends_in_order_when_it_is_closed(postgres_server: PostgresServer) -> None:
    """What is asked afterwards is refused, and nothing of it is left connected."""
    async with open_prepared(postgres_server) as rig:
        await rig.said(*[take(f"t{number}", "SELECT 1") for number in range(12)])
        await rig.participant._store.close()
        with pytest.raises(StoreError, match="closed"):
            await rig.participant.commit(key())
    mine = f"SELECT 1 FROM pg_stat_activity WHERE application_name = 'tallystick {rig.schema}'"
    # The server ends them when it hears of it.
    await eventually(lambda: rig.query(mine) == [])
    roll_back_all(postgres_server, rig.schema)


def test_the_connections_of_a_process_are_bounded() -> None:
    """A server with its usual 100 has room for several processes."""
    most = postgres_prepared.PREPARING_CONNECTIONS_MAX + postgres_prepared.SETTLING_CONNECTIONS_MAX
    assert most <= 20
