"""The timeline of a transaction: what is in it, in which order, and what is not known any more."""

from __future__ import annotations

import asyncio

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
    commit_row,
    coordinator,
    decide,
    serving,
    start,
)
from txn import timeline
from txn.audit import Signature
from txn.coordinator import Coordinator
from txn.errors import Busy, NotFound, Overloaded, Refused, UnknownBranch, Unreachable
from txn.explaining import BEFORE_RESTART, NO_ROW, NOT_REMEMBERED, Explanation
from txn.model import Commit, Decision, Prepare, Reply, TxnId, VoteReply
from txn.protocol import Settled
from txn.state import Outcome, TransactionState, Vote
from txn.testing import MemoryDecisionLog, MemoryStore
from txn.timeline import (
    ERROR_NAME_CHARS_MAX,
    MOMENTS_FIRST_MAX,
    MOMENTS_MAX,
    Entry,
    Failure,
    Happening,
    Mark,
    Moment,
    failure_of,
    in_order,
    last_failure,
    trim,
)

# Begun by an engine of these tests, and by one before there were epochs.
T1, OLD = TxnId("t1.1"), TxnId("t1")
GONE = Unreachable("DEADLINE_EXCEEDED")


def lines(explanation: Explanation) -> list[str]:
    """A timeline without its times."""
    return [
        " ".join(
            part
            for part in (
                each.happening.value,
                each.branch_id,
                f"#{each.attempt}" if each.attempt else "",
                each.detail,
            )
            if part
        )
        for each in explanation.entries
    ]


async def pay(engine: Coordinator, key: str = "k", participants: tuple[str, ...] = ()) -> None:
    """One transaction over these participants, or over two."""
    branches = [branch(name) for name in participants] or TWO
    await engine.execute(caller=CALLER, idempotency_key=key, branches=branches, wait_s=WAIT_S)


async def test_a_commit_message_by_message() -> None:
    """Begun, both prepares and votes, the outcome, both commits and acknowledgements, the end."""
    async with serving(ScriptedTransport()) as engine:
        await pay(engine)
        await pay(engine, "forces the end of the first")
        explanation = await engine.explain(T1)
    assert [
        "BEGUN",
        "PREPARE_SENT order #1",
        "PREPARE_SENT ledger #1",
        "VOTED order COMMIT",
        "VOTED ledger COMMIT",
        "OUTCOME_DURABLE COMMITTED",
        "COMMIT_SENT order #1",
        "COMMIT_SENT ledger #1",
        "ACKNOWLEDGED order",
        "ACKNOWLEDGED ledger",
        "END_DURABLE",
    ] == lines(explanation)
    assert [] == explanation.gaps
    times = [each.at_us for each in explanation.entries]
    assert times == sorted(times, key=lambda at_us: at_us or 0)
    assert {"order", "ledger", ""} == {each.participant for each in explanation.entries}


async def test_one_phase_message_by_message() -> None:
    """Claim, question, answer; the outcome is the participant's, and is written with the end."""
    transport = ScriptedTransport()
    transport.one_phase = True
    async with serving(transport) as engine:
        await pay(engine, participants=("ledger",))
        transport.one_phase = False
        await pay(engine, "forces the end of the first")
        explanation = await engine.explain(T1)
    assert [
        "BEGUN",
        "CLAIM_DURABLE",
        "PERFORM_SENT ledger #1",
        "VOTED ledger COMMIT",
        "END_DURABLE",
    ] == lines(explanation)


async def test_attempts_and_their_errors() -> None:
    """Each attempt has its number, and each that failed its error; who gives up says so."""
    transport = ScriptedTransport()
    transport.on("prepare", "ledger", GONE, Busy("TRADE_PAYING"))
    transport.on("prepare", "order", VoteReply(Vote.ABORT, "NO"))
    transport.always["abort", "ledger"] = GONE
    async with serving(transport, abort_attempts=2) as engine:
        await pay(engine)
        explanation = await engine.explain(T1)
    assert [
        "BEGUN",
        "PREPARE_SENT order #1",
        "PREPARE_SENT ledger #1",
        "VOTED order ABORT NO",
        "FAILED ledger #1 DEADLINE_EXCEEDED",
        "ABORT_SENT ledger #1",
        "OUTCOME_DURABLE ABORTED",
        "FAILED ledger #1 DEADLINE_EXCEEDED",
        "ABORT_SENT ledger #2",
        "FAILED ledger #2 DEADLINE_EXCEEDED",
        "GIVEN_UP ledger",
    ] == lines(explanation)


