"""What operators force: in which state, what the engine does then, and what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.support.waiting import eventually
from tests.txn.helpers import (
    CALLER,
    TWO,
    WAIT_S,
    Gate,
    ManualClock,
    ScriptedTransport,
    branch,
    by_key,
    coordinator,
    inquire,
    serving,
    start,
    turns,
)
from txn.audit import Forced, Signature
from txn.coordinator import Coordinator
from txn.errors import (
    BranchCommitted,
    BranchDiffers,
    BranchForgotten,
    ForceRefused,
    GroupLost,
    InvalidOperation,
    OtherLog,
    ShuttingDown,
    TxnError,
    UnknownBranch,
    Unreachable,
)
from txn.forcing import FORCED_BY_OPERATOR, Resolution
from txn.model import Branch, BranchId, Decision, LoggedBranch, TxnId, VoteReply
from txn.state import Outcome, TransactionState, Vote
from txn.testing import MemoryDecisionLog, MemoryStore
from txn.timeline import Happening
from txn.transaction import Result, View

T1 = TxnId("t1.1")
GONE = Unreachable("gone")
ONE = (branch("ledger"),)
S = TransactionState


def memory_log() -> MemoryDecisionLog:
    """An empty log."""
    return MemoryDecisionLog(MemoryStore())


async def force(
    engine: Coordinator, to: Resolution, txn_id: str = "t1.1", reason: str = "its host is gone"
) -> str:
    """What the record says of a force: what stood before, and after."""
    record = await engine.resolve(TxnId(txn_id), to, operator="ann", reason=reason)
    assert ("ann", reason) == (record.signature.operator, record.signature.reason)
    return f"{record.before} {record.after}"


async def refused(engine: Coordinator, to: Resolution, txn_id: str = "t1.1") -> str:
    """What stands where a force is refused; then there is no record of it either."""
    before = await engine.list_audit(after=0, limit=9)
    with pytest.raises(ForceRefused) as error:
        await force(engine, to, txn_id)
    assert before == await engine.list_audit(after=0, limit=9)
    return error.value.stands


def asks(engine: Coordinator, branches: Sequence[Branch] = TWO) -> asyncio.Task[Result]:
    """A caller who waits."""
    return asyncio.ensure_future(
        engine.execute(caller=CALLER, idempotency_key="k", branches=branches, wait_s=WAIT_S)
    )


async def comes_to(engine: Coordinator, state: TransactionState) -> View:
    """Waits until t1 stands there."""

    async def there() -> bool:
        return engine._active[T1].progress.state is state

    await eventually(lambda: T1 in engine._active)
    await eventually(there)
    return await engine.get(T1)


async def test_what_is_not_voted_on_is_aborted() -> None:
    """A participant that hangs: its caller hears the abort at once, and the others let go."""
    transport, log = ScriptedTransport(), memory_log()
    transport.always["prepare", "ledger"] = Gate()
    async with serving(transport, log, clock=ManualClock()) as engine:
        caller = asks(engine)
        await eventually(lambda: transport.count("prepare", "ledger") == 1)
        assert "NONE ABORTED_ENDED" == await force(engine, Resolution.ABORT)
        await eventually(lambda: transport.sent("abort") == {"order", "ledger"})
        result = await caller
        assert "ABORTED_ENDED" == await refused(engine, Resolution.ABORT)
    assert (Outcome.ABORTED, FORCED_BY_OPERATOR, "") == (
        result.outcome,
        result.reason,
        result.refused_branch_id,
    )
    row = await by_key(log)
    assert row is not None
    assert (Outcome.ABORTED, FORCED_BY_OPERATOR) == (row.outcome, row.reason)


@pytest.mark.parametrize("to", [Resolution.COMMIT, Resolution.ENDED])
async def test_what_is_not_decided_is_not_committed(to: Resolution) -> None:
    """Not all have voted: nobody may say that it was committed, or is over."""
    transport = ScriptedTransport()
    gate = transport.always["prepare", "ledger"] = Gate()
    async with serving(transport) as engine:
        caller = asks(engine)
        await comes_to(engine, S.PREPARING)
        assert "PREPARING" == await refused(engine, to)
        gate.opened.set()
        assert Outcome.COMMITTED is (await caller).outcome


class Slow(MemoryDecisionLog):
    """A log that takes its time over outcomes."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.gate = Gate()

    async def decide_all(self, decisions: Sequence[Decision]) -> Sequence[Decision | TxnError]:
        """See DecisionLog.decide_all."""
        await self.gate()
        return await super().decide_all(decisions)


