"""Taking up commits whose end is not in the log."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.support.waiting import eventually
from tests.txn.helpers import (
    CALLER,
    WAIT_S,
    Gate,
    ScriptedTransport,
    commit_row,
    coordinator,
    decide,
    inquire,
    serving,
    start,
)
from txn import recovery
from txn.errors import Unreachable
from txn.model import NO_EPOCH, Decision, Epoch, TxnId
from txn.recovery import recover
from txn.state import Outcome, TransactionState, Vote
from txn.testing import MemoryDecisionLog, MemoryStore

ROW = commit_row("t1", ("order", Vote.COMMIT), ("ledger", Vote.COMMIT))


async def log_with(*rows: Decision) -> MemoryDecisionLog:
    """A log that a coordinator left behind."""
    log = MemoryDecisionLog(MemoryStore())
    for row in rows:
        await decide(log, row)
    return log


async def test_unfinished_commits_are_sent_again() -> None:
    """Phase two starts by itself, without anybody asking."""
    transport = ScriptedTransport()
    log = await log_with(ROW)
    engine = coordinator(transport, log, first_txn=2)
    count = await start(engine)
    await eventually(lambda: transport.sent("commit") == {"order", "ledger"})
    await engine.close(WAIT_S)
    assert (1, set()) == (count, transport.sent("prepare"))


async def test_a_read_only_branch_is_not_told() -> None:
    """Recovery tells those that hold something; the others would not know what it is about."""
    transport = ScriptedTransport()
    log = await log_with(commit_row("t1", ("order", Vote.READ_ONLY), ("ledger", Vote.COMMIT)))
    engine = coordinator(transport, log)
    await start(engine)
    await engine.close(WAIT_S)
    assert {"ledger"} == transport.sent("commit")


async def test_a_commit_with_nobody_to_tell_ends() -> None:
    """All read-only: only the end is missing, and it is written."""
    log = await log_with(commit_row("t1", ("order", Vote.READ_ONLY)))
    async with serving(ScriptedTransport(), log, first_txn=2) as engine:
        await inquire(engine, "unrelated")
        unfinished = await engine.list_transactions(after="", limit=9, unfinished_only=True)
    assert [] == unfinished


async def test_a_retry_joins_what_recovery_took_up() -> None:
    """The key finds the commit while it is being applied again."""
    transport = ScriptedTransport()
    gate = Gate()
    transport.on("commit", "ledger", gate)
    row = commit_row("t1", ("order", Vote.COMMIT), ("ledger", Vote.COMMIT))
    async with serving(transport, await log_with(row), first_txn=2) as engine:
        view = await engine.get_by_key(CALLER, "k")
        asked = await inquire(engine, "t1")
        gate.opened.set()
    assert (TransactionState.COMMITTING, Outcome.COMMITTED) == (view.state, view.outcome)
    assert Outcome.COMMITTED is asked


async def test_recovery_is_re_entrant() -> None:
    """Stopped in the middle three times, it does the same again until it is through."""
    log = await log_with(ROW)
    for _ in range(3):
        stuck = ScriptedTransport()
        stuck.always["commit", "ledger"] = Unreachable("gone")
        assert 1 == await _run_until_told(stuck, log, grace_s=0)
    assert 1 == await _run_until_told(ScriptedTransport(), log, grace_s=WAIT_S)
    await decide(log, commit_row("t2", idempotency_key="forces the end of t1"))
    unfinished = await log.list_decisions(after="", limit=9, unfinished_only=True)
    assert ["t2"] == [decision.txn_id for decision in unfinished]


async def _run_until_told(
    transport: ScriptedTransport, log: MemoryDecisionLog, grace_s: float
) -> int:
    engine = coordinator(transport, log)
    count = await start(engine)
    await eventually(lambda: transport.sent("commit") == {"order", "ledger"})
    await engine.close(grace_s)
    return count


async def test_aborts_and_ended_commits_need_nothing() -> None:
    """Presumed abort: only commits are taken up."""
    abort = Decision(TxnId("t2"), Outcome.ABORTED, None, (), decided_at_us=1, ended=True)
    transport = ScriptedTransport()
    engine = coordinator(transport, await log_with(abort))
    assert 0 == await start(engine)
    await engine.close(grace_s=0)
    assert [] == transport.calls


class Paged(MemoryDecisionLog):
    """A log that notes how many rows it gave at once."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.given: list[int] = []

    async def list_decisions(
        self, *, after: str, limit: int, unfinished_only: bool = False
    ) -> Sequence[Decision]:
        """See DecisionLog.list_decisions."""
        page = await super().list_decisions(
            after=after, limit=limit, unfinished_only=unfinished_only
        )
        self.given.append(len(page))
        return page


async def test_more_than_a_page_is_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every unfinished commit is taken up once, page by page, whatever their ids begin with."""
    monkeypatch.setattr(recovery, "RECOVERY_PAGE", 2)
    names = [*(f"0{number}" for number in range(2)), *(f"t{number}" for number in range(3))]
    log = Paged()
    for name in names:
        await decide(log, commit_row(name, ("order", Vote.COMMIT), idempotency_key=name))
    seen: list[Decision] = []
    assert 5 == await recover(log, frozenset({NO_EPOCH}), seen.append)
    assert names == [decision.txn_id for decision in seen]
    assert [2, 2, 1, 0] == log.given


async def test_what_another_epoch_has_begun_is_left_to_it() -> None:
    """A coordinator that lives goes on with its own, whoever starts beside it."""
    log = await log_with(
        commit_row("t1.1", ("order", Vote.COMMIT), idempotency_key="k1"),
        commit_row("t2.2", ("order", Vote.COMMIT), idempotency_key="k2"),
        commit_row("t3.1", ("order", Vote.COMMIT), idempotency_key="k3"),
    )
    seen: list[Decision] = []
    assert 1 == await recover(log, frozenset({Epoch(2)}), seen.append)
    assert ["t2.2"] == [decision.txn_id for decision in seen]
