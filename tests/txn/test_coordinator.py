"""The engine over a transport with a script and a log in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.support.waiting import eventually
from tests.txn.helpers import (
    CALLER,
    TWO,
    WAIT_S,
    FastClock,
    Gate,
    ScriptedTransport,
    branch,
    by_key,
    coordinator,
    decide,
    inquire,
    serving,
    start,
    turns,
)
from txn.config import CoordinatorConfig
from txn.coordinator import Coordinator
from txn.epoch_keeper import LOOK_S
from txn.errors import (
    Busy,
    GroupLost,
    IdempotencyConflict,
    InvalidOperation,
    NotFound,
    OtherLog,
    Overloaded,
    Refused,
    ShuttingDown,
    StoreError,
    StoreFull,
    TxnError,
    UnknownBranch,
    UnknownParticipant,
    Unreachable,
)
from txn.lane import PARTICIPANT_UNAVAILABLE
from txn.model import Branch, Decision, TxnId, VoteReply
from txn.state import Outcome, TransactionState, Vote
from txn.testing import MemoryDecisionLog, MemoryStore
from txn.transaction import Result

GONE = Unreachable("gone")


def memory_log() -> MemoryDecisionLog:
    """An empty log."""
    return MemoryDecisionLog(MemoryStore())


async def pay(
    engine: Coordinator,
    key: str = "k",
    branches: tuple[Branch, ...] = TWO,
    *,
    wait_s: float = WAIT_S,
    applied: bool = True,
) -> Result:
    """One transaction."""
    return await engine.execute(
        caller=CALLER,
        idempotency_key=key,
        branches=branches,
        wait_s=wait_s,
        wait_for_applied=applied,
    )


async def test_all_agree() -> None:
    """Both votes in: committed, logged, sent to both, and applied when the call returns."""
    transport, log = ScriptedTransport(), memory_log()
    async with serving(transport, log) as engine:
        result = await pay(engine)
    assert Result(TxnId("t1.1"), Outcome.COMMITTED, applied=True) == result
    assert {"order", "ledger"} == transport.sent("commit")
    row = await log.by_txn_id(TxnId("t1.1"))
    assert row is not None
    assert Outcome.COMMITTED is row.outcome
    assert [Vote.COMMIT, Vote.COMMIT] == [logged.vote for logged in row.branches]


async def test_a_refusal_aborts_with_its_reason() -> None:
    """A vote to abort ends the transaction with the reason and the branch that gave it."""
    transport, log = ScriptedTransport(), memory_log()
    transport.on("prepare", "ledger", VoteReply(Vote.ABORT, "INSUFFICIENT_FUNDS"))
    async with serving(transport, log) as engine:
        result = await pay(engine)
    expected = Result(
        TxnId("t1.1"),
        Outcome.ABORTED,
        "INSUFFICIENT_FUNDS",
        refused_branch_id="ledger",
        applied=True,
    )
    assert expected == result
    assert ({"order"}, set()) == (transport.sent("abort"), transport.sent("commit"))
    row = await by_key(log)
    assert row is not None
    assert (Outcome.ABORTED, "INSUFFICIENT_FUNDS") == (row.outcome, row.reason)


async def test_a_request_that_is_refused_is_a_vote_to_abort() -> None:
    """A participant that does not take the request at all has refused."""
    transport = ScriptedTransport()
    transport.on("prepare", "order", Refused("INVALID_OPERATION"))
    async with serving(transport) as engine:
        result = await pay(engine)
    assert (Outcome.ABORTED, "INVALID_OPERATION") == (result.outcome, result.reason)


async def test_a_lost_prepare_is_sent_again() -> None:
    """One answer lost is no reason to abort."""
    transport = ScriptedTransport()
    transport.on("prepare", "ledger", GONE, GONE, Vote.COMMIT)
    async with serving(transport) as engine:
        result = await pay(engine)
    assert (Outcome.COMMITTED, 3) == (result.outcome, transport.count("prepare", "ledger"))


async def test_a_busy_participant_is_asked_again() -> None:
    """What another transaction has in hand may come free: the vote then counts."""
    transport = ScriptedTransport()
    transport.on("prepare", "ledger", Busy("TAKEN"), Busy("TAKEN"), Vote.COMMIT)
    async with serving(transport) as engine:
        result = await pay(engine)
    assert (Outcome.COMMITTED, 3) == (result.outcome, transport.count("prepare", "ledger"))


async def test_a_participant_that_stays_busy_is_the_reason() -> None:
    """When the time is up the caller hears what was in the way."""
    transport, clock = ScriptedTransport(), FastClock()
    transport.always["prepare", "ledger"] = Busy("TAKEN")
    async with serving(transport, clock=clock, prepare_timeout_s=5.0) as engine:
        result = await pay(engine)
    assert (Outcome.ABORTED, "TAKEN") == (result.outcome, result.reason)


@pytest.mark.parametrize("error", [GONE, RuntimeError("a defect in a transport")])
async def test_no_vote_in_time_aborts(error: Exception) -> None:
    """A participant that never answers is given up on, told to abort, and that is the reason."""
    transport, clock = ScriptedTransport(), FastClock()
    transport.always["prepare", "ledger"] = error
    async with serving(transport, clock=clock, prepare_timeout_s=5.0) as engine:
        result = await pay(engine)
    assert (Outcome.ABORTED, PARTICIPANT_UNAVAILABLE) == (result.outcome, result.reason)
    assert {"order", "ledger"} == transport.sent("abort")
    assert clock.now_s >= 5.0


async def test_a_branch_stops_being_asked_once_another_refused() -> None:
    """What is lost anyway is not prepared again."""
    transport = ScriptedTransport()
    slow = Gate(GONE)
    transport.on("prepare", "ledger", slow)
    transport.on("prepare", "order", Vote.ABORT)
    async with serving(transport) as engine:
        result = await pay(engine)
        slow.opened.set()
        await turns()
    assert (Outcome.ABORTED, 1) == (result.outcome, transport.count("prepare", "ledger"))


async def test_the_same_key_joins_the_active_transaction() -> None:
    """Two calls with one key are one transaction, and are told the same."""
    transport = ScriptedTransport()
    gate = Gate(Vote.COMMIT)
    transport.on("prepare", "ledger", gate)
    async with serving(transport) as engine:
        calls = [asyncio.ensure_future(pay(engine)) for _ in range(3)]
        await gate.reached.wait()
        gate.opened.set()
        results = await asyncio.gather(*calls)
    assert 1 == len(set(results))
    assert (1, 1) == (transport.count("prepare", "order"), transport.count("commit", "order"))


@pytest.mark.parametrize("vote", [Vote.COMMIT, Vote.ABORT])
async def test_the_same_key_returns_the_first_outcome(vote: Vote) -> None:
    """A retry after the end has no second effect, whether the first was committed or aborted."""
    transport = ScriptedTransport()
    transport.on("prepare", "ledger", vote)
    async with serving(transport) as engine:
        first = await pay(engine)
        await inquire(engine, "unrelated")  # Forces the end that is waiting for a force.
        again = await pay(engine)
    assert first == again
    assert 1 == transport.count("prepare", "ledger")


async def test_the_same_key_returns_the_first_outcome_after_a_restart() -> None:
    """The log remembers what memory has forgotten, and so does the conflict."""
    log = memory_log()
    async with serving(ScriptedTransport(), log) as engine:
        first = await pay(engine)
    transport = ScriptedTransport()
    async with serving(transport, log, first_txn=2) as engine:
        again = await pay(engine)
        with pytest.raises(IdempotencyConflict):
            await pay(engine, branches=(branch("order"),))
    assert (first.txn_id, first.outcome) == (again.txn_id, again.outcome)
    assert set() == transport.sent("prepare")


async def test_the_same_key_with_another_body_conflicts() -> None:
    """Neither while it is active nor afterwards does a key stand for two requests."""
    transport = ScriptedTransport()
    gate = Gate(Vote.COMMIT)
    transport.on("prepare", "ledger", gate)
    other = (branch("order"), branch("ledger", value=b"more"))
    async with serving(transport) as engine:
        call = asyncio.ensure_future(pay(engine))
        await gate.reached.wait()
        with pytest.raises(IdempotencyConflict):
            await pay(engine, branches=other)
        gate.opened.set()
        await call
        with pytest.raises(IdempotencyConflict):
            await pay(engine, branches=other)


async def test_callers_do_not_share_keys() -> None:
    """One caller's key says nothing about another's."""
    async with serving(ScriptedTransport()) as engine:
        mine = await pay(engine)
        other = await engine.execute(
            caller="other", idempotency_key="k", branches=TWO, wait_s=WAIT_S
        )
    assert mine.txn_id != other.txn_id


class BlindLog(MemoryDecisionLog):
    """A log whose first look by key is a snapshot from before the row."""

    blind = True

    async def by_keys(self, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Decision]:
        """Sees nothing the first time."""
        if self.blind:
            self.blind = False
            return {}
        return await super().by_keys(names)


async def paid_before() -> tuple[MemoryStore, Result]:
    """A log in which the key stands for a transaction that has ended, and its result."""
    store = MemoryStore()
    async with serving(ScriptedTransport(), MemoryDecisionLog(store)) as engine:
        winner = await pay(engine)
        await inquire(engine, "unrelated")  # Forces the end.
    return store, winner


async def test_a_row_that_came_first_rules() -> None:
    """Who loses the key at the log aborts its branches and returns the winner's outcome."""
    store, winner = await paid_before()
    transport = ScriptedTransport()
    async with serving(transport, BlindLog(store), first_txn=2) as engine:
        loser = await pay(engine)
        inquired = await inquire(engine, "t2.1")
    assert (winner.txn_id, Outcome.COMMITTED) == (loser.txn_id, loser.outcome)
    assert ({"order", "ledger"}, set()) == (transport.sent("abort"), transport.sent("commit"))
    assert Outcome.ABORTED is inquired


