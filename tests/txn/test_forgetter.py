"""Branches that are over are forgotten, also where the word that they may be was lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tallystick.txn.v1 import coordinator_service_pb2, coordinator_service_pb2_grpc

from tests.txn.helpers import (
    FastClock,
    ScriptedTransport,
    commit_row,
    decide,
    goes_on_after_errors,
    key,
    prepare,
    serving,
)
from tests.txn.participant_rig import KINDS, Rig, kind_id, open_rig
from tests.txn.rpc.rig import TIMEOUT_S, Answers, Without, details, failed, served
from txn.coordinator import Coordinator
from txn.errors import Unreachable
from txn.forgetter import Forgetter, ForgetterConfig
from txn.log_keeper import LogKeeper
from txn.model import Batch, Commit, Ended, TxnId
from txn.participant import LATE_PREPARE
from txn.rpc import CoordinatorServicer, GrpcCoordinatorTransport
from txn.state import BranchState, Outcome, Vote
from txn.testing import MemoryDecisionLog, MemoryStore


class Oracle:
    """A coordinator that says what a test has told it."""

    def __init__(self, *ended: str, horizon: str | None = "t5-x") -> None:
        self.ended_ids = frozenset(TxnId(each) for each in ended)
        self.horizon = None if horizon is None else TxnId(horizon)
        self.asked: list[tuple[str, list[str]]] = []
        self.error: Exception | None = None

    async def ended(self, coordinator: str, txn_ids: Sequence[TxnId], timeout_s: float) -> Ended:
        """See EndedTransport."""
        self.asked.append((coordinator, list(txn_ids)))
        if self.error is not None:
            raise self.error
        return Ended(self.ended_ids & set(txn_ids), self.horizon)


@pytest.fixture(params=KINDS, ids=kind_id)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """A participant of each kind."""
    async with open_rig(request.param, tmp_path) as rig:
        yield rig


def forgetter(rig: Rig, oracle: Oracle, age_s: float = 120.0, **config: float) -> Forgetter:
    """One that looks `age_s` after everything was prepared."""
    clock = FastClock()
    clock.utc += int(age_s * 1_000_000)
    settings = ForgetterConfig(**config)  # type: ignore[arg-type]
    return Forgetter(rig.participant, oracle, clock=clock, rng=Random(1), config=settings)


async def committed(rig: Rig, *txn_ids: str) -> None:
    """These branches, prepared and committed."""
    for txn_id in txn_ids:
        await rig.participant.prepare(prepare(txn_id))
        await rig.participant.commit(key(txn_id))


async def left(rig: Rig) -> list[str]:
    """What is remembered."""
    rows = await rig.participant.list_branches(after=None, limit=999, state=None)
    return [row.key.txn_id for row in rows]


async def test_what_has_ended_is_forgotten_and_nothing_else(rig: Rig) -> None:
    """Neither what is in doubt, nor a commit of which the coordinator does not say so."""
    await committed(rig, "t1-x", "t2-x", "t3-x")
    await rig.participant.prepare(prepare("t0-x"))
    oracle = Oracle("t0-x", "t1-x", "t3-x")
    assert 2 == await forgetter(rig, oracle).sweep()
    assert ["t0-x", "t2-x"] == await left(rig)
    assert [("coordinator", ["t1-x", "t2-x", "t3-x"])] == oracle.asked
    assert BranchState.PREPARED is (await rig.participant.get(key("t0-x"))).state


async def test_a_prepare_of_what_is_forgotten_is_late(rig: Rig) -> None:
    """The horizon is written down with what goes: nothing is reserved a second time."""
    await committed(rig, "t1-x")
    await forgetter(rig, Oracle("t1-x")).sweep()
    reply = await rig.participant.prepare(prepare("t1-x"))
    assert (Vote.ABORT, LATE_PREPARE) == (reply.vote, reply.reason)
    assert 1 == (await rig.effects())["prepare"]


async def test_without_a_horizon_nothing_is_forgotten(rig: Rig) -> None:
    """A late prepare would find nothing in its way."""
    await committed(rig, "t1-x")
    assert 0 == await forgetter(rig, Oracle("t1-x", horizon=None)).sweep()
    assert ["t1-x"] == await left(rig)


async def test_aborts_below_the_horizon_go_too(rig: Rig) -> None:
    """All of them, a few at a time, although nobody names them."""
    names = [f"a{number:03}-x" for number in range(150)]
    for name in names:
        await rig.participant.abort(key(name))
    await rig.participant.abort(key("t9-x"))
    assert 150 == await forgetter(rig, Oracle()).sweep()
    assert ["t9-x"] == await left(rig)


async def test_where_nothing_is_over_nobody_is_asked(rig: Rig) -> None:
    """An idle participant costs its coordinator nothing."""
    await rig.participant.prepare(prepare("t1-x"))
    oracle = Oracle()
    assert 0 == await forgetter(rig, oracle).sweep()
    assert [] == oracle.asked


async def test_young_branches_are_left_alone(rig: Rig) -> None:
    """Word of them is on its way, with a batch."""
    await committed(rig, "t1-x")
    oracle = Oracle("t1-x")
    assert 0 == await forgetter(rig, oracle, age_s=59.0).sweep()
    assert [] == oracle.asked


@pytest.mark.parametrize("error", [Unreachable("gone"), RuntimeError("a defect")], ids=str)
async def test_without_an_answer_nothing_is_forgotten(rig: Rig, error: Exception) -> None:
    """What was not said was not said."""
    await committed(rig, "t1-x")
    oracle = Oracle("t1-x")
    oracle.error = error
    assert 0 == await forgetter(rig, oracle).sweep()
    assert ["t1-x"] == await left(rig)


@pytest.mark.parametrize("count", [1, 3, 4, 7])
async def test_small_steps_leave_nothing_out(rig: Rig, count: int) -> None:
    """Each question names no more than it may, and all get their turn."""
    names = [f"t{number}-x" for number in range(count)]
    await committed(rig, *names)
    oracle = Oracle(*names, horizon="t9-x")
    assert count == await forgetter(rig, oracle, rows_per_step=3).sweep()
    assert names == [name for _, asked in oracle.asked for name in asked]
    assert 3 >= max(len(asked) for _, asked in oracle.asked)
    assert [] == await left(rig)


async def test_run_goes_on_after_errors(rig: Rig) -> None:
    """Whatever a pass runs into, the next one comes."""
    await goes_on_after_errors(forgetter(rig, Oracle()))


async def log_of(*rows: str) -> MemoryDecisionLog:
    """A log with commits that have ended; those named `open...` have not."""
    log = MemoryDecisionLog(MemoryStore())
    for name in rows:
        await decide(log, commit_row(name, ("ledger", Vote.COMMIT), idempotency_key=name))
    marked = asyncio.Event()
    log.end_all([TxnId(name) for name in rows if "open" not in name], marked.set)
    await decide(log, commit_row("t", ("ledger", Vote.COMMIT), idempotency_key="t"))
    await marked.wait()
    return log


async def ended(engine: Coordinator, *txn_ids: str) -> Ended:
    """What an engine answers."""
    return await engine.ended([TxnId(each) for each in txn_ids])


async def test_a_coordinator_says_what_has_ended_for_good() -> None:
    """Neither what is driven still, nor what it has never heard of, nor what is not below."""
    transport = ScriptedTransport()
    transport.always["commit", "ledger"] = Unreachable("away")
    log = await log_of("t1", "t2open", "t3", "t4")
    async with serving(transport, log) as engine:
        answer = await ended(engine, "t1", "t2open", "t3", "t4", "s9")
    assert Ended(frozenset({TxnId("t1"), TxnId("t3")}), TxnId("t4")) == answer


async def test_what_was_truncated_had_ended() -> None:
    """A participant that was away for longer than the log remembers can still forget."""
    log = await log_of("t1", "t2", "t3")
    clock = FastClock()
    clock.utc += 10**15
    await LogKeeper(log, clock=clock, rng=Random(1)).sweep()
    async with serving(ScriptedTransport(), log) as engine:
        answer = await ended(engine, "t1", "t2", "t3")
    assert Ended(frozenset({TxnId("t1"), TxnId("t2")}), TxnId("t3")) == answer


async def test_another_logs_transactions_are_not_known() -> None:
    """Nothing can be said here of what is decided there, also not below what is truncated here."""
    log = MemoryDecisionLog(MemoryStore())
    await log.identity("-x")
    for name in ("t4-x", "t5-x"):
        row = commit_row(name, ("ledger", Vote.COMMIT), idempotency_key=name)
        await decide(log, replace(row, ended=True))
    assert (1, "t4-x") == await log.truncate(after="", limit=1, before_us=row.decided_at_us + 1)
    async with serving(ScriptedTransport(), log) as engine:
        answer = await ended(engine, "t1-x", "t1-y", "t4-y", "t5-y")
    assert Ended(frozenset({TxnId("t1-x")}), TxnId("t5-x")) == answer


async def test_over_the_wire() -> None:
    """The answer travels; a rule broken, and a coordinator of an older release, are errors."""
    log = await log_of("t1", "t2", "t3")
    async with serving(ScriptedTransport(), log) as engine:

        def add(server: object) -> None:
            coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(
                CoordinatorServicer(engine),
                server,  # type: ignore[arg-type]
            )

        async with served(add) as channel:
            transport = GrpcCoordinatorTransport(lambda name: channel)
            answer = await transport.ended("c", [TxnId("t1"), TxnId("zz")], TIMEOUT_S)
            assert Ended(frozenset({TxnId("t1")}), TxnId("t3")) == answer
        async with served(add, interceptors=[Without("FilterEnded")]) as channel:
            transport = GrpcCoordinatorTransport(lambda name: channel)
            with pytest.raises(Unreachable, match="UNIMPLEMENTED"):
                await transport.ended("c", [TxnId("t1")], TIMEOUT_S)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prepare_horizon": "t 1"},
        {"prepare_horizon": "t" * 65},
        {"prepare_horizon": "t9", "ended_txn_ids": [""]},
    ],
    ids=str,
)
async def test_an_answer_that_breaks_a_rule_is_none(wrong: dict[str, Any]) -> None:
    """Nothing is forgotten on the word of who does not keep to the proto."""
    answer = coordinator_service_pb2.FilterEndedResponse(**wrong).SerializeToString()
    async with served(Answers(answer).add) as channel:
        transport = GrpcCoordinatorTransport(lambda name: channel)
        with pytest.raises(Unreachable, match="REPLY_BREAKS_A_RULE"):
            await transport.ended("c", [TxnId("t1")], TIMEOUT_S)


async def test_an_inquiry_that_is_too_old_says_so() -> None:
    """Alone it gets a status; among others it stays pending, and never ABORTED."""
    log = await log_of("t1", "t2")
    clock = FastClock()
    clock.utc += 10**15
    await LogKeeper(log, clock=clock, rng=Random(1)).sweep()
    async with serving(ScriptedTransport(), log) as engine:

        def add(server: object) -> None:
            coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(
                CoordinatorServicer(engine),
                server,  # type: ignore[arg-type]
            )

        async with served(add) as channel:
            stub = coordinator_service_pb2_grpc.CoordinatorServiceStub(channel)
            one = coordinator_service_pb2.InquireRequest(txn_id="t1", branch_id="a")
            error = await failed(stub.Inquire(one, timeout=TIMEOUT_S))
            assert ("TOO_OLD", {}) == details(error)
            transport = GrpcCoordinatorTransport(lambda name: channel)
            answers = await transport.inquire("c", [key("t1"), key("t9")], TIMEOUT_S)
    assert [Outcome.PENDING, Outcome.ABORTED] == list(answers)


async def test_what_is_told_with_a_batch_is_not_asked_about(rig: Rig) -> None:
    """The usual way stays the usual way."""
    await committed(rig, "t1-x", "t2-x")
    told = Batch([Commit(key("t2-x"))], [key("t1-x")], TxnId("t5-x"))
    await rig.participant.exchange(told)
    await rig.participant.exchange(Batch([Commit(key("t2-x"))]))
    oracle = Oracle("t2-x")
    assert 1 == await forgetter(rig, oracle).sweep()
    assert [("coordinator", ["t2-x"])] == oracle.asked
