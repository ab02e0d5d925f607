"""CoordinatorService, both ends, over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.txn.v1 import coordinator_service_pb2 as pb
from tallystick.txn.v1 import coordinator_service_pb2_grpc

from tests.support.waiting import eventually
from tests.txn.helpers import Gate, ScriptedTransport, coordinator, key, serving, start
from tests.txn.rpc.rig import TIMEOUT_S, Answers, details, failed, packed, served, transfer
from txn.coordinator import Coordinator
from txn.errors import Unreachable
from txn.model import VoteReply
from txn.rpc import CoordinatorServicer, GrpcCoordinatorTransport, OperationCodec
from txn.state import Outcome, Vote
from txn.testing import MemoryDecisionLog, MemoryStore

Code = grpc.StatusCode


async def outcome_of(transport: GrpcCoordinatorTransport, txn_id: str = "t1.1") -> Outcome:
    """The answer to an inquiry about one branch."""
    (outcome,) = await transport.inquire("c", [key(txn_id)], TIMEOUT_S)
    return outcome


class Rig:
    """An engine behind a server."""

    def __init__(
        self, channel: grpc.aio.Channel, engine: Coordinator, transport: ScriptedTransport
    ) -> None:
        self.stub: coordinator_service_pb2_grpc.CoordinatorServiceAsyncStub = (
            coordinator_service_pb2_grpc.CoordinatorServiceStub(channel)
        )
        self.inquiries = GrpcCoordinatorTransport(lambda _: channel)
        self.engine = engine
        self.transport = transport

    async def inquire(self, txn_id: str = "t1.1") -> Outcome:
        """Through the transport of a participant."""
        return await outcome_of(self.inquiries, txn_id)


async def test_operations_are_checked_before_anything_is_begun() -> None:
    """Where a participant's type of operation is known; what is wrong is named with its branch."""
    transport = ScriptedTransport()
    engine = coordinator(transport, MemoryDecisionLog(MemoryStore()))
    await start(engine)
    servicer = CoordinatorServicer(
        engine, {"ledger": OperationCodec(ledger_service_pb2.TransferOperation)}
    )

    def add(server: grpc.aio.Server) -> None:
        coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(servicer, server)

    wrong = request()
    for branch in wrong.branches:
        branch.operation.CopyFrom(packed(transfer(reference="x" * 65)))
    async with served(add) as channel:
        stub = Rig(channel, engine, transport).stub
        error = await failed(stub.Execute(wrong, timeout=TIMEOUT_S))
        await stub.Execute(request(), timeout=TIMEOUT_S)
    await engine.close(grace_s=0)
    fields = {"branches[1].operation.reference": "string.max_len"}
    assert ("INVALID_OPERATION", fields) == details(error)
    assert (1, 1) == (transport.count("prepare", "ledger"), transport.count("prepare", "order"))


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    """A started engine over a memory log, with room for one transaction."""
    transport = ScriptedTransport()
    engine = coordinator(transport, MemoryDecisionLog(MemoryStore()), max_active=1)
    await start(engine)

    def add(server: grpc.aio.Server) -> None:
        coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(
            CoordinatorServicer(engine), server
        )

    async with served(add) as channel:
        yield Rig(channel, engine, transport)
    await engine.close(grace_s=0)


def request(
    idempotency_key: str = "k",
    *participants: str,
    wait_for: pb.WaitFor.ValueType = pb.WAIT_FOR_UNSPECIFIED,
) -> pb.ExecuteRequest:
    """A request with one branch for each participant."""
    return pb.ExecuteRequest(
        idempotency_key=idempotency_key,
        branches=[
            pb.Branch(branch_id=name, participant=name, operation=packed(transfer()))
            for name in participants or ("order", "ledger")
        ],
        wait_for=wait_for,
    )