async def test_a_row_that_came_first_for_another_body_conflicts() -> None:
    """Never the old success for another request, also where the log is the first to notice."""
    store, _ = await paid_before()
    transport = ScriptedTransport()
    async with serving(transport, BlindLog(store), first_txn=2) as engine:
        with pytest.raises(IdempotencyConflict):
            await pay(engine, branches=(branch("order"),))
    assert set() == transport.sent("commit")


async def test_a_key_shows_its_winner_while_the_loser_is_undone() -> None:
    """Asking by key is told the outcome that stands, not that of the attempt that lost."""
    store, winner = await paid_before()
    transport = ScriptedTransport()
    gate = Gate()
    transport.on("abort", "order", gate)
    async with serving(transport, BlindLog(store), first_txn=2) as engine:
        call = asyncio.ensure_future(pay(engine))
        await gate.reached.wait()
        view = await engine.get_by_key(CALLER, "k")
        gate.opened.set()
        await call
    assert (winner.txn_id, Outcome.COMMITTED) == (view.txn_id, view.outcome)


async def test_pending_until_it_is_known() -> None:
    """Out of time before the votes: PENDING, and the same key has the final word later."""
    transport = ScriptedTransport()
    gate = Gate(Vote.COMMIT)
    transport.on("prepare", "ledger", gate)
    async with serving(transport) as engine:
        first = await pay(engine, wait_s=0.01)
        gate.opened.set()
        second = await pay(engine)
    assert Result(TxnId("t1.1"), Outcome.PENDING) == first
    assert Result(TxnId("t1.1"), Outcome.COMMITTED, applied=True) == second


