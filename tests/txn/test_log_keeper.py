"""What is over leaves the decision log when its key need not be known any more."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from tests.support.waiting import eventually
from tests.txn.helpers import (
    CALLER,
    TWO,
    WAIT_S,
    FastClock,
    Gate,
    ManualClock,
    ScriptedTransport,
    commit_row,
    coordinator,
    decide,
    goes_on_after_errors,
    inquire,
    serving,
    start,
    turns,
)
from tests.txn.store.truncator import STEP
from tests.txn.support import open_sqlite
from txn.coordinator import Coordinator
from txn.decision_log import Truncated
from txn.errors import IdempotencyConflict, NotFound, TooOld
from txn.log_keeper import LogKeeper, LogKeeperConfig
from txn.model import Branch, Decision, TxnId
from txn.state import Outcome, Vote
from txn.store.group_commit import PATIENCE_S
from txn.store.sql_log import SqlDecisionLog
from txn.testing import MemoryDecisionLog, MemoryStore
from txn.transaction import Result

DAY_S = 24 * 3_600
WEEK_S = 7 * DAY_S
Log = MemoryDecisionLog | SqlDecisionLog


@pytest.fixture(params=["memory", "sqlite"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Log]:
    """An empty log of either kind."""
    if request.param == "memory":
        yield MemoryDecisionLog(MemoryStore())
        return
    async with open_sqlite(tmp_path / "c.db") as store:
        yield SqlDecisionLog(store, FastClock())


def keeper(log: Log, clock: FastClock, age_s: float = 0.0, **config: float) -> LogKeeper:
    """One that looks when `age_s` have passed since the clock was made."""
    clock.utc += int(age_s * 1_000_000)
    settings = LogKeeperConfig(**config)  # type: ignore[arg-type]
    return LogKeeper(log, clock=clock, rng=Random(1), config=settings)


async def pay(
    engine: Coordinator, idempotency_key: str = "k", branches: Sequence[Branch] = TWO
) -> Result:
    """One transaction, over two branches unless said otherwise."""
    return await engine.execute(
        caller=CALLER, idempotency_key=idempotency_key, branches=branches, wait_s=WAIT_S
    )


async def ended(log: Log, *txn_ids: str) -> None:
    """Returns when the ends of these are durable."""
    wanted = {TxnId(each) for each in txn_ids}

    async def durable() -> bool:
        # A force, for the ends to ride along with.
        await decide(log, Decision(TxnId("t0"), Outcome.ABORTED, None, (), 0, ended=True))
        return await log.ended(sorted(wanted)) == wanted

    await eventually(durable)


async def test_a_key_answers_its_outcome_until_the_retention_is_over(log: Log) -> None:
    """A day short of it a retry has no second effect; afterwards the key is a new one."""
    clock = FastClock()
    transport = ScriptedTransport()
    async with serving(transport, log, clock=clock) as engine:
        first = await pay(engine)
        transport.on("prepare", "ledger", Vote.ABORT)
        refused = await pay(engine, "refused")
        await ended(log, first.txn_id)
        assert 1 == await keeper(log, clock, WEEK_S - DAY_S).sweep()  # t0
        assert (first, refused) == (await pay(engine), await pay(engine, "refused"))
        with pytest.raises(IdempotencyConflict):
            await engine.execute(
                caller=CALLER, idempotency_key="k", branches=TWO[:1], wait_s=WAIT_S
            )
        assert 2 == await keeper(log, clock, 2 * DAY_S).sweep()
        with pytest.raises(NotFound):
            await engine.get_by_key(CALLER, "k")
        again = await pay(engine)
        assert (Outcome.COMMITTED, True) == (again.outcome, again.txn_id > refused.txn_id)


async def test_what_has_no_end_is_never_truncated(log: Log) -> None:
    """A commit that somebody has not acknowledged stays, however old, and is recovered."""
    transport = ScriptedTransport()
    clock = FastClock()
    transport.always["commit", "ledger"] = Gate()
    async with serving(transport, log, clock=clock) as engine:
        running = asyncio.ensure_future(pay(engine))
        await eventually(lambda: transport.count("commit", "ledger"))
        assert 0 == await keeper(log, clock, 2 * WEEK_S).sweep()
        running.cancel()
    after = ScriptedTransport()
    engine = coordinator(after, log, first_txn=2)
    assert 1 == await start(engine)
    assert Outcome.COMMITTED is (await pay(engine)).outcome
    await engine.close(WAIT_S)
    assert {"order", "ledger"} == after.sent("commit")


async def test_an_inquiry_is_never_told_of_an_abort_from_truncated_rows(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    """Of what may have been committed nothing is said, and somebody hears of it."""
    clock = FastClock()
    async with serving(ScriptedTransport(), log, clock=clock) as engine:
        paid = await pay(engine)
        await ended(log, paid.txn_id)
        assert 2 == await keeper(log, clock, 2 * WEEK_S).sweep()
        for _ in range(2):
            with pytest.raises(TooOld):
                await inquire(engine, paid.txn_id)
        assert "ALARM" in caplog.text
        assert Outcome.ABORTED is await inquire(engine, "t2")
    assert [] == [row for row in await log.list_decisions(after="", limit=9) if row.txn_id < "t2"]


async def test_ids_ascend_beyond_what_was_truncated(log: Log) -> None:
    """A log that lost all its rows still says where the next coordinator has to begin."""
    await decide(log, replace(commit_row("t7", ("ledger", Vote.COMMIT)), ended=True))
    assert 1 == await keeper(log, FastClock()).sweep()
    assert "t7" == await log.newest_txn_id()


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 24, 25])
async def test_steps_leave_nothing_out(log: Log, count: int) -> None:
    """However many rows there are and wherever steps end, all go that may, and no others."""
    rows = [
        replace(
            commit_row(f"t{number:03}", ("ledger", Vote.COMMIT), idempotency_key=f"k{number}"),
            ended=number % 5 != 3,
        )
        for number in range(count)
    ]
    for row in rows:
        await decide(log, row)
    staying = [row for row in rows if not row.ended]
    sweep = keeper(log, FastClock(), rows_per_step=8).sweep()
    assert count - len(staying) == await sweep
    assert staying == list(await log.list_decisions(after="", limit=99))


async def test_a_step_is_as_small_as_was_said(tmp_path: Path) -> None:
    """Between two steps there is a pause, so that who pays has the store to himself."""
    clock = ManualClock()
    async with open_sqlite(tmp_path / "c.db") as store:
        log = SqlDecisionLog(store, FastClock())
        for number in range(5):
            row = commit_row(f"t{number}", ("ledger", Vote.COMMIT), idempotency_key=f"k{number}")
            await decide(log, replace(row, ended=True))
        sweep = asyncio.ensure_future(keeper(log, clock, rows_per_step=2, pause_s=0.5).sweep())
        for left in (3, 1):

            async def paused(left: int = left) -> bool:
                return left == len(await log.list_decisions(after="", limit=9)) and bool(
                    clock.sleeps
                )

            await eventually(paused)
            await turns()
            assert left == len(await log.list_decisions(after="", limit=9))
            await clock.advance(0.5)
        assert 5 == await sweep


async def test_a_step_rides_with_a_force_that_goes_anyway(tmp_path: Path) -> None:
    """It goes with the group of who writes, and waits for that as long as it has patience."""
    clock = ManualClock()
    async with open_sqlite(tmp_path / "c.db") as store:
        log = SqlDecisionLog(store, clock)
        row = replace(commit_row("t1", ("ledger", Vote.COMMIT)), ended=True)
        await decide(log, row)
        step = asyncio.ensure_future(log.truncate(after="", limit=9, before_us=2))
        await eventually(lambda: clock.sleeps)
        await turns()
        assert not step.done()
        young = replace(row, txn_id=TxnId("t2"), request=None, decided_at_us=5)
        await decide(log, young)
        assert Truncated(1, None) == await step
        step = asyncio.ensure_future(log.truncate(after="", limit=9, before_us=6))
        await eventually(lambda: clock.sleeps)
        await clock.advance(PATIENCE_S)
        assert Truncated(1, None) == await step


async def test_a_clock_set_forward_makes_nothing_old(log: Log) -> None:
    """While a coordinator runs, only time that has passed counts."""
    clock = FastClock()
    row = replace(
        commit_row("t1", ("ledger", Vote.COMMIT)), ended=True, decided_at_us=clock.utc_us()
    )
    await decide(log, row)
    running = keeper(log, clock)
    clock.utc += 2 * WEEK_S * 1_000_000
    assert 0 == await running.sweep()


@pytest.mark.parametrize(
    "off_s",
    [-8 * DAY_S, -50 * 365 * DAY_S, 8 * DAY_S],
    ids=["days behind", "at the epoch", "days ahead"],
)
async def test_a_clock_that_was_wrong_at_one_start_makes_nothing_old_at_the_next(
    log: Log, caplog: pytest.LogCaptureFixture, off_s: int
) -> None:
    """Keys of before, of meanwhile and of afterwards are known for the whole retention."""
    paid: list[Result] = []
    alone: list[Result] = []
    for number, wrong_s in enumerate((0, off_s, 0)):
        clock = FastClock()
        # A day passes from start to start.
        clock.utc += (number * DAY_S + wrong_s) * 1_000_000
        transport = ScriptedTransport()
        transport.one_phase = True
        engine = coordinator(transport, log, first_txn=2 * number + 1, clock=clock)
        await start(engine)
        paid.append(await pay(engine, f"k{number}"))
        alone.append(await pay(engine, f"alone{number}", TWO[:1]))
        await engine.close(WAIT_S)
    assert "s behind the newest outcome of the log" in caplog.text
    assert 0 == await keeper(log, clock, 2 * DAY_S).sweep()
    async with serving(ScriptedTransport(), log, clock=clock, first_txn=9) as engine:
        assert paid == [await pay(engine, f"k{number}") for number in range(3)]
        assert alone == [await pay(engine, f"alone{number}", TWO[:1]) for number in range(3)]
        await ended(log, *(each.txn_id for each in (*paid, *alone)))
    left = [row.txn_id for row in await log.list_decisions(after="", limit=9)]
    gone = await keeper(log, clock, 2 * WEEK_S).sweep()
    assert (len(left), 0) == (gone, len(await log.list_decisions(after="", limit=9)))


async def test_run_goes_on_after_errors() -> None:
    """Whatever a pass runs into, the next one comes."""
    await goes_on_after_errors(keeper(MemoryDecisionLog(MemoryStore()), FastClock()))


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_in_a_step_takes_rows_and_what_is_known_of_them_together(
    tmp_path: Path, when: str
) -> None:
    """Killed on either side of a step's COMMIT: no row is half gone, no answer is wrong."""
    path = tmp_path / "c.db"
    names = [f"t{number:03}" for number in range(4 * STEP)]
    async with open_sqlite(path) as store:
        log = SqlDecisionLog(store)
        for name in names:
            row = commit_row(name, ("ledger", Vote.COMMIT), idempotency_key=name)
            await decide(log, replace(row, ended=True))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.txn.store.truncator", str(path), when
    )
    assert -signal.SIGKILL == await asyncio.wait_for(process.wait(), 30)
    left = names[STEP:] if when == "before" else names[2 * STEP :]
    async with open_sqlite(path) as store:
        log = SqlDecisionLog(store, FastClock())
        assert left == [row.txn_id for row in await log.list_decisions(after="", limit=99)]
        asked = [Decision(TxnId(name), Outcome.ABORTED, None, (), 1, ended=True) for name in names]
        stand = await log.decide_all(asked)
        gone = len(names) - len(left)
        assert all(isinstance(row, TooOld) for row in stand[:gone])
        assert [Outcome.COMMITTED] * len(left) == [
            row.outcome for row in stand[gone:] if isinstance(row, Decision)
        ]
        assert len(left) == await keeper(log, FastClock()).sweep()
        assert names[-1] == await log.newest_txn_id()
    with sqlite3.connect(path) as connection:
        assert ("ok",) == connection.execute("PRAGMA integrity_check").fetchone()