async def test_no_vote_in_time() -> None:
    """That a participant was given up on is the reason for the abort."""
    transport = ScriptedTransport()
    transport.always["prepare", "ledger"] = GONE
    async with serving(transport, prepare_timeout_s=0.01) as engine:
        await pay(engine)
        explanation = await engine.explain(T1)
    assert "GIVEN_UP ledger PARTICIPANT_UNAVAILABLE" in lines(explanation)


async def test_the_moments_of_a_stuck_transaction_are_limited() -> None:
    """Retries for days take no more room; the first and the newest are there, and a number."""
    transport = ScriptedTransport()
    transport.always["commit", "ledger"] = GONE
    clock = FastClock()
    async with serving(transport, clock=clock) as engine:
        caller = asyncio.ensure_future(pay(engine))
        await eventually(lambda: transport.count("commit", "ledger") > 3 * MOMENTS_MAX)
        active = engine._active[T1]
        explanation = await engine.explain(T1)
        (view,) = await engine.list_transactions(after="", limit=9, unfinished_only=True)
        transport.always["commit", "ledger"] = None
        await caller
    assert len(active.moments) <= MOMENTS_MAX + 2
    assert ["BEGUN", "PREPARE_SENT order #1"] == lines(explanation)[:2]
    assert explanation.gaps[0].endswith("attempts in between are not remembered")
    ledger = view.branches[1]
    assert (False, "DEADLINE_EXCEEDED", False) == (
        ledger.acknowledged,
        ledger.last_error,
        ledger.alarmed,
    )
    assert ledger.attempts > MOMENTS_MAX


async def test_after_a_restart_what_is_driven_says_what_it_is() -> None:
    """Taken up again: what came before is a gap, what comes now is not; its age goes on."""
    log = MemoryDecisionLog(MemoryStore())
    row = commit_row("t1", ("order", Vote.COMMIT), ("ledger", Vote.READ_ONLY))
    await decide(log, row)
    transport, clock = ScriptedTransport(), FastClock()
    gate = transport.always["commit", "order"] = Gate()
    clock.utc = row.decided_at_us + 90_000_000
    engine = coordinator(transport, log, first_txn=2, clock=clock)
    await start(engine)
    await eventually(gate.reached.is_set)
    explanation = await engine.explain(OLD)
    gate.opened.set()
    await engine.close(WAIT_S)
    assert ["RESUMED", "COMMIT_SENT order #1"] == lines(explanation)
    assert [BEFORE_RESTART] == explanation.gaps
    assert explanation.view is not None
    assert explanation.view.age_s is not None
    assert explanation.view.age_s >= 90
    assert [False, True] == [each.acknowledged for each in explanation.view.branches]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (commit_row("t1", ("order", Vote.COMMIT)), ["OUTCOME_DURABLE COMMITTED", "END_DURABLE"]),
        (
            Decision(OLD, Outcome.ABORTED, None, (), 1, ended=True),
            ["OUTCOME_DURABLE ABORTED", "END_DURABLE"],
        ),
    ],
)
async def test_after_a_restart_the_log_is_what_is_known(row: Decision, said: list[str]) -> None:
    """What was over before has its outcome, its end, what was forced, and a gap."""
    log = MemoryDecisionLog(MemoryStore())
    await decide(log, row)
    async with serving(ScriptedTransport(), log, first_txn=2) as engine:
        await eventually(lambda: not engine._active)
        engine._finished.clear()
        await pay(engine, "forces the end of the first")
        explanation = await engine.explain(OLD)
    assert (said, [NOT_REMEMBERED]) == (lines(explanation), explanation.gaps)


async def test_an_open_claim_of_another_coordinator_is_shown() -> None:
    """Nobody drives it here; the log says that it is claimed."""
    log = MemoryDecisionLog(MemoryStore())
    async with serving(ScriptedTransport(), log) as engine:
        await decide(log, Decision(OLD, Outcome.PENDING, None, (), 1))
        explanation = await engine.explain(OLD)
    assert ["CLAIM_DURABLE"] == lines(explanation)
    assert explanation.view is not None
    assert (TransactionState.PERFORMING, False) == (
        explanation.view.state,
        explanation.view.active,
    )