async def test_a_coordinator_says_who_it_is(rig: Rig) -> None:
    """Its log, its epoch and what it drives; nothing before it has an epoch."""
    said = await rig.stub.GetCoordinator(pb.GetCoordinatorRequest(), timeout=TIMEOUT_S)
    log_id = await rig.engine.identify()
    assert pb.GetCoordinatorResponse(log_id=log_id, epoch=1) == said
    gate = Gate(Vote.COMMIT)
    rig.transport.on("prepare", "ledger", gate)
    asked = asyncio.ensure_future(rig.stub.Execute(request(), timeout=TIMEOUT_S))
    await gate.reached.wait()
    said = await rig.stub.GetCoordinator(pb.GetCoordinatorRequest(), timeout=TIMEOUT_S)
    assert 1 == said.active_transactions
    gate.opened.set()
    await asked


async def test_a_coordinator_that_starts_says_nothing_of_itself() -> None:
    """Who asks has to ask again."""
    engine = coordinator(ScriptedTransport(), MemoryDecisionLog(MemoryStore()))
    servicer = CoordinatorServicer(engine)

    def add(server: grpc.aio.Server) -> None:
        coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(servicer, server)

    async with served(add) as channel:
        stub = coordinator_service_pb2_grpc.CoordinatorServiceStub(channel)
        error = await failed(stub.GetCoordinator(pb.GetCoordinatorRequest(), timeout=TIMEOUT_S))
    assert (Code.UNAVAILABLE, "SHUTTING_DOWN") == (error.code(), details(error)[0])


async def test_committed(rig: Rig) -> None:
    """Both agree: the reply says so and names the transaction."""
    reply = await rig.stub.Execute(request(), timeout=TIMEOUT_S)
    assert pb.ExecuteResponse(txn_id="t1.1", outcome=pb.OUTCOME_COMMITTED) == reply


async def test_aborted_is_an_answer(rig: Rig) -> None:
    """A refusal is a reply with its reason, not an error."""
    rig.transport.on("prepare", "ledger", VoteReply(Vote.ABORT, "INSUFFICIENT_FUNDS"))
    reply = await rig.stub.Execute(request(), timeout=TIMEOUT_S)
    expected = pb.ExecuteResponse(
        txn_id="t1.1",
        outcome=pb.OUTCOME_ABORTED,
        reason="INSUFFICIENT_FUNDS",
        refused_branch_id="ledger",
    )
    assert expected == reply


async def test_pending_before_the_deadline(rig: Rig) -> None:
    """A caller whose time is nearly up is told PENDING while it still listens."""
    gate = Gate(Vote.COMMIT)
    rig.transport.on("prepare", "ledger", gate)
    reply = await rig.stub.Execute(request(), timeout=1.5)
    shown = await rig.stub.GetTransaction(pb.GetTransactionRequest(idempotency_key="k"))
    gate.opened.set()
    again = await rig.stub.Execute(request(), timeout=TIMEOUT_S)
    assert (pb.OUTCOME_PENDING, "t1.1") == (reply.outcome, reply.txn_id)
    assert pb.TRANSACTION_STATE_PREPARING == shown.transaction.state
    assert (pb.OUTCOME_COMMITTED, "t1.1") == (again.outcome, again.txn_id)


async def test_who_asks_for_the_decision_does_not_wait_for_its_effect(rig: Rig) -> None:
    """WAIT_FOR_DECIDED answers while a participant is still to acknowledge."""
    gate = Gate()
    rig.transport.on("commit", "ledger", gate)
    reply = await rig.stub.Execute(request(wait_for=pb.WAIT_FOR_DECIDED), timeout=TIMEOUT_S)
    shown = await rig.stub.GetTransaction(pb.GetTransactionRequest(txn_id="t1.1"))
    gate.opened.set()
    assert pb.OUTCOME_COMMITTED == reply.outcome
    assert pb.TRANSACTION_STATE_COMMITTING == shown.transaction.state


async def test_a_hung_up_caller_changes_nothing(rig: Rig) -> None:
    """A call that is cancelled on the wire leaves its transaction running."""
    gate = Gate(Vote.COMMIT)
    rig.transport.on("prepare", "ledger", gate)
    call = asyncio.ensure_future(rig.stub.Execute(request(), timeout=TIMEOUT_S))
    await gate.reached.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    gate.opened.set()
    await eventually(lambda: rig.transport.sent("commit") == {"order", "ledger"})


