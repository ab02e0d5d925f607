"""What operators ask of a CoordinatorService, over real servers on both sides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from tallystick.txn.v1 import coordinator_service_pb2 as pb
from tallystick.txn.v1 import (
    coordinator_service_pb2_grpc,
    participant_service_pb2,
)

from tests.support.waiting import eventually
from tests.txn.helpers import TWO, WAIT_S, Gate, ScriptedTransport, coordinator, start
from tests.txn.rpc.rig import TIMEOUT_S, Answers, details, failed, served
from txn.coordinator import Coordinator
from txn.errors import Unreachable
from txn.model import BranchId, Decision, LoggedBranch, TxnId
from txn.rpc import CoordinatorServicer, violations_of
from txn.state import Outcome, Vote
from txn.testing import MemoryDecisionLog, MemoryStore

Code = grpc.StatusCode


def remembering(prepared_at_us: int | None = 1) -> Answers:
    """A participant that remembers every branch as prepared."""
    branch = participant_service_pb2.ParticipantBranch(
        state=participant_service_pb2.BRANCH_STATE_PREPARED
    )
    if prepared_at_us is not None:
        branch.prepare_time.FromMicroseconds(prepared_at_us)
    return Answers(participant_service_pb2.GetBranchResponse(branch=branch).SerializeToString())


def failing(code: grpc.StatusCode) -> Answers:
    """A participant that answers with a status."""

    async def answer(context: Any) -> bytes:
        await context.abort(code, "")
        return b""

    return Answers(answer)


class Rig:
    """An engine behind a server, whose participants are asked at a channel."""

    def __init__(self, engine: Coordinator, transport: ScriptedTransport) -> None:
        self.engine, self.transport = engine, transport
        self.stub: coordinator_service_pb2_grpc.CoordinatorServiceAsyncStub

    def asks(self) -> asyncio.Task[object]:
        """A transaction over two."""
        return asyncio.ensure_future(
            self.engine.execute(
                caller="anonymous", idempotency_key="k", branches=TWO, wait_s=WAIT_S
            )
        )

    async def explain(self, **name: str) -> pb.ExplainTransactionResponse:
        """A timeline."""
        request = pb.ExplainTransactionRequest(**name)
        return await self.stub.ExplainTransaction(request, timeout=TIMEOUT_S)

    async def resolve(
        self, to: pb.Resolution.ValueType, txn_id: str = "t1.1", operator: str = "ann"
    ) -> pb.AuditRecord:
        """A record of what was forced."""
        request = pb.ResolveTransactionRequest(
            txn_id=txn_id, resolution=to, operator=operator, reason="gone"
        )
        return (await self.stub.ResolveTransaction(request, timeout=TIMEOUT_S)).record


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no participant that hangs."""
    monkeypatch.setattr("txn.rpc.operators.LOOK_TIMEOUT_S", TIMEOUT_S)


@asynccontextmanager
async def operating(
    participant: Answers | None = None, log: MemoryDecisionLog | None = None
) -> AsyncIterator[Rig]:
    """A rig; without a participant none is asked."""
    transport = ScriptedTransport()
    engine = coordinator(transport, log or MemoryDecisionLog(MemoryStore()))
    await start(engine)
    rig = Rig(engine, transport)
    async with served(*([participant.add] if participant else [])) as participants:

        def add(server: grpc.aio.Server) -> None:
            servicer = CoordinatorServicer(
                engine, channel_for=(lambda _: participants) if participant else None
            )
            coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(servicer, server)

        async with served(add) as channel:
            rig.stub = coordinator_service_pb2_grpc.CoordinatorServiceStub(channel)
            yield rig
    await engine.close(grace_s=0)