async def test_a_commit_that_is_not_applied_is_pending_for_who_waits_for_that() -> None:
    """Decided is final for who asked for the decision, PENDING for who asked for its effect."""
    transport = ScriptedTransport()
    gate = Gate()
    transport.on("commit", "ledger", gate)
    async with serving(transport) as engine:
        decided = await pay(engine, applied=False)
        applied = await pay(engine, wait_s=0.01)
        view = await engine.get(TxnId("t1.1"))
        gate.opened.set()
        final = await pay(engine)
    assert (Outcome.COMMITTED, False) == (decided.outcome, decided.applied)
    assert Outcome.PENDING is applied.outcome
    assert (TransactionState.COMMITTING, Outcome.COMMITTED) == (view.state, view.outcome)
    assert Outcome.COMMITTED is final.outcome


async def test_an_abort_is_final_before_it_is_applied() -> None:
    """An abort needs no acknowledgement to be final."""
    transport = ScriptedTransport()
    transport.on("prepare", "ledger", VoteReply(Vote.ABORT, "NO"))
    gate = Gate()
    transport.on("abort", "order", gate)
    async with serving(transport) as engine:
        result = await pay(engine, wait_s=0.05)
        gate.opened.set()
    assert (Outcome.ABORTED, "NO", False) == (result.outcome, result.reason, result.applied)