async def test_statuses(rig: Rig) -> None:
    """Each error has its code, its reason, and fields where fields are to blame."""
    error = await failed(rig.stub.Execute(request("k1", "order", "stranger"), timeout=TIMEOUT_S))
    assert (
        Code.INVALID_ARGUMENT,
        ("UNKNOWN_PARTICIPANT", {"branches[1].participant": "participant.allowed"}),
    ) == (error.code(), details(error))
    await rig.stub.Execute(request("k2"), timeout=TIMEOUT_S)
    error = await failed(rig.stub.Execute(request("k2", "order"), timeout=TIMEOUT_S))
    assert (Code.ALREADY_EXISTS, ("IDEMPOTENCY_CONFLICT", {})) == (error.code(), details(error))
    for unseen in ({"txn_id": "unseen"}, {"idempotency_key": "unseen"}):
        error = await failed(rig.stub.GetTransaction(pb.GetTransactionRequest(**unseen)))
        assert (Code.NOT_FOUND, ("NOT_FOUND", {})) == (error.code(), details(error))


@pytest.mark.parametrize("names", [(), ("order", "order")])
async def test_malformed_lists_of_branches(rig: Rig, names: tuple[str, ...]) -> None:
    """Refused by the engine itself, also where nobody checks the proto's rules before it."""
    malformed = request("k", "order")
    del malformed.branches[:]
    malformed.branches.extend(request("k", *names).branches if names else [])
    error = await failed(rig.stub.Execute(malformed, timeout=TIMEOUT_S))
    assert (Code.INVALID_ARGUMENT, "INVALID_OPERATION") == (error.code(), details(error)[0])


async def test_overload_and_drain(rig: Rig) -> None:
    """Too many, and too late: neither begins anything."""
    gate = Gate(Vote.COMMIT)
    rig.transport.on("prepare", "ledger", gate)
    call = asyncio.ensure_future(rig.stub.Execute(request("first"), timeout=TIMEOUT_S))
    await gate.reached.wait()
    error = await failed(rig.stub.Execute(request("second"), timeout=TIMEOUT_S))
    assert (Code.RESOURCE_EXHAUSTED, "OVERLOADED") == (error.code(), details(error)[0])
    gate.opened.set()
    await call
    await rig.engine.close(grace_s=TIMEOUT_S)
    error = await failed(rig.stub.Execute(request("third"), timeout=TIMEOUT_S))
    assert (Code.UNAVAILABLE, "SHUTTING_DOWN") == (error.code(), details(error)[0])


async def test_transactions_are_shown(rig: Rig) -> None:
    """By id, by key, and page by page; nothing of the operations shows."""
    for number in range(1, 4):
        await rig.stub.Execute(request(f"k{number}"), timeout=TIMEOUT_S)
    by_id = await rig.stub.GetTransaction(pb.GetTransactionRequest(txn_id="t2.1"))
    by_key = await rig.stub.GetTransaction(pb.GetTransactionRequest(idempotency_key="k2"))
    assert by_id == by_key
    shown = by_id.transaction
    assert (pb.OUTCOME_COMMITTED, "k2") == (shown.outcome, shown.idempotency_key)
    assert ["order", "ledger"] == [branch.participant for branch in shown.branches]
    assert shown.decision_time.seconds > 0
    first = await rig.stub.ListTransactions(pb.ListTransactionsRequest(page_size=2))
    rest = await rig.stub.ListTransactions(
        pb.ListTransactionsRequest(page_size=2, page_token=first.next_page_token)
    )
    names = [transaction.txn_id for page in (first, rest) for transaction in page.transactions]
    assert (["t1.1", "t2.1", "t3.1"], "") == (names, rest.next_page_token)


