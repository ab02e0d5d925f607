"""The coordinator in one phase: claims, what is sent and when, restarts, and the horizon."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from tests.txn.support import SqliteStore, open_sqlite
from tests.txn.test_horizon import Lives
from txn import recovery
from txn.coordinator import INTERRUPTED, Coordinator
from txn.errors import (
    BranchDiffers,
    BranchForgotten,
    Busy,
    IdempotencyConflict,
    Overloaded,
    Refused,
    StoreClosed,
    StoreFull,
    TxnError,
    Unreachable,
)
from txn.lane import PARTICIPANT_UNAVAILABLE
from txn.model import Branch, Decision, LoggedBranch, RequestKey, TxnId, VoteReply, body_hash
from txn.state import Outcome, TransactionState, Vote
from txn.store.sql_log import SqlDecisionLog
from txn.testing import MemoryDecisionLog, MemoryStore
from txn.transaction import Result

ONE = (branch("ledger"),)
GONE = Unreachable("gone")
DONE = Result(TxnId("t1.1"), Outcome.COMMITTED, applied=True)


@pytest.fixture
def transport() -> ScriptedTransport:
    """To participants that know one phase."""
    transport = ScriptedTransport()
    transport.one_phase = True
    return transport


@pytest.fixture
def log() -> MemoryDecisionLog:
    """An empty log."""
    return MemoryDecisionLog(MemoryStore())


async def pay(
    engine: Coordinator,
    key: str = "k",
    branches: tuple[Branch, ...] = ONE,
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


def claim(txn_id: str = "t0", key: str = "k") -> Decision:
    """What a coordinator that died has left behind."""
    return Decision(
        TxnId(txn_id),
        Outcome.PENDING,
        RequestKey(CALLER, key, body_hash(ONE)),
        (LoggedBranch(ONE[0].branch_id, "ledger", None),),
        decided_at_us=1,
    )


async def force(log: MemoryDecisionLog) -> None:
    """One force of the log, so that what rides along is durable."""
    await decide(log, Decision(TxnId("force"), Outcome.ABORTED, None, (), 1, ended=True))
    await turns()


@pytest.mark.parametrize("applied", [True, False])
async def test_a_single_branch_is_performed(
    transport: ScriptedTransport, log: MemoryDecisionLog, applied: bool
) -> None:
    """One message; it is answered at once, and the row follows with the next force."""
    async with serving(transport, log) as engine:
        assert DONE == await pay(engine, applied=applied)
        assert [("perform", "ledger")] == transport.calls
        await turns()
        row = await log.by_txn_id(TxnId("t1.1"))
        assert row is not None
        assert (Outcome.PENDING, False) == (row.outcome, row.ended)
        assert DONE == await pay(engine), "the same key is told what is known"
        assert Outcome.COMMITTED is (await engine.get(TxnId("t1.1"))).outcome
        assert Outcome.COMMITTED is (await engine.get_by_key(CALLER, "k")).outcome
        shown = await engine.list_transactions(after="", limit=9, unfinished_only=True)
        assert [] == shown
        shown = await engine.list_transactions(after="", limit=9, unfinished_only=False)
        assert [TransactionState.COMMITTED] == [view.state for view in shown]
        await force(log)
        row = await log.by_txn_id(TxnId("t1.1"))
        assert row is not None
        assert (Outcome.COMMITTED, True) == (row.outcome, row.ended)
        assert [Vote.COMMIT] == [logged.vote for logged in row.branches]


async def test_nothing_is_sent_before_the_claim_is_durable(
    transport: ScriptedTransport, log: MemoryDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then nobody would know of it after a crash."""
    gate = Gate()
    decide_all = log.decide_all

    async def slowly(decisions: list[Decision]) -> object:
        await gate()
        return await decide_all(decisions)

    monkeypatch.setattr(log, "decide_all", slowly)
    async with serving(transport, log) as engine:
        call = asyncio.ensure_future(pay(engine))
        await gate.reached.wait()
        await turns()
        assert [] == transport.calls
        (view,) = [await engine.get_by_key(CALLER, "k")]
        assert (TransactionState.CLAIMING, Outcome.PENDING) == (view.state, view.outcome)
        gate.opened.set()
        assert DONE == await call


