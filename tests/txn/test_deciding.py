"""The coordinator's writes: outcomes that gather, outcomes that fail, and ends that ride along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from random import Random

import pytest
import pytest_asyncio

from tests.support.waiting import eventually
from tests.txn.helpers import CALLER, FastClock, decide, turns
from tests.txn.support import open_sqlite
from txn import protocol
from txn.clock import Backoff, SteadyUtc
from txn.crash_point import AFTER_DECISION, BEFORE_DECISION
from txn.deciding import Decider
from txn.decision_log import DecisionLog
from txn.errors import Overloaded, StoreFull, TxnError
from txn.lane import Happened
from txn.model import BranchId, Decision, RequestKey, TxnId
from txn.state import Outcome
from txn.store import sqlite
from txn.store.sql_log import SqlDecisionLog
from txn.testing import MemoryDecisionLog, MemoryStore
from txn.transaction import Transaction

B = BranchId("a")
STANDS = {outcome: protocol.OutcomeStands(outcome) for outcome in Outcome}


class WatchedLog(MemoryDecisionLog):
    """A log that notes its calls, and refuses some rows as often as it is told to."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.calls: list[list[str]] = []
        self.refusals: dict[str, list[TxnError]] = {}
        self.end_error: TxnError | None = None

    async def decide_all(self, decisions: Sequence[Decision]) -> Sequence[Decision | TxnError]:
        """Writes those that it does not refuse."""
        self.calls.append([decision.txn_id for decision in decisions])
        errors = {
            decision.txn_id: self.refusals[decision.txn_id].pop()
            for decision in decisions
            if self.refusals.get(decision.txn_id)
        }
        rows = iter(await super().decide_all([d for d in decisions if d.txn_id not in errors]))
        return [errors.get(each.txn_id) or next(rows) for each in decisions]

    def end_all(self, txn_ids: Sequence[TxnId], durable: Callable[[], None]) -> None:
        """Queues them, unless it has an error to raise."""
        if self.end_error is not None:
            raise self.end_error
        super().end_all(txn_ids, durable)