async def test_a_commit_that_is_not_written_finds_the_forced_abort() -> None:
    """All have agreed, and the log was away: whoever writes first has written the outcome."""
    transport, log = ScriptedTransport(), Slow()
    silent = transport.always["abort", "ledger"] = Gate()
    async with serving(transport, log) as engine:
        caller = asks(engine)
        await comes_to(engine, S.DECIDING)
        assert "NONE ABORTED_ENDED" == await force(engine, Resolution.ABORT)
        log.gate.opened.set()
        seen = await comes_to(engine, S.ABORTING)
        silent.opened.set()
        heard = await caller
    assert Outcome.ABORTED is heard.outcome is seen.outcome
    assert FORCED_BY_OPERATOR == heard.reason == seen.reason
    assert (set(), {"order", "ledger"}) == (transport.sent("commit"), transport.sent("abort"))


async def test_a_claim_that_is_not_written_finds_the_forced_abort() -> None:
    """In one phase nothing was sent before the claim, and then nothing is."""
    transport, log = ScriptedTransport(), Slow()
    transport.one_phase = True
    async with serving(transport, log) as engine:
        caller = asks(engine, ONE)
        await comes_to(engine, S.CLAIMING)
        assert "NONE ABORTED_ENDED" == await force(engine, Resolution.ABORT)
        log.gate.opened.set()
        assert Outcome.ABORTED is (await caller).outcome
    assert [] == transport.calls


class Late(Slow):
    """A log of which is heard late."""

    async def decide_all(self, decisions: Sequence[Decision]) -> Sequence[Decision | TxnError]:
        """See DecisionLog.decide_all."""
        stand = await MemoryDecisionLog.decide_all(self, decisions)
        await self.gate()
        return stand


async def test_a_claim_that_is_written_is_not_aborted_by_force() -> None:
    """Its participant is about to be asked: such an abort would be a second outcome."""
    transport, log = ScriptedTransport(), Late()
    transport.one_phase = True
    async with serving(transport, log) as engine:
        caller = asks(engine, ONE)
        await log.gate.reached.wait()
        assert S.CLAIMING is (await engine.get(T1)).state
        assert "PENDING" == await refused(engine, Resolution.ABORT)
        log.gate.opened.set()
        assert Outcome.COMMITTED is (await caller).outcome


async def test_what_is_being_aborted_cannot_be_forced() -> None:
    """Its outcome is on its way to the log."""
    transport, log = ScriptedTransport(), Slow()
    transport.on("prepare", "ledger", VoteReply(Vote.ABORT, "NO"))
    async with serving(transport, log) as engine:
        caller = asks(engine)
        await comes_to(engine, S.ABORTING)
        for to in Resolution:
            assert "ABORTING" == await refused(engine, to)
        log.gate.opened.set()
        assert Outcome.ABORTED is (await caller).outcome


async def test_who_has_lost_its_key_ends_nothing() -> None:
    """The outcome that stands is that of the one who has the key, and is driven elsewhere."""
    transport, log = ScriptedTransport(), memory_log()
    voting = transport.always["prepare", "ledger"] = Gate(VoteReply(Vote.COMMIT))
    silent = transport.always["abort", "ledger"] = Gate()
    async with serving(transport, log) as engine:
        caller = asks(engine)
        await eventually(voting.reached.is_set)
        winner = Decision(
            TxnId("t0.9"),
            Outcome.COMMITTED,
            engine._active[T1].request,
            (LoggedBranch(BranchId("order"), "order", Vote.COMMIT),),
            1,
        )
        assert [winner] == await log.decide_all([winner])
        voting.opened.set()
        await comes_to(engine, S.ABORTING)
        assert "ABORTING" == await refused(engine, Resolution.ENDED)
        silent.opened.set()
        assert winner.txn_id == (await caller).txn_id
    assert winner == await log.by_txn_id(winner.txn_id)