async def test_a_claim_that_is_not_taken_is_tried_again(
    transport: ScriptedTransport, log: MemoryDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is full for a while delays, and does no more."""
    decide_all, full = log.decide_all, [StoreFull("full"), StoreFull("full")]

    async def sometimes(decisions: list[Decision]) -> object:
        return [full.pop()] if full else await decide_all(decisions)

    monkeypatch.setattr(log, "decide_all", sometimes)
    async with serving(transport, log) as engine:
        assert DONE == await pay(engine)
    assert [("perform", "ledger")] == transport.calls


@pytest.mark.parametrize("vote", [Vote.COMMIT, Vote.READ_ONLY, Vote.ABORT])
async def test_what_comes_in_one_turn_is_written_together(
    transport: ScriptedTransport, log: MemoryDecisionLog, vote: Vote
) -> None:
    """Claims share a force, and what becomes of them shares the next."""
    transport.always["perform", "ledger"] = vote
    store = MemoryStore()
    async with serving(transport, MemoryDecisionLog(store)) as engine:
        before = store.backend.forces
        done = await asyncio.gather(*(pay(engine, f"k{number}") for number in range(5)))
        await turns()
        forces = store.backend.forces - before
    outcome = Outcome.ABORTED if vote is Vote.ABORT else Outcome.COMMITTED
    assert ({outcome}, 5) == ({each.outcome for each in done}, len({d.txn_id for d in done}))
    # A commit rides along with a force that goes anyway.
    assert (1 if vote is Vote.COMMIT else 2) == forces


async def test_an_outcome_that_is_not_taken_is_written_later(
    transport: ScriptedTransport, log: MemoryDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller waits for that; nobody hears of a refusal that is not durable."""
    transport.on("perform", "ledger", VoteReply(Vote.ABORT, "NO"))
    close_all, full = log.close_all, [StoreFull("full"), StoreFull("full")]

    async def sometimes(claims: list[Decision]) -> object:
        return [full.pop()] if full else await close_all(claims)

    monkeypatch.setattr(log, "close_all", sometimes)
    async with serving(transport, log) as engine:
        result = await pay(engine)
    assert ([], Outcome.ABORTED, "NO") == (full, result.outcome, result.reason)
    row = await by_key(log)
    assert row is not None
    assert (Outcome.ABORTED, "NO") == (row.outcome, row.reason)


async def test_a_store_that_is_closed_leaves_the_claim_to_the_next_start(
    transport: ScriptedTransport, log: MemoryDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known is told; nothing is tried again and again."""
    tried: list[object] = []

    def closed(claims: list[Decision], *_: object) -> None:
        tried.append(claims)
        raise StoreClosed("closed")

    monkeypatch.setattr(log, "close_lazily", closed)
    async with serving(transport, log) as engine:
        assert DONE == await pay(engine)
        await turns(100)
    assert 1 == len(tried)
    row = await by_key(log)
    assert row is not None
    assert Outcome.PENDING is row.outcome


async def test_two_branches_take_two_phases(transport: ScriptedTransport) -> None:
    """And so does one whose participant has not said that it knows more, or where nobody wants."""
    async with serving(transport) as engine:
        await pay(engine, branches=TWO)
        transport.one_phase = False
        await pay(engine, "k2")
    assert 0 == transport.count("perform", "ledger")
    transport.one_phase = True
    async with serving(transport, one_phase=False) as engine:
        await pay(engine)
    assert 0 == transport.count("perform", "ledger")


async def test_a_refusal_is_durable_before_it_is_told(
    transport: ScriptedTransport, log: MemoryDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reason is known here only."""
    transport.on("perform", "ledger", VoteReply(Vote.ABORT, "INSUFFICIENT_FUNDS"))
    gate = Gate()
    close_all = log.close_all

    async def slowly(claims: list[Decision]) -> object:
        await gate()
        return await close_all(claims)

    monkeypatch.setattr(log, "close_all", slowly)
    async with serving(transport, log) as engine:
        call = asyncio.ensure_future(pay(engine, applied=False))
        await gate.reached.wait()
        assert Outcome.PENDING is (await pay(engine, wait_s=0)).outcome
        gate.opened.set()
        refused = Result(
            TxnId("t1.1"), Outcome.ABORTED, "INSUFFICIENT_FUNDS", "ledger", applied=True
        )
        assert refused == await call
        assert refused == await pay(engine)
        row = await by_key(log)
        assert row is not None
        assert (Outcome.ABORTED, True) == (row.outcome, row.ended)
    assert [("perform", "ledger")] == transport.calls


async def test_nothing_to_do_is_durable_before_it_is_told(
    transport: ScriptedTransport, log: MemoryDecisionLog
) -> None:
    """Its participant keeps no row, so that a restart would find out something else."""
    transport.on("perform", "ledger", Vote.READ_ONLY)
    async with serving(transport, log) as engine:
        assert DONE == await pay(engine)
        row = await by_key(log)
        assert row is not None
        assert Outcome.COMMITTED is row.outcome
        assert [Vote.READ_ONLY] == [logged.vote for logged in row.branches]
        await force(log)
        row = await by_key(log)
        assert row is not None
        assert row.ended


@pytest.mark.parametrize("said", [GONE, Refused("INVALID"), RuntimeError("a defect")])
async def test_what_is_no_vote_is_no_answer(transport: ScriptedTransport, said: Exception) -> None:
    """Of an error nobody keeps a row: it is asked again, and then whether it was done."""
    transport.on("perform", "ledger", said, said)
    async with serving(transport) as engine:
        assert DONE == await pay(engine)
    assert 3 == transport.count("perform", "ledger")


@pytest.mark.parametrize(
    ("silence", "reason"), [(GONE, PARTICIPANT_UNAVAILABLE), (Busy("TAKEN"), "TAKEN")]
)
async def test_without_an_answer_in_time_it_is_resolved(
    transport: ScriptedTransport, silence: Exception, reason: str
) -> None:
    """It may have been done: until that is answered nothing is told, however often it is asked."""
    transport.always["perform", "ledger"] = silence
    gate = Gate(Vote.ABORT)
    transport.on("resolve", "ledger", GONE, GONE, gate)
    async with serving(transport, clock=FastClock(), prepare_timeout_s=5.0) as engine:
        call = asyncio.ensure_future(pay(engine))
        await gate.reached.wait()
        view = await engine.get_by_key(CALLER, "k")
        assert (TransactionState.RESOLVING, Outcome.PENDING) == (view.state, view.outcome)
        performs = transport.count("perform", "ledger")
        gate.opened.set()
        result = await call
    assert (Outcome.ABORTED, reason) == (result.outcome, result.reason)
    assert performs == transport.count("perform", "ledger")


async def test_who_owes_an_answer_is_asked_in_two_phases(
    transport: ScriptedTransport, log: MemoryDecisionLog
) -> None:
    """What begins there meanwhile can be aborted, and does not pile up; others are not affected."""
    await decide(log, claim("t0", "k0"))
    gate = Gate(Vote.COMMIT)
    transport.on("resolve", "ledger", GONE, gate)
    transport.always["prepare", "ledger"] = GONE
    async with serving(transport, log, clock=FastClock(), prepare_timeout_s=5.0) as engine:
        await gate.reached.wait()
        result = await pay(engine)
        assert (Outcome.ABORTED, PARTICIPANT_UNAVAILABLE) == (result.outcome, result.reason)
        await pay(engine, "k2", (branch("order"),))
        assert (0, 1) == (transport.count("perform", "ledger"), transport.count("perform", "order"))
        gate.opened.set()
        await pay(engine, "k0")
        await pay(engine, "k3")
        assert 1 == transport.count("perform", "ledger")


async def test_what_turns_out_to_be_done_is_committed(transport: ScriptedTransport) -> None:
    """Only the answer was lost."""
    transport.always["perform", "ledger"] = GONE
    async with serving(transport, clock=FastClock(), prepare_timeout_s=5.0) as engine:
        assert DONE == await pay(engine)
    assert 1 == transport.count("resolve", "ledger")


async def test_a_vote_that_no_participant_gives_is_no_answer(
    transport: ScriptedTransport,
) -> None:
    """Whether it was done is answered with yes or no."""
    transport.always["perform", "ledger"] = GONE
    transport.on("resolve", "ledger", Vote.READ_ONLY, Vote.COMMIT)
    async with serving(transport, clock=FastClock(), prepare_timeout_s=5.0) as engine:
        assert DONE == await pay(engine)


async def test_an_alarm_leaves_the_claim_open(
    transport: ScriptedTransport, log: MemoryDecisionLog, caplog: pytest.LogCaptureFixture
) -> None:
    """What may have been forgotten nobody can say: people have to."""
    await decide(log, claim())
    transport.always["resolve", "ledger"] = BranchForgotten("it may have been here")
    async with serving(transport, log) as engine:
        await eventually(lambda: transport.count("resolve", "ledger") > 1)
        assert Outcome.PENDING is (await pay(engine, wait_s=0)).outcome
        (view,) = await engine.list_transactions(after="", limit=9, unfinished_only=True)
        assert (Outcome.PENDING, None) == (view.outcome, view.decided_at_us)
    assert "ALARM" in caplog.text


async def test_the_same_key_joins_and_another_body_is_refused(
    transport: ScriptedTransport,
) -> None:
    """A claim stands for its key as an outcome does."""
    gate = Gate(Vote.COMMIT)
    transport.on("perform", "ledger", gate)
    async with serving(transport) as engine:
        first = asyncio.ensure_future(pay(engine))
        await gate.reached.wait()
        second = asyncio.ensure_future(pay(engine))
        with pytest.raises(IdempotencyConflict):
            await pay(engine, branches=(branch("ledger", value=b"other"),))
        gate.opened.set()
        assert (DONE, DONE) == tuple(await asyncio.gather(first, second))
    assert 1 == transport.count("perform", "ledger")


async def test_who_loses_its_key_sends_nothing(
    transport: ScriptedTransport, log: MemoryDecisionLog
) -> None:
    """It is told what the other came to; that it is not known yet, if the other is a claim."""
    async with serving(transport, log) as engine:
        await decide(log, claim("t0"))
        assert Result(TxnId("t0"), Outcome.PENDING) == await engine_begins(engine, log)
        await log.close_all([_committed("t0")])
        result = await pay(engine)
    assert Result(TxnId("t0"), Outcome.COMMITTED, applied=True) == result
    assert [] == transport.calls


async def engine_begins(engine: Coordinator, log: MemoryDecisionLog) -> Result:
    """A request that was looked up before the row of its key was there."""
    by_keys = log.by_keys

    async def nothing_yet(names: object) -> dict[tuple[str, str], Decision]:
        return {}

    log.by_keys = nothing_yet  # type: ignore[method-assign]
    try:
        return await pay(engine)
    finally:
        log.by_keys = by_keys  # type: ignore[method-assign]


def _committed(txn_id: str) -> Decision:
    open_ = claim(txn_id)
    return Decision(open_.txn_id, Outcome.COMMITTED, open_.request, open_.branches, 2, ended=True)


async def test_an_abort_that_an_inquiry_wrote_is_in_the_way_of_a_claim(
    transport: ScriptedTransport, log: MemoryDecisionLog
) -> None:
    """A stranger may ask about an id that nobody has been given yet."""
    async with serving(transport, log) as engine:
        await inquire(engine, "t1.1")
        result = await pay(engine)
    assert (Outcome.ABORTED, "INQUIRY") == (result.outcome, result.reason)
    assert [] == transport.calls


async def test_an_inquiry_about_a_claim_is_answered_pending(
    transport: ScriptedTransport, log: MemoryDecisionLog
) -> None:
    """And leaves it: whoever asks is told when it is known."""
    gate = Gate(Vote.COMMIT)
    transport.on("perform", "ledger", gate)
    async with serving(transport, log) as engine:
        call = asyncio.ensure_future(pay(engine))
        await gate.reached.wait()
        assert Outcome.PENDING is await inquire(engine, "t1.1")
        gate.opened.set()
        assert DONE == await call
        assert Outcome.PENDING is await inquire(engine, "t1.1")
        await force(log)
        assert Outcome.COMMITTED is await inquire(engine, "t1.1")


@pytest.mark.parametrize(
    ("said", "outcome", "reason"),
    [
        (VoteReply(Vote.COMMIT), Outcome.COMMITTED, ""),
        (VoteReply(Vote.ABORT), Outcome.ABORTED, INTERRUPTED),
        (VoteReply(Vote.ABORT, "INSUFFICIENT_FUNDS"), Outcome.ABORTED, "INSUFFICIENT_FUNDS"),
    ],
)
async def test_a_claim_is_resolved_after_a_restart(
    transport: ScriptedTransport,
    log: MemoryDecisionLog,
    said: VoteReply,
    outcome: Outcome,
    reason: str,
) -> None:
    """Its participant knows; who comes back with the key waits for that."""
    await decide(log, claim())
    gate = Gate(said)
    transport.on("resolve", "ledger", GONE, gate)
    engine = coordinator(transport, log, first_txn=2)
    assert 1 == await start(engine)
    await gate.reached.wait()
    call = asyncio.ensure_future(pay(engine))
    await turns()
    assert not call.done()
    gate.opened.set()
    result = await call
    assert (outcome, reason) == (result.outcome, result.reason)
    assert 0 == transport.count("perform", "ledger")
    await engine.close(grace_s=0)


async def test_a_row_that_is_not_queued_is_tried_again(
    transport: ScriptedTransport, log: MemoryDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its key would stay open until the next restart."""
    close_lazily, full = log.close_lazily, [Overloaded("many"), Overloaded("many")]

    def sometimes(*arguments: object) -> None:
        if full:
            raise full.pop()
        close_lazily(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(log, "close_lazily", sometimes)
    async with serving(transport, log) as engine:
        assert DONE == await pay(engine)
        await eventually(lambda: not full)
        await turns()
        await force(log)
        row = await by_key(log)
        assert row is not None
        assert Outcome.COMMITTED is row.outcome


async def test_open_claims_hold_the_horizon_of_their_participant_back() -> None:
    """Until their outcome is durable, however much is decided meanwhile; others may forget."""
    lives = Lives()
    lives.transport.one_phase = True
    gate = Gate(Vote.COMMIT)
    async with lives.life() as engine:
        await lives.pay(engine)
        lives.transport.on("perform", "audit", gate)
        slow = asyncio.ensure_future(lives.pay(engine, (branch("audit"),)))
        await gate.reached.wait()
        for _ in range(3):
            await lives.pay(engine, (branch("order"), branch("audit")))
        assert lives.id_of(101) == lives.horizons_at("audit")[-1]
        assert lives.id_of(104) == lives.horizons_at("order")[-1]
        assert lives.id_of(101) == (await engine.ended([])).prepare_horizon
        gate.opened.set()
        await slow
        await lives.pay(engine, (branch("order"), branch("audit")))
        await lives.pay(engine, (branch("order"), branch("audit")))
    assert lives.id_of(106) == lives.horizons_at("audit")[-1]
    lives.check()


async def test_claims_hold_the_horizon_back_after_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the first message on, however many pages recovery has to read before it sees them."""
    monkeypatch.setattr(recovery, "RECOVERY_PAGE", 1)
    lives = Lives()
    lives.transport.one_phase = True
    lives.transport.always["commit", "ledger"] = GONE
    lives.transport.always["perform", "audit"] = Gate()
    async with lives.life() as engine:
        left = [
            asyncio.ensure_future(lives.pay(engine)),
            asyncio.ensure_future(lives.pay(engine, (branch("audit"),))),
            asyncio.ensure_future(lives.pay(engine)),
        ]
        await eventually(
            lambda: (
                lives.transport.count("commit", "ledger") > 1
                and lives.transport.count("perform", "audit")
            )
        )
        for each in left:
            each.cancel()
    before = len(lives.horizons_at("audit"))
    lives.transport.always["resolve", "audit"] = GONE
    async with lives.life() as engine:
        await lives.pay(engine, (branch("order"), branch("audit")))
        await lives.pay(engine, (branch("order"), branch("audit")))
        assert lives.transport.count("resolve", "audit")
    told = lives.horizons_at("audit")
    assert {None, lives.id_of(101)} >= set(told[before:])
    assert lives.id_of(101) == told[-1]
    lives.check()


async def test_what_was_performed_is_forgotten_when_its_row_is_durable() -> None:
    """Not before: a restart would ask what became of it."""
    lives = Lives()
    lives.transport.one_phase = True

    def told() -> set[str]:
        return {key.txn_id for _, batch in lives.transport.batches for key in batch.forgettable}

    async with lives.life() as engine:
        await lives.pay(engine, (branch("ledger"),))
        assert set() == told()
        # The first claim after it carries its row, and so the batch with its perform the word.
        await lives.pay(engine, (branch("ledger"),))
        await lives.pay(engine, (branch("ledger"),))
        assert lives.id_of(100) in told()
        assert lives.id_of(102) not in told()
    lives.check()


async def test_a_clock_that_is_behind_makes_no_claim_old(
    transport: ScriptedTransport, log: MemoryDecisionLog
) -> None:
    """What is performed after a restart counts as no older than what was written before it."""
    clock = FastClock()
    for number, behind_s in enumerate((0, 8 * 24 * 3600)):
        clock.utc -= behind_s * 1_000_000
        async with serving(transport, log, clock=clock, first_txn=number + 1) as engine:
            assert Outcome.COMMITTED is (await pay(engine, f"k{number}")).outcome
    await log.decide_all([])
    before, after = await log.list_decisions(after="", limit=9)
    assert before.decided_at_us <= after.decided_at_us


async def test_an_alarm_to_a_perform_is_never_success(transport: ScriptedTransport) -> None:
    """What was performed was another operation: that it is committed says nothing of this one."""
    transport.always["perform", "ledger"] = BranchDiffers("another operation was performed")
    transport.always["resolve", "ledger"] = Vote.COMMIT
    async with serving(transport, prepare_timeout_s=5.0) as engine:
        assert Outcome.PENDING is (await pay(engine, wait_s=2)).outcome
        assert 0 == transport.count("resolve", "ledger")


async def test_a_list_is_not_behind_what_was_told(
    transport: ScriptedTransport, log: MemoryDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the outcome becomes durable while the rows are under way."""
    list_decisions = log.list_decisions

    async def slowly(**what: Any) -> Sequence[Decision]:
        rows = await list_decisions(**what)
        await force(log)
        return rows

    async with serving(transport, log) as engine:
        assert DONE == await pay(engine)
        monkeypatch.setattr(log, "list_decisions", slowly)
        shown = await engine.list_transactions(after="", limit=9, unfinished_only=False)
        assert [TransactionState.COMMITTED] == [view.state for view in shown]


async def test_one_outcome_that_cannot_be_written_leaves_the_others(
    transport: ScriptedTransport, tmp_path: Path
) -> None:
    """They are written one by one when they cannot be together."""
    async with open_sqlite(tmp_path / "c.db") as store:
        log = SqlDecisionLog(store)
        gates = [Gate(Vote.COMMIT), Gate(Vote.COMMIT)]
        transport.on("perform", "ledger", *gates)
        async with serving(transport, log) as engine:
            paying = [asyncio.ensure_future(pay(engine, name)) for name in ("k1", "k2")]
            for gate in gates:
                await gate.reached.wait()
            await store.write(_change_the_first)
            for gate in gates:
                gate.opened.set()
            assert [Outcome.COMMITTED] * 2 == [
                each.outcome for each in await asyncio.gather(*paying)
            ]
            await eventually(lambda: _is_committed(store, log, TxnId("t2.1")))


def _change_the_first(tx: sqlite3.Connection) -> None:
    tx.execute("UPDATE decision SET body_hash = x'00' WHERE txn_id LIKE 't1%'")


async def _is_committed(store: SqliteStore, log: SqlDecisionLog, txn_id: TxnId) -> bool:
    await store.write(lambda tx: None)
    row = await log.by_txn_id(txn_id)
    return row is not None and row.outcome is Outcome.COMMITTED


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "not yet"])
async def test_what_cannot_be_written_is_tried_until_the_log_is_closed(
    transport: ScriptedTransport,
    log: MemoryDecisionLog,
    monkeypatch: pytest.MonkeyPatch,
    *,
    closed: bool,
) -> None:
    """The next start asks its participant."""
    answers = [StoreClosed("closed") if closed else Overloaded("many")]
    close_all, tried = log.close_all, []

    async def close(claims: Sequence[Decision]) -> Sequence[Decision | TxnError]:
        tried.append(claims)
        return [answers.pop()] if answers else await close_all(claims)

    monkeypatch.setattr(log, "close_lazily", lambda claims, durable, lost: lost())
    monkeypatch.setattr(log, "close_all", close)
    async with serving(transport, log) as engine:
        assert DONE == await pay(engine)
        await eventually(lambda: len(tried) == (1 if closed else 2))
        await turns()
    row = await by_key(log)
    assert row is not None
    assert (Outcome.PENDING if closed else Outcome.COMMITTED) is row.outcome