async def test_a_timeline_with_what_participants_remember() -> None:
    """Found by id and by key; each participant's own words are among it, and no operation is."""
    async with operating(remembering()) as rig:
        await rig.asks()
        explained = await rig.explain(txn_id="t1.1")
        by_key = await rig.explain(idempotency_key="k")
    assert explained.txn_id == by_key.txn_id == "t1.1"
    assert [e.happening for e in by_key.entries] == [e.happening for e in explained.entries]
    assert explained.transaction.outcome == pb.OUTCOME_COMMITTED
    remembered = [e for e in explained.entries if e.happening == pb.HAPPENING_REMEMBERED]
    assert [("order", "PREPARED", 1), ("ledger", "PREPARED", 1)] == [
        (each.participant, each.detail, each.time.ToMicroseconds()) for each in remembered
    ]
    # It voted long before, by its own clock.
    assert explained.entries[0].happening == pb.HAPPENING_REMEMBERED
    assert [] == [*explained.gaps]


@pytest.mark.parametrize(
    ("code", "gap"),
    [
        (Code.NOT_FOUND, "order remembers nothing of order: never prepared, or over"),
        (Code.UNAVAILABLE, "order does not say what it remembers: UNAVAILABLE"),
    ],
)
async def test_what_a_participant_does_not_say_is_a_gap(code: grpc.StatusCode, gap: str) -> None:
    """The rest is told all the same."""
    async with operating(failing(code)) as rig:
        await rig.asks()
        explained = await rig.explain(txn_id="t1.1")
    assert gap in explained.gaps
    assert explained.entries


async def test_a_participant_that_does_not_say_when_it_voted() -> None:
    """Its entry has no time, and comes last."""
    async with operating(remembering(None)) as rig:
        await rig.asks()
        explained = await rig.explain(txn_id="t1.1")
    last = explained.entries[-1]
    assert (pb.HAPPENING_REMEMBERED, False) == (last.happening, last.HasField("time"))


async def test_a_channel_that_is_closed_is_a_gap() -> None:
    """No status came at all."""
    async with operating(remembering()) as rig, served() as channel:
        await rig.asks()
        await channel.close()
        desk = CoordinatorServicer(rig.engine, channel_for=lambda _: channel)._desk
        explained = await desk.explain(TxnId("t1.1"))
    assert "order does not say what it remembers: CHANNEL_CLOSED" in explained.gaps


async def test_who_is_no_participant_any_more_is_not_asked() -> None:
    """A log may name one that this coordinator no longer speaks to."""
    log = MemoryDecisionLog(MemoryStore())
    async with operating(remembering(), log) as rig:
        gone = (LoggedBranch(BranchId("b"), "gone", Vote.COMMIT),)
        row = Decision(TxnId("t9"), Outcome.COMMITTED, None, gone, 1, ended=True)
        await log.decide_all([row])
        explained = await rig.explain(txn_id="t9")
    assert "gone is not a participant of this coordinator any more" in explained.gaps


async def test_nothing_is_known_of_what_never_was() -> None:
    """NOT_FOUND, by either name."""
    async with operating() as rig:
        for name in ({"txn_id": "t9"}, {"idempotency_key": "none"}):
            error = await failed(rig.explain(**name))
            assert Code.NOT_FOUND is error.code()


async def test_what_was_forced_without_a_row_that_is_left() -> None:
    """The record is told, and that the log has no outcome."""
    log = MemoryDecisionLog(MemoryStore())
    async with operating(log=log) as rig:
        await rig.resolve(pb.RESOLUTION_ABORT)
        await log.truncate(after="", limit=9, before_us=2**62)
        explained = await rig.explain(txn_id="t1.1")
    assert not explained.HasField("transaction")
    assert [pb.HAPPENING_FORCED] == [each.happening for each in explained.entries]