async def test_an_unacknowledged_commit_is_ended() -> None:
    """Settled by hand: nobody is told any more, now or after a restart, and its caller hears it."""
    transport, log, clock = ScriptedTransport(), memory_log(), ManualClock()
    transport.always["commit", "ledger"] = UnknownBranch("never heard of")
    async with serving(transport, log, clock=clock) as engine:
        caller = asks(engine)
        view = await comes_to(engine, S.COMMITTING)
        await eventually(lambda: transport.count("commit", "ledger") == 1)
        await eventually(lambda: engine._active[T1].alarmed())
        (order, ledger) = (await engine.get(T1)).branches
        assert (True, False, "UnknownBranch", True) == (
            order.acknowledged,
            ledger.acknowledged,
            ledger.last_error,
            ledger.alarmed,
        )
        assert view.active
        for to in (Resolution.COMMIT, Resolution.ABORT):
            assert "COMMITTING" == await refused(engine, to)
        assert "COMMITTED COMMITTED_ENDED" == await force(engine, Resolution.ENDED)
        assert Result(T1, Outcome.COMMITTED, applied=True) == await caller
        for to in Resolution:
            assert "COMMITTED_ENDED" == await refused(engine, to)
        await clock.advance(100.0)
        assert 1 == transport.count("commit", "ledger")
    next_one = coordinator(transport, log, first_txn=2)
    assert 0 == await start(next_one)


class Alarming:
    """A participant in one phase of which nothing is heard until it is told an outcome."""

    def __init__(self, log: MemoryDecisionLog | None = None) -> None:
        self.transport, self.log, self.clock = (
            ScriptedTransport(),
            log or memory_log(),
            ManualClock(),
        )
        self.transport.one_phase = True
        self.transport.always["perform", "ledger"] = GONE
        self.transport.always["resolve", "ledger"] = GONE

    async def resolving(self, engine: Coordinator) -> None:
        """Lets the time for an answer pass."""
        await comes_to(engine, S.PERFORMING)
        for _ in range(40):
            await self.clock.advance(1.0)
        await comes_to(engine, S.RESOLVING)

    async def asked_through(self, engine: Coordinator, gate: Gate) -> None:
        """Then the question is heard, and its answer waits for the gate."""
        await self.resolving(engine)
        self.transport.always["resolve", "ledger"] = gate
        await self.clock.advance(5.0)
        await eventually(gate.reached.is_set)


@pytest.mark.parametrize(
    ("to", "outcome", "told"),
    [
        (Resolution.COMMIT, Outcome.COMMITTED, "commit"),
        (Resolution.ABORT, Outcome.ABORTED, "abort"),
    ],
)
async def test_a_claim_is_what_the_operator_says(
    to: Resolution, outcome: Outcome, told: str
) -> None:
    """Its caller hears it, and its participant is told until it acknowledges, then it has ended."""
    rig = Alarming()
    rig.transport.on(told, "ledger", *[GONE] * 20)
    async with serving(rig.transport, rig.log, clock=rig.clock) as engine:
        caller = asks(engine, ONE)
        await rig.resolving(engine)
        assert "RESOLVING" == await refused(engine, Resolution.ENDED)
        assert f"PENDING {outcome.value}" == await force(engine, to)
        assert outcome is await inquire(engine, "t1.1")
        row = await by_key(rig.log)
        assert row is not None
        assert (outcome, False) == (row.outcome, row.ended)
        for _ in range(60):
            await rig.clock.advance(1.0)
        assert 21 == rig.transport.count(told, "ledger")
        result = await caller
        assert (outcome, True) == (result.outcome, result.applied)
        await eventually(lambda: not engine._active)
        asked = rig.transport.count("resolve", "ledger")
        await rig.clock.advance(100.0)
        assert asked == rig.transport.count("resolve", "ledger")
        await force(engine, Resolution.ABORT, "t9")
        row = await by_key(rig.log)
        assert row is not None
        assert row.ended