class Rig:
    """A decider over a log, and what it has told."""

    def __init__(self, log: DecisionLog) -> None:
        self.log = log
        self.happened: list[tuple[str, protocol.Event]] = []
        self.deliveries = 0
        self.ended: list[list[str]] = []
        self.crash_points: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()
        clock = FastClock()
        self.decider = Decider(
            log,
            retry=Backoff(initial_s=0.05, max_s=1.0),
            clock=clock,
            utc=SteadyUtc(clock),
            rng=Random(1),
            crash_point=self.crash_points.append,
            spawn=self._spawn,
            deliver=self._deliver,
            ended=lambda those: self.ended.append([each.txn_id for each in those]),
        )

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _deliver(self, happened: Sequence[Happened]) -> None:
        self.deliveries += 1
        self.happened += [(transaction.txn_id, event) for transaction, event in happened]

    def decide(
        self, txn_id: str, outcome: Outcome = Outcome.COMMITTED, key: str = ""
    ) -> Transaction:
        """One outcome to write, under a key of the same name unless it has another."""
        request = RequestKey(CALLER, key or txn_id, b"body")
        progress, _ = protocol.begin([B])
        transaction = Transaction(TxnId(txn_id), request, {B: "p"}, {}, progress)
        self.decider.decide(transaction, outcome)
        return transaction

    async def force(self) -> None:
        """A force of the log, so that what rides along is durable."""
        await decide(self.log, Decision(TxnId("force"), Outcome.ABORTED, None, (), 1, ended=True))
        await turns()

    async def stop(self) -> None:
        """Nothing is left running."""
        for task in tuple(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class MemoryRig(Rig):
    """The same over a log in memory that notes its calls."""

    def __init__(self) -> None:
        self.watched = WatchedLog(MemoryStore())
        super().__init__(self.watched)


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[MemoryRig]:
    """A decider over a log in memory."""
    rig = MemoryRig()
    yield rig
    await rig.stop()


async def test_what_gathers_in_a_turn_is_one_call(rig: MemoryRig) -> None:
    """Commits and aborts of one turn go to the log together, and are told together."""
    rig.decide("t1")
    rig.decide("t2", Outcome.ABORTED)
    rig.decide("t3")
    await eventually(lambda: rig.happened)
    assert ([["t1", "t2", "t3"]], 1) == (rig.watched.calls, rig.deliveries)
    expected = {
        "t1": STANDS[Outcome.COMMITTED],
        "t2": STANDS[Outcome.ABORTED],
        "t3": STANDS[Outcome.COMMITTED],
    }
    assert expected == dict(rig.happened)


async def test_nothing_is_told_before_it_stands(rig: MemoryRig) -> None:
    """The transaction knows its outcome, and its coordinator hears of it, after the force."""
    transaction = rig.decide("t1")
    await asyncio.sleep(0)
    assert (None, []) == (transaction.stands, rig.happened)
    await eventually(lambda: rig.happened)
    assert await rig.log.by_txn_id(TxnId("t1")) == transaction.stands
    assert [BEFORE_DECISION, AFTER_DECISION] == rig.crash_points


async def test_what_fails_is_tried_again_alone(rig: MemoryRig) -> None:
    """The others are told at once; nobody is told twice."""
    rig.watched.refusals["t2"] = [StoreFull("full"), StoreFull("full")]
    for txn_id in ("t1", "t2", "t3"):
        rig.decide(txn_id)
    await eventually(lambda: len(rig.happened) == 3)
    assert 2 == rig.deliveries
    assert [["t1", "t2", "t3"], ["t2"], ["t2"]] == rig.watched.calls
    assert ["t1", "t3", "t2"] == [txn_id for txn_id, _ in rig.happened]


async def test_one_that_is_tried_again_does_not_hold_up_later_ones(rig: MemoryRig) -> None:
    """What comes meanwhile goes to the log in a call of its own."""
    rig.watched.refusals["t1"] = [StoreFull("full")] * 100_000
    rig.decide("t1")
    await eventually(lambda: len(rig.watched.calls) > 2)
    rig.decide("t2")
    await eventually(lambda: rig.happened)
    assert [("t2", STANDS[Outcome.COMMITTED])] == rig.happened


async def test_the_row_that_stands_rules(rig: MemoryRig) -> None:
    """Who loses its key to another transaction is aborted, and knows to whom."""
    await decide(
        rig.log, Decision(TxnId("t0"), Outcome.COMMITTED, RequestKey(CALLER, "k", b"body"), (), 1)
    )
    loser = rig.decide("t1", key="k")
    await eventually(lambda: rig.happened)
    assert [("t1", STANDS[Outcome.ABORTED])] == rig.happened
    winner = loser.lost_to()
    assert winner is not None
    assert "t0" == winner.txn_id


async def test_an_abort_that_came_first_rules(rig: MemoryRig) -> None:
    """A commit finds the abort that an inquiry has written in its way."""
    await decide(rig.log, Decision(TxnId("t1"), Outcome.ABORTED, None, (), 1, ended=True))
    rig.decide("t1")
    await eventually(lambda: rig.happened)
    assert [("t1", STANDS[Outcome.ABORTED])] == rig.happened


async def test_ends_ride_along(rig: MemoryRig) -> None:
    """They force nothing; what depends on them is told with the next force, all at once."""
    transactions = [rig.decide(name) for name in ("t1", "t2")]
    await eventually(lambda: rig.happened)
    for transaction in transactions:
        rig.decider.end(transaction)
    await turns()
    assert [] == rig.ended
    await rig.force()
    assert [["t1", "t2"]] == rig.ended
    row = await rig.log.by_txn_id(TxnId("t1"))
    assert row is not None
    assert row.ended


async def test_an_end_that_is_not_queued_is_no_end(rig: MemoryRig) -> None:
    """The transaction counts as unfinished, and the next ones are not affected."""
    first, second = rig.decide("t1"), rig.decide("t2")
    await eventually(lambda: rig.happened)
    rig.watched.end_error = Overloaded("many")
    rig.decider.end(first)
    await turns()
    rig.watched.end_error = None
    rig.decider.end(second)
    await turns()
    await rig.force()
    assert [["t2"]] == rig.ended
    unfinished = await rig.log.list_decisions(after="", limit=9, unfinished_only=True)
    assert ["t1"] == [row.txn_id for row in unfinished]


async def test_without_room_a_refusal_does_not_hold_up_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What frees holds may use the room kept back; an abort under a key waits for more."""
    async with open_sqlite(tmp_path / "s.db") as store:
        rig = Rig(SqlDecisionLog(store))
        monkeypatch.setattr(sqlite, "FREE_SPACE_RESERVE_BYTES", 1 << 62)
        rig.decide("t1", Outcome.ABORTED)
        rig.decide("t2")
        rig.decide("t3", Outcome.ABORTED)
        rig.decide("t4")
        await eventually(lambda: len(rig.happened) == 2)
        assert {"t2", "t4"} == {txn_id for txn_id, _ in rig.happened}
        assert None is await rig.log.by_txn_id(TxnId("t1"))
        monkeypatch.undo()
        await eventually(lambda: len(rig.happened) == 4)
        assert {"t1", "t2", "t3", "t4"} == {txn_id for txn_id, _ in rig.happened}
        await rig.stop()