@pytest.mark.parametrize("error", [GONE, RuntimeError("a defect in a transport")])
async def test_a_commit_is_sent_until_acknowledged(error: Exception) -> None:
    """Phase two of a commit has no last attempt."""
    transport = ScriptedTransport()
    transport.on("commit", "ledger", *[error] * 40)
    async with serving(transport) as engine:
        result = await pay(engine)
    assert (Outcome.COMMITTED, 41) == (result.outcome, transport.count("commit", "ledger"))


async def test_a_caller_that_goes_away_changes_nothing() -> None:
    """A cancelled call neither stops its transaction nor hides its outcome."""
    transport = ScriptedTransport()
    gate = Gate(Vote.COMMIT)
    transport.on("prepare", "ledger", gate)
    async with serving(transport) as engine:
        call = asyncio.ensure_future(pay(engine))
        await gate.reached.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        gate.opened.set()
        await eventually(lambda: transport.sent("commit") == {"order", "ledger"})
        result = await pay(engine)
    assert (TxnId("t1.1"), Outcome.COMMITTED) == (result.txn_id, result.outcome)


async def test_aborts_are_given_up_on() -> None:
    """A participant that is gone learns of the abort by asking; nobody waits for it for ever."""
    transport = ScriptedTransport()
    transport.on("prepare", "ledger", Vote.ABORT)
    transport.always["abort", "order"] = GONE
    async with serving(transport, abort_attempts=3) as engine:
        result = await pay(engine)
    assert (Outcome.ABORTED, 3) == (result.outcome, transport.count("abort", "order"))


async def test_an_alarm_is_never_success() -> None:
    """A branch that cannot commit keeps its transaction open, however often it is told."""
    transport = ScriptedTransport()
    transport.always["commit", "ledger"] = UnknownBranch("never prepared")
    async with serving(transport) as engine:
        result = await pay(engine, wait_s=0.1)
        await eventually(lambda: transport.count("commit", "ledger") > 3)
        view = await engine.get(TxnId("t1.1"))
    assert Outcome.PENDING is result.outcome
    assert TransactionState.COMMITTING is view.state


async def test_an_alarm_keeps_an_abort_open_too() -> None:
    """An abort that a participant contradicts is not given up on in silence."""
    transport = ScriptedTransport()
    transport.on("prepare", "ledger", Vote.ABORT)
    transport.always["abort", "order"] = UnknownBranch("committed here")
    async with serving(transport, abort_attempts=1) as engine:
        result = await pay(engine, wait_s=0.05)
        await eventually(lambda: transport.count("abort", "order") > 3)
        view = await engine.get(TxnId("t1.1"))
    assert (Outcome.ABORTED, False) == (result.outcome, result.applied)
    assert TransactionState.ABORTING is view.state