async def test_who_knows_better_alarms(caplog: pytest.LogCaptureFixture) -> None:
    """Said to be aborted and in truth committed: an alarm, also after a restart, until ended."""
    rig = Alarming()
    rig.transport.always["abort", "ledger"] = BranchCommitted("it was done")
    async with serving(rig.transport, rig.log, clock=rig.clock) as engine:
        asks(engine, ONE)
        await rig.resolving(engine)
        await force(engine, Resolution.ABORT)
        await eventually(lambda: rig.transport.count("abort", "ledger") == 1)
        (view,) = await engine.list_transactions(after="", limit=9, unfinished_only=True)
        assert (S.ABORTING, "BranchCommitted") == (view.state, view.branches[0].last_error)
        # Once the coordinator knows that it is still the one to say so.
        await eventually(lambda: "ALARM" in caplog.text)
    caplog.clear()
    next_one = coordinator(rig.transport, rig.log, first_txn=2, clock=ManualClock())
    assert 1 == await start(next_one)
    await eventually(lambda: "ALARM" in caplog.text)
    assert "ABORTED ABORTED_ENDED" == await force(next_one, Resolution.ENDED)
    await next_one.close(WAIT_S)
    assert 0 == await start(coordinator(ScriptedTransport(), rig.log, first_txn=3))


async def test_a_question_that_comes_when_all_is_over_is_no_alarm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What was stated and acknowledged may be forgotten by then."""
    rig = Alarming()
    late = Gate(BranchForgotten("it may have been here"))
    async with serving(rig.transport, rig.log, clock=rig.clock) as engine:
        caller = asks(engine, ONE)
        await rig.asked_through(engine, late)
        assert "PENDING ABORTED" == await force(engine, Resolution.ABORT)
        assert Outcome.ABORTED is (await caller).outcome
        asked = rig.transport.count("resolve", "ledger")
        late.opened.set()
        await turns(20)
        await rig.clock.advance(100.0)
    assert "ALARM" not in caplog.text
    assert asked == rig.transport.count("resolve", "ledger")


async def test_an_answer_after_the_statement_is_too_late() -> None:
    """The question was on its way when the operator spoke: nobody hears both."""
    rig = Alarming()
    gate = Gate(VoteReply(Vote.COMMIT))
    async with serving(rig.transport, rig.log, clock=rig.clock) as engine:
        caller = asks(engine, ONE)
        await rig.asked_through(engine, gate)
        forced = asyncio.ensure_future(force(engine, Resolution.ABORT))
        await turns(1)
        gate.opened.set()
        assert "PENDING ABORTED" == await forced
        assert Outcome.ABORTED is (await caller).outcome


async def test_what_is_still_asked_to_be_done_is_not_stated() -> None:
    """The answer may come any moment; only an alarm will not change by waiting."""
    rig = Alarming()
    async with serving(rig.transport, rig.log, clock=rig.clock) as engine:
        asks(engine, ONE)
        await comes_to(engine, S.PERFORMING)
        assert "PERFORMING" == await refused(engine, Resolution.COMMIT)
        rig.transport.always["perform", "ledger"] = BranchDiffers("another operation")

        async def alarmed() -> bool:
            await rig.clock.advance(1.0)
            return engine._active[T1].alarmed()

        await eventually(alarmed)
        assert "PENDING ABORTED" == await force(engine, Resolution.ABORT)
        await eventually(lambda: not engine._active)
        performed = rig.transport.count("perform", "ledger")
        await rig.clock.advance(100.0)
        assert performed == rig.transport.count("perform", "ledger")


class Failing(MemoryDecisionLog):
    """A log that does not say what became of the first force, or whose row another has written."""

    def __init__(self, *, writes: bool, other: Outcome | None = None) -> None:
        super().__init__(MemoryStore())
        self._writes, self._other, self._tried = writes, other, 0

    async def force(self, row: Decision, by: Signature, *, over: Outcome | None) -> Forced:
        """See DecisionLog.force."""
        self._tried += 1
        if self._other is not None:
            await super().force(row, Signature("bob", "was quicker", 1), over=over)
        elif self._tried == 1:
            if self._writes:
                await super().force(row, by, over=over)
            raise GroupLost("nobody knows")
        return await super().force(row, by, over=over)


@pytest.mark.parametrize("writes", [True, False])
async def test_a_statement_is_written_once_however_often_it_is_tried(*, writes: bool) -> None:
    """What was stated is written in the end, and its record is found."""
    rig = Alarming(Failing(writes=writes))
    async with serving(rig.transport, rig.log, clock=rig.clock) as engine:
        asks(engine, ONE)
        await rig.resolving(engine)
        forced = asyncio.ensure_future(force(engine, Resolution.COMMIT))
        for _ in range(5):
            await rig.clock.advance(1.0)
        assert "PENDING COMMITTED" == await forced
        assert 1 == len(await engine.list_audit(after=0, limit=9))


async def test_who_comes_second_is_told_what_stands() -> None:
    """Another operator was quicker, at another coordinator: this one has forced nothing."""
    rig = Alarming(Failing(writes=True, other=Outcome.COMMITTED))
    async with serving(rig.transport, rig.log, clock=rig.clock) as engine:
        asks(engine, ONE)
        await rig.resolving(engine)
        with pytest.raises(ForceRefused, match="COMMITTING"):
            await force(engine, Resolution.COMMIT)
        (record,) = await engine.list_audit(after=0, limit=9)
        assert "bob" == record.signature.operator


async def test_a_record_is_found_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction may have been forced more than once."""
    monkeypatch.setattr("txn.forcing._RECORDS_PAGE", 1)
    rig = Alarming()
    async with serving(rig.transport, rig.log, clock=rig.clock) as engine:
        asks(engine, ONE)
        await rig.resolving(engine)
        earlier = Signature("bob", "tried", 1)
        backend = rig.log._store.backend  # type: ignore[attr-defined]
        await rig.log.force(
            Decision(TxnId("t0"), Outcome.ABORTED, None, (), 1, ended=True), earlier, over=None
        )
        (record,) = backend.durable["audit"].values()
        backend.durable["audit"][1] = type(record)(1, T1, "NONE", "NONE", earlier)
        assert "PENDING COMMITTED" == await force(engine, Resolution.COMMIT)