async def test_a_record_outlives_its_row() -> None:
    """What was forced is told, also where the log has forgotten the outcome."""
    log = MemoryDecisionLog(MemoryStore())
    row = Decision(OLD, Outcome.ABORTED, None, (), 1, ended=True)
    await log.force(row, Signature("ann", "stuck", 2), over=None)
    await log.truncate(after="", limit=9, before_us=10)
    async with serving(ScriptedTransport(), log) as engine:
        explanation = await engine.explain(OLD)
    assert ["FORCED NONE -> ABORTED_ENDED by ann: stuck"] == lines(explanation)
    assert [NOT_REMEMBERED, NO_ROW] == explanation.gaps
    assert explanation.view is None


async def test_who_lost_its_key_says_to_whom() -> None:
    """Two coordinators, one key: the second has no row of its own."""
    log = MemoryDecisionLog(MemoryStore())
    transport = ScriptedTransport()
    gate = Gate(Vote.COMMIT)
    transport.on("prepare", "ledger", gate)
    async with serving(transport, log) as engine:
        caller = asyncio.ensure_future(
            engine.execute(caller=CALLER, idempotency_key="k", branches=TWO, wait_s=WAIT_S)
        )
        await eventually(gate.reached.is_set)
        await decide(log, commit_row("t0", ("order", Vote.COMMIT)))
        gate.opened.set()
        await asyncio.gather(caller, return_exceptions=True)
        explanation = await engine.explain(T1)
    assert [NO_ROW, "its key belongs to t0, which came first"] == sorted(
        explanation.gaps, reverse=True
    )


async def test_nothing_is_known_of_what_never_was() -> None:
    """Neither active, nor remembered, nor written."""
    async with serving(ScriptedTransport()) as engine:
        with pytest.raises(NotFound):
            await engine.explain(TxnId("t9"))


async def test_what_is_over_keeps_no_operation() -> None:
    """What is remembered for operators is small, and holds nothing of what was asked for."""
    async with serving(ScriptedTransport()) as engine:
        await pay(engine)
        (finished,) = engine._finished
        assert {} == finished.operations
        assert timeline.FINISHED_MAX == engine._finished.maxlen


@pytest.mark.parametrize(
    ("reply", "name", "alarm"),
    [
        (Busy("TRADE_PAYING"), "TRADE_PAYING", False),
        (Refused("NO"), "NO", False),
        (GONE, "DEADLINE_EXCEEDED", False),
        (Unreachable("x" * 1000), "x" * ERROR_NAME_CHARS_MAX, False),
        (UnknownBranch("the text of another, which may be anything"), "UnknownBranch", True),
        (Overloaded("20000 pieces of work wait"), "Overloaded", False),
        (VoteReply(Vote.READ_ONLY), "NO_ANSWER", False),
        (None, "NO_ANSWER", False),
    ],
)
def test_a_failure_has_a_name(reply: Reply, name: str, alarm: bool) -> None:
    """It is short, and not the text of an error."""
    assert Failure(name, alarm) == failure_of(reply)


def test_what_is_too_much_goes_from_the_middle() -> None:
    """The beginning and the newest stay."""
    moments: list[Moment] = [(float(at), Mark.RESUMED, "", 0) for at in range(MOMENTS_MAX + 3)]
    assert 3 == trim(moments)
    assert 0 == trim(moments)
    kept = [at_s for at_s, *_ in moments]
    assert [*range(MOMENTS_FIRST_MAX), *range(MOMENTS_FIRST_MAX + 3, MOMENTS_MAX + 3)] == kept


def test_the_last_failure_is_of_that_branch() -> None:
    """Others do not count, nor what was answered; of what was sent the last number does."""
    moments: list[Moment] = [
        (1.0, Prepare, "a", 0),
        (2.0, Failure("OLD", alarm=False), "a", 0),
        (3.0, Commit, "a", 0),
        (4.0, Failure("NEW", alarm=True), "a", 0),
        (5.0, Commit, "a", 1),
        (6.0, Commit, "b", 4),
        (7.0, Mark.GIVEN_UP, "a", 0),
        (8.0, Settled(TWO[0].branch_id), "", 0),
    ]
    assert (Failure("NEW", alarm=True), 2) == last_failure(moments, "a")
    assert (None, 5) == last_failure(moments, "b")
    assert (None, 0) == last_failure(moments, "c")


def test_entries_are_in_the_order_of_their_times() -> None:
    """One without a time stays behind the one before it."""
    first, second, unknown, third = (
        Entry(1, Happening.BEGUN),
        Entry(2, Happening.OUTCOME_DURABLE),
        Entry(None, Happening.END_DURABLE),
        Entry(3, Happening.FORCED),
    )
    assert [first, second, unknown, third] == in_order([second, unknown, third, first])