async def test_a_force_and_its_record() -> None:
    """What is done is answered with its record; what is refused says what stands."""
    async with operating() as rig:
        gate = rig.transport.always["prepare", "ledger"] = Gate()
        caller = rig.asks()
        await eventually(lambda: rig.transport.count("prepare", "ledger") == 1)
        listed = await rig.stub.ListTransactions(
            pb.ListTransactionsRequest(unfinished_only=True), timeout=TIMEOUT_S
        )
        (waiting,) = listed.transactions
        assert (pb.TRANSACTION_STATE_PREPARING, True) == (waiting.state, waiting.active)
        assert waiting.HasField("age")
        assert [1, 1] == [each.attempts for each in waiting.branches]
        error = await failed(rig.resolve(pb.RESOLUTION_COMMIT))
        assert Code.FAILED_PRECONDITION is error.code()
        assert ("FORCE_REFUSED", {}) == details(error)
        assert "it stands as PREPARING" in (error.details() or "")
        record = await rig.resolve(pb.RESOLUTION_ABORT)
        assert ("t1.1", "ann", "gone", "NONE", "ABORTED_ENDED", 1) == (
            record.txn_id,
            record.operator,
            record.reason,
            record.before,
            record.after,
            record.number,
        )
        assert record.sign_time.ToMicroseconds() >= 1_700_000_000_000_000
        await caller
        gate.opened.set()


async def test_records_page_by_page() -> None:
    """Each page says where the next begins, and the last one that there is none."""
    async with operating() as rig:
        for name in ("t1", "t2", "t3"):
            await rig.resolve(pb.RESOLUTION_ABORT, name)
        seen: list[str] = []
        token = ""
        for _ in range(3):
            page = await rig.stub.ListAuditRecords(
                pb.ListAuditRecordsRequest(page_size=2, page_token=token), timeout=TIMEOUT_S
            )
            seen += [each.txn_id for each in page.records]
            if not (token := page.next_page_token):
                break
        error = await failed(
            rig.stub.ListAuditRecords(
                pb.ListAuditRecordsRequest(page_token="t3"), timeout=TIMEOUT_S
            )
        )
    assert ["t1", "t2", "t3"] == seen
    assert (Code.INVALID_ARGUMENT, {"page_token": "page_token.ours"}) == (
        error.code(),
        details(error)[1],
    )


async def test_an_error_of_an_attempt_is_listed() -> None:
    """With its name, until it is answered."""
    async with operating() as rig:
        gate = Gate()
        rig.transport.on("commit", "ledger", Unreachable("DEADLINE_EXCEEDED"), gate)
        caller = rig.asks()
        await eventually(gate.reached.is_set)
        (ledger,) = [
            branch
            for each in (
                await rig.stub.ListTransactions(pb.ListTransactionsRequest(), timeout=TIMEOUT_S)
            ).transactions
            for branch in each.branches
            if branch.participant == "ledger"
        ]
        gate.opened.set()
        await caller
    assert (False, 2, "DEADLINE_EXCEEDED", False) == (
        ledger.acknowledged,
        ledger.attempts,
        ledger.last_error,
        ledger.alarmed,
    )


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"operator": ""}, "string.min_len"),
        ({"operator": "a" * 65}, "string.max_len"),
        ({"operator": " ann"}, "string.pattern"),
        ({"reason": ""}, "string.min_len"),
        ({"reason": " \t"}, "string.pattern"),
        ({"reason": "a\x1b[2J"}, "string.pattern"),
        ({"reason": "a" * 501}, "string.max_len"),
        ({"resolution": 0}, "enum.not_in"),
        ({"resolution": 9}, "enum.defined_only"),
        ({"txn_id": ""}, "string.min_len"),
    ],
)
def test_nothing_is_forced_unsigned(change: dict[str, object], rule: str) -> None:
    """Who, why, and what: the rules of the proto name each field that is missing or too long."""
    good = {"txn_id": "t1", "resolution": 1, "operator": "ann Lee", "reason": "gone, für immer"}
    assert [] == violations_of(pb.ResolveTransactionRequest(**good))  # type: ignore[arg-type]
    bad = pb.ResolveTransactionRequest(**{**good, **change})  # type: ignore[arg-type]
    assert (*change, rule) in [(each.field, each.rule) for each in violations_of(bad)]