async def test_a_claim_that_vanished_is_not_stated(caplog: pytest.LogCaptureFixture) -> None:
    """A log that has lost a claim is damaged: nobody is told an outcome."""
    rig = Alarming()
    async with serving(rig.transport, rig.log, clock=rig.clock) as engine:
        asks(engine, ONE)
        await rig.resolving(engine)
        rig.log._store.backend.durable["decision"].clear()  # type: ignore[attr-defined]
        forced = asyncio.ensure_future(force(engine, Resolution.COMMIT))
        await eventually(lambda: "is not there" in caplog.text)
        assert not forced.done()
        forced.cancel()
        await asyncio.gather(forced, return_exceptions=True)
        assert Outcome.PENDING is await inquire(engine, "t1.1")


async def test_what_nobody_has_written_is_aborted() -> None:
    """As an inquiry would: its participants may let go. It is neither committed nor ended."""
    async with serving(ScriptedTransport()) as engine:
        assert "NONE" == await refused(engine, Resolution.COMMIT, "t7")
        assert "NONE" == await refused(engine, Resolution.ENDED, "t7")
        assert "NONE ABORTED_ENDED" == await force(engine, Resolution.ABORT, "t7")
        assert Outcome.ABORTED is await inquire(engine, "t7")


async def test_what_another_drives_is_refused() -> None:
    """A row without an end that is not active here belongs to who drives it."""
    log = memory_log()
    async with serving(ScriptedTransport(), log) as engine:
        row = Decision(TxnId("t9"), Outcome.PENDING, None, (), 1)
        await log.decide_all([row])
        assert "PERFORMING" == await refused(engine, Resolution.COMMIT, "t9")


async def test_nothing_is_forced_without_a_reason() -> None:
    """Whoever calls the engine has to sign, too."""
    async with serving(ScriptedTransport()) as engine:
        with pytest.raises(InvalidOperation):
            await force(engine, Resolution.ABORT, reason=" ")


async def test_a_coordinator_forces_its_own_only() -> None:
    """What another log decides, and what is not recovered yet, is left alone."""
    engine = coordinator(ScriptedTransport(), memory_log())
    with pytest.raises(ShuttingDown):
        await force(engine, Resolution.ABORT)
    await engine.start()
    with pytest.raises(OtherLog):
        await force(engine, Resolution.ABORT, "t1-0123")
    await engine.close(0)


async def test_a_force_shows_in_the_timeline() -> None:
    """Who forced what, and why, stands between what happened."""
    transport = ScriptedTransport()
    transport.always["prepare", "ledger"] = Gate()
    async with serving(transport) as engine:
        caller = asks(engine)
        await eventually(lambda: transport.count("prepare", "ledger") == 1)
        await force(engine, Resolution.ABORT)
        await caller
        entries = (await engine.explain(T1)).entries
    (entry,) = [each for each in entries if each.happening is Happening.FORCED]
    assert "NONE -> ABORTED_ENDED by ann: its host is gone" == entry.detail