class FailingLog(MemoryDecisionLog):
    """A log that fails a few times first."""

    def __init__(self, store: MemoryStore, *errors: Exception) -> None:
        super().__init__(store)
        self.errors = list(errors)

    async def decide_all(self, decisions: Sequence[Decision]) -> Sequence[Decision | TxnError]:
        """Fails while there are errors left."""
        if self.errors:
            raise self.errors.pop()
        return await super().decide_all(decisions)


@pytest.mark.parametrize(
    "error",
    [
        StoreFull("full"),
        StoreError("busy"),
        GroupLost("undone"),
        Overloaded("many"),
        RuntimeError("a defect in a log"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("vote", [Vote.COMMIT, Vote.ABORT])
async def test_a_decision_that_could_not_be_written_is_written_later(
    error: Exception, vote: Vote
) -> None:
    """Nothing is answered before the outcome stands, and nothing hangs because it did not."""
    log = FailingLog(MemoryStore(), error, error, error)
    transport = ScriptedTransport()
    transport.on("prepare", "ledger", vote)
    async with serving(transport, log) as engine:
        result = await pay(engine)
    outcome = Outcome.COMMITTED if vote is Vote.COMMIT else Outcome.ABORTED
    assert (outcome, []) == (result.outcome, log.errors)


async def test_nothing_is_answered_while_the_decision_cannot_be_written() -> None:
    """A full disk leaves PENDING and no phase two."""
    log = FailingLog(MemoryStore(), *[StoreFull("full")] * 100_000)
    transport = ScriptedTransport()
    async with serving(transport, log) as engine:
        result = await pay(engine, wait_s=0.05)
        asked = await inquire(engine, "t1.1")
    assert (Outcome.PENDING, Outcome.PENDING) == (result.outcome, asked)
    assert set() == transport.sent("commit")


async def test_too_many_are_refused() -> None:
    """Over the limit nothing is begun, and there is room again when one has ended."""
    transport = ScriptedTransport()
    gate = Gate(Vote.COMMIT)
    transport.on("prepare", "ledger", gate)
    async with serving(transport, max_active=1) as engine:
        call = asyncio.ensure_future(pay(engine, "first"))
        await gate.reached.wait()
        with pytest.raises(Overloaded):
            await pay(engine, "second")
        with pytest.raises(NotFound):
            await engine.get_by_key(CALLER, "second")
        gate.opened.set()
        await call
        result = await pay(engine, "second")
    assert Outcome.COMMITTED is result.outcome


async def test_refused_outside_of_its_time() -> None:
    """Before start and after close nothing is begun and no inquiry is answered."""
    engine = coordinator(ScriptedTransport(), memory_log())
    with pytest.raises(ShuttingDown):
        await pay(engine)
    with pytest.raises(ShuttingDown):
        await inquire(engine, "t1.1")
    await start(engine)
    await engine.close(grace_s=0)
    with pytest.raises(ShuttingDown):
        await pay(engine)
    with pytest.raises(ShuttingDown):
        await inquire(engine, "t1.1")


async def test_close_waits_for_what_is_active() -> None:
    """A transaction that is under way ends before close returns."""
    transport = ScriptedTransport()
    gate = Gate(Vote.COMMIT)
    transport.on("prepare", "ledger", gate)
    engine = coordinator(transport, memory_log())
    await start(engine)
    call = asyncio.ensure_future(pay(engine))
    await gate.reached.wait()
    closing = asyncio.ensure_future(engine.close(grace_s=WAIT_S))
    await turns()
    assert not closing.done()
    gate.opened.set()
    await closing
    assert Outcome.COMMITTED is (await call).outcome


async def test_close_writes_the_ends() -> None:
    """What ended before a planned stop is not taken up again by the next start."""
    transport, log = ScriptedTransport(), memory_log()
    engine = coordinator(transport, log)
    await start(engine)
    call = asyncio.ensure_future(pay(engine))
    await eventually(lambda: transport.calls)
    await engine.close(grace_s=WAIT_S)
    assert Outcome.COMMITTED is (await call).outcome
    await decide(log, Decision(TxnId("next"), Outcome.ABORTED, None, (), 1, ended=True))
    assert [] == list(await log.list_decisions(after="", limit=9, unfinished_only=True))


async def test_close_leaves_the_rest_to_the_next_start() -> None:
    """What did not end within the grace is not decided on the way out."""
    transport, log = ScriptedTransport(), memory_log()
    transport.on("prepare", "ledger", Gate())
    engine = coordinator(transport, log)
    await start(engine)
    result = await pay(engine, wait_s=0.01)
    await engine.close(grace_s=0.01)
    assert Outcome.PENDING is result.outcome
    assert None is await log.by_txn_id(TxnId("t1.1"))


async def test_unknown_participants_are_refused() -> None:
    """A coordinator does not call whomever a caller names; the answer says which branch it was."""
    transport = ScriptedTransport()
    async with serving(transport) as engine:
        with pytest.raises(UnknownParticipant) as caught:
            await pay(engine, branches=(branch("order"), branch("x", "stranger")))
    assert (1, []) == (caught.value.index, transport.calls)


@pytest.mark.parametrize("branches", [(), (branch("order"), branch("order", "ledger"))])
async def test_malformed_requests_are_refused(branches: tuple[Branch, ...]) -> None:
    """No branches would never end, and of two with one name only one would be done."""
    async with serving(ScriptedTransport()) as engine:
        with pytest.raises(InvalidOperation):
            await pay(engine, branches=branches)


async def test_inquiry_while_active_is_pending() -> None:
    """A transaction that is being decided is not decided by an inquiry."""
    transport, log = ScriptedTransport(), memory_log()
    gate = Gate(Vote.COMMIT)
    transport.on("prepare", "ledger", gate)
    async with serving(transport, log) as engine:
        call = asyncio.ensure_future(pay(engine))
        await gate.reached.wait()
        during = await inquire(engine, "t1.1")
        row = await log.by_txn_id(TxnId("t1.1"))
        gate.opened.set()
        result = await call
        after = await inquire(engine, "t1.1")
    assert (Outcome.PENDING, None) == (during, row)
    assert (Outcome.COMMITTED, Outcome.COMMITTED) == (result.outcome, after)


async def test_inquiry_about_the_unknown_writes_the_abort_first() -> None:
    """The answer is durable before it is given, and a later decision of that txn_id loses."""
    transport, log = ScriptedTransport(), memory_log()
    async with serving(transport, log) as engine:
        outcome = await inquire(engine, "t1.1")
        row = await log.by_txn_id(TxnId("t1.1"))
        result = await pay(engine)
    assert Outcome.ABORTED is outcome
    assert row is not None
    assert (Outcome.ABORTED, None) == (row.outcome, row.request)
    assert (TxnId("t1.1"), Outcome.ABORTED) == (result.txn_id, result.outcome)
    assert ({"order", "ledger"}, set()) == (transport.sent("abort"), transport.sent("commit"))


async def test_an_answer_after_the_end_changes_nothing() -> None:
    """A vote may come when the abort was acknowledged; the next one under the key is told that."""
    transport = ScriptedTransport()
    late = Gate(Vote.COMMIT)
    transport.on("prepare", "order", late)
    transport.on("prepare", "ledger", Vote.ABORT)
    async with serving(transport) as engine:
        first = await pay(engine)
        view = await engine.get(first.txn_id)
        late.opened.set()
        await turns()
        assert (Outcome.ABORTED, first) == (first.outcome, await pay(engine))
        assert view == await engine.get(first.txn_id)
        second = await pay(engine, "k2")
    assert Outcome.COMMITTED is second.outcome


async def test_a_defect_of_what_drives_transactions_is_said_aloud(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its transactions stay where they are until the next start, and somebody has to hear why."""

    class Broken(FastClock):
        async def sleep(self, seconds: float) -> None:
            if seconds == LOOK_S:
                await asyncio.sleep(seconds)
            raise ZeroDivisionError("a defect in a clock")

    transport = ScriptedTransport()
    transport.on("prepare", "ledger", GONE)
    engine = coordinator(transport, memory_log(), clock=Broken())
    await start(engine)
    assert Outcome.PENDING is (await pay(engine, wait_s=0.05)).outcome
    await engine.close(grace_s=0)
    loud = [each for each in caplog.records if each.levelno >= logging.CRITICAL]
    assert [ZeroDivisionError] == [each.exc_info[0] for each in loud if each.exc_info]


async def test_views() -> None:
    """A transaction can be found by id and by key, while active and when logged."""
    transport = ScriptedTransport()
    gate = Gate(Vote.COMMIT)
    transport.on("prepare", "ledger", gate)
    async with serving(transport) as engine:
        call = asyncio.ensure_future(pay(engine))
        await gate.reached.wait()
        active = await engine.get(TxnId("t1.1"))
        assert active == await engine.get_by_key(CALLER, "k")
        gate.opened.set()
        await call
        await pay(engine, "k2")
        logged = await engine.get(TxnId("t1.1"))
        assert logged == await engine.get_by_key(CALLER, "k")
        listed = await engine.list_transactions(after="", limit=9, unfinished_only=False)
        with pytest.raises(NotFound):
            await engine.get(TxnId("unseen"))
        with pytest.raises(NotFound):
            await engine.get_by_key(CALLER, "unseen")
    assert (TransactionState.PREPARING, Outcome.PENDING) == (active.state, active.outcome)
    assert None is active.decided_at_us
    assert (TransactionState.COMMITTED, Outcome.COMMITTED) == (logged.state, logged.outcome)
    assert ["t1.1", "t2.1"] == [view.txn_id for view in listed]


@pytest.mark.parametrize(
    "changes",
    [
        {"participants": frozenset()},
        {"prepare_timeout_s": 0.0},
        {"attempt_timeout_s": -1.0},
        {"abort_attempts": 0},
        {"max_active": 0},
        {"batch_size_max": 0},
        {"batch_size_max": 1025},
        {"gather_max_s": -0.001},
        {"gather_per_transaction_s": -0.001},
    ],
)
def test_config_is_checked(changes: dict[str, object]) -> None:
    """A configuration that cannot work is refused at once."""
    good = CoordinatorConfig(name="c", participants=frozenset({"a"}))
    with pytest.raises(ValueError, match="must"):
        replace(good, **changes)  # type: ignore[arg-type]


async def test_another_log_never_answers_for_this_one() -> None:
    """Its silence about a transaction means nothing: no outcome and no row come of it."""
    mine, other = MemoryDecisionLog(MemoryStore()), MemoryDecisionLog(MemoryStore())
    await mine.identity("-mine")
    await other.identity("-other")
    async with serving(ScriptedTransport(), mine) as engine:
        txn_id = (await pay(engine)).txn_id
        unseen = TxnId("never-seen-mine")
        assert Outcome.COMMITTED is await inquire(engine, txn_id)
        assert Outcome.ABORTED is await inquire(engine, unseen)
    async with serving(ScriptedTransport(), other) as engine:
        for foreign in (txn_id, unseen):
            with pytest.raises(OtherLog):
                await inquire(engine, foreign)
    assert [] == list(await other.list_decisions(after="", limit=9))