async def test_inquiries_travel(rig: Rig) -> None:
    """PENDING while it runs, then the outcome; for what nobody knows an abort that is kept."""
    gate = Gate(Vote.COMMIT)
    rig.transport.on("prepare", "ledger", gate)
    call = asyncio.ensure_future(rig.stub.Execute(request(), timeout=TIMEOUT_S))
    await gate.reached.wait()
    during = await rig.inquire("t1.1")
    gate.opened.set()
    await call
    after = await rig.inquire("t1.1")
    unknown = await rig.inquire("unseen")
    assert [Outcome.PENDING, Outcome.COMMITTED, Outcome.ABORTED] == [during, after, unknown]
    shown = await rig.stub.GetTransaction(pb.GetTransactionRequest(txn_id="unseen"))
    assert pb.OUTCOME_ABORTED == shown.transaction.outcome


async def test_many_inquiries_travel_together(rig: Rig) -> None:
    """One call for all, answered in their order; what an earlier answer wrote stands."""
    await rig.stub.Execute(request(), timeout=TIMEOUT_S)
    keys = [key("unseen"), key("t1.1"), key("unseen", "b"), key("t1.1", "b")]
    aborted, committed = Outcome.ABORTED, Outcome.COMMITTED
    outcomes = await rig.inquiries.inquire("c", keys, TIMEOUT_S)
    assert [aborted, committed, aborted, committed] == outcomes


async def test_of_another_log_nothing_is_said() -> None:
    """In a batch it is PENDING and the others are answered; alone it is an error."""
    log = MemoryDecisionLog(MemoryStore())
    await log.identity("-mine")
    async with serving(ScriptedTransport(), log) as engine:

        def add(server: grpc.aio.Server) -> None:
            coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(
                CoordinatorServicer(engine), server
            )

        async with served(add) as channel:
            rig = Rig(channel, engine, ScriptedTransport())
            keys = [key("a-other"), key("b-mine"), key("c-other")]
            outcomes = await rig.inquiries.inquire("c", keys, TIMEOUT_S)
            assert [Outcome.PENDING, Outcome.ABORTED, Outcome.PENDING] == outcomes
            alone = pb.InquireRequest(txn_id="a-other", branch_id="a")
            error = await failed(rig.stub.Inquire(alone))
            assert (Code.UNAVAILABLE, "OTHER_LOG") == (error.code(), details(error)[0])
    assert ["b-mine"] == [row.txn_id for row in await log.list_decisions(after="", limit=9)]


async def test_an_answer_that_lacks_some_leaves_the_doubt() -> None:
    """Which of the branches it is about cannot be told."""
    reply = pb.BatchInquireResponse()
    reply.answers.add(txn_id="t1", outcome=pb.OUTCOME_COMMITTED)
    async with served(Answers(reply.SerializeToString()).add) as channel:
        transport = GrpcCoordinatorTransport(lambda _: channel)
        with pytest.raises(Unreachable, match="ANSWERS_MISSING"):
            await transport.inquire("c", [key("t1"), key("t2")], TIMEOUT_S)


async def test_a_coordinator_that_does_not_serve_leaves_the_doubt(rig: Rig) -> None:
    """No answer is not an answer."""
    await rig.engine.close(grace_s=0)
    with pytest.raises(Unreachable):
        await rig.inquire()


@pytest.mark.parametrize("outcome", [0, 99])
async def test_an_unknown_outcome_leaves_the_doubt(outcome: int) -> None:
    """What this version does not know decides nothing."""
    reply = pb.BatchInquireResponse()
    reply.answers.add().outcome = outcome  # type: ignore[assignment]
    async with served(Answers(reply.SerializeToString()).add) as channel:
        answer = await outcome_of(GrpcCoordinatorTransport(lambda _: channel))
    assert Outcome.PENDING is answer


async def test_an_unreadable_reply_leaves_the_doubt() -> None:
    """Garbage is no answer."""
    async with served(Answers(b"\xff\xff").add) as channel:
        with pytest.raises(Unreachable):
            await outcome_of(GrpcCoordinatorTransport(lambda _: channel))
