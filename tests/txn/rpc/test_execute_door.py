"""ExecuteStream, over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from tallystick.txn.v1 import coordinator_service_pb2 as pb
from tallystick.txn.v1 import coordinator_service_pb2_grpc

from tests.support.waiting import eventually
from tests.txn.helpers import Gate, ScriptedTransport, coordinator, start
from tests.txn.rpc.rig import TIMEOUT_S, details, failed, packed, served, transfer
from txn.coordinator import Coordinator
from txn.errors import StoreError, TxnError
from txn.model import Decision, VoteReply
from txn.rpc import CoordinatorServicer
from txn.rpc import coordinator as module
from txn.rpc.execute_door import EXECUTE_MARGIN_S
from txn.state import Vote
from txn.testing import MemoryDecisionLog, MemoryStore

METHOD = "/tallystick.txn.v1.CoordinatorService/ExecuteStream"
COMMITTED = pb.OUTCOME_COMMITTED


def request(key: str, *participants: str, decided: bool = False) -> pb.ExecuteRequest:
    """A request with one branch for each participant."""
    return pb.ExecuteRequest(
        idempotency_key=key,
        branches=[
            pb.Branch(branch_id=name, participant=name, operation=packed(transfer()))
            for name in participants or ("order", "ledger")
        ],
        wait_for=pb.WAIT_FOR_DECIDED if decided else pb.WAIT_FOR_UNSPECIFIED,
    )


def numbered(requests: dict[int, pb.ExecuteRequest]) -> pb.ExecuteStreamRequest:
    """Some requests in one message."""
    return pb.ExecuteStreamRequest(
        requests=[
            pb.NumberedExecuteRequest(number=number, request=each)
            for number, each in requests.items()
        ]
    )


class Stream:
    """A caller's end of one stream."""

    def __init__(self, stub: Any, timeout_s: float) -> None:
        self.call = stub.ExecuteStream(timeout=timeout_s)
        self.sizes: list[int] = []
        self.answers: dict[int, pb.NumberedExecuteResponse] = {}

    async def send(self, requests: dict[int, pb.ExecuteRequest]) -> None:
        """One message."""
        await self.call.write(numbered(requests))

    async def read(self, count: int = 1) -> list[int]:
        """Waits for so many answers; the numbers of all that have come."""
        wanted = len(self.answers) + count
        while len(self.answers) < wanted:
            message = await self.call.read()
            assert message is not grpc.aio.EOF
            self.sizes.append(len(message.responses))
            for each in message.responses:
                assert each.number not in self.answers, "answered twice"
                self.answers[each.number] = each
        return list(self.answers)

    def outcome(self, number: int) -> tuple[pb.Outcome.ValueType, str]:
        """The outcome and the reason of an answer."""
        answer = self.answers[number]
        assert answer.HasField("response"), answer
        return answer.response.outcome, answer.response.reason

    def error(self, number: int) -> status_pb2.Status:
        """The status that stands in place of an answer."""
        answer = self.answers[number]
        assert answer.HasField("error"), answer
        return answer.error


class Rig:
    """An engine behind a server."""

    def __init__(
        self, channel: grpc.aio.Channel, engine: Coordinator, servicer: CoordinatorServicer
    ) -> None:
        self.channel = channel
        self.engine = engine
        self.servicer = servicer
        self.stub: coordinator_service_pb2_grpc.CoordinatorServiceAsyncStub = (
            coordinator_service_pb2_grpc.CoordinatorServiceStub(channel)
        )

    def stream(self, timeout_s: float = TIMEOUT_S) -> Stream:
        """A new stream."""
        return Stream(self.stub, timeout_s)


@asynccontextmanager
async def door(
    transport: ScriptedTransport, max_active: int = 1_000, log: MemoryDecisionLog | None = None
) -> AsyncIterator[Rig]:
    """A started engine over a memory log, behind a server."""
    log = log or MemoryDecisionLog(MemoryStore())
    engine = coordinator(transport, log, max_active=max_active)
    await start(engine)
    servicer = CoordinatorServicer(engine)

    def add(server: grpc.aio.Server) -> None:
        coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(servicer, server)

    async with served(add) as channel:
        yield Rig(channel, engine, servicer)
    await engine.close(grace_s=0)


async def test_every_request_is_answered() -> None:
    """Of one message and of several, each under its own number."""
    async with door(ScriptedTransport()) as rig:
        stream = rig.stream()
        await stream.send({7: request("a"), 9: request("b")})
        await stream.send({8: request("c", decided=True)})
        assert {7, 8, 9} == set(await stream.read(3))
        assert {(COMMITTED, "")} == {stream.outcome(number) for number in (7, 8, 9)}
        assert 3 == len({answer.response.txn_id for answer in stream.answers.values()})
        await stream.call.done_writing()
        assert grpc.aio.EOF is await stream.call.read()
        assert grpc.StatusCode.OK is await stream.call.code()


async def test_answers_come_as_they_are_final() -> None:
    """Who was asked first and takes long does not hold up the others of its message."""
    transport = ScriptedTransport()
    gate = Gate(VoteReply(Vote.ABORT, "NO"))
    transport.on("prepare", "audit", gate)
    async with door(transport) as rig:
        stream = rig.stream()
        await stream.send({1: request("slow", "audit"), 2: request("a"), 3: request("b")})
        assert {2, 3} == set(await stream.read(2))
        gate.opened.set()
        await stream.read()
        assert (pb.OUTCOME_ABORTED, "NO") == stream.outcome(1)
        assert "audit" == stream.answers[1].response.refused_branch_id


async def test_answers_that_are_final_together_go_together() -> None:
    """Fifty requests of one message do not need fifty messages back."""
    async with door(ScriptedTransport()) as rig:
        stream = rig.stream()
        await stream.send({number: request(f"k{number}") for number in range(50)})
        await stream.read(50)
        assert len(stream.sizes) < 10


async def test_a_stream_may_end_before_its_answers() -> None:
    """Who has nothing more to ask still hears everything."""
    transport = ScriptedTransport()
    gate = Gate(Vote.COMMIT)
    transport.on("prepare", "ledger", gate)
    async with door(transport) as rig:
        stream = rig.stream()
        await stream.send({1: request("a")})
        await stream.call.done_writing()
        await gate.reached.wait()
        gate.opened.set()
        await stream.read()
        assert COMMITTED == stream.outcome(1)[0]
        assert grpc.aio.EOF is await stream.call.read()


async def test_who_asks_for_the_decision_does_not_wait_for_its_effect() -> None:
    """WAIT_FOR_DECIDED is answered while a participant is still to acknowledge."""
    transport = ScriptedTransport()
    gate = Gate()
    transport.on("commit", "ledger", gate)
    async with door(transport) as rig:
        stream = rig.stream()
        await stream.send({1: request("a"), 2: request("a", decided=True)})
        assert [2] == await stream.read()
        gate.opened.set()
        await stream.read()
        assert stream.answers[1].response.txn_id == stream.answers[2].response.txn_id


@pytest.mark.parametrize("in_one_message", [True, False])
async def test_the_same_key_twice_is_one_transaction(in_one_message: bool) -> None:
    """Both are answered, with the same; and a third time after the end."""
    transport = ScriptedTransport()
    async with door(transport) as rig:
        stream = rig.stream()
        if in_one_message:
            await stream.send({1: request("a"), 2: request("a")})
        else:
            await stream.send({1: request("a")})
            await stream.send({2: request("a")})
        await stream.read(2)
        await rig.stub.Inquire(pb.InquireRequest(txn_id="forces", branch_id="ends"))
        await stream.send({3: request("a")})
        await stream.read()
        assert 1 == len({answer.response.txn_id for answer in stream.answers.values()})
        assert {(COMMITTED, "")} == {stream.outcome(number) for number in (1, 2, 3)}
        assert 1 == transport.count("prepare", "order")


async def test_the_same_key_for_another_request_is_refused_alone() -> None:
    """Never the old success, and never at the cost of others."""
    async with door(ScriptedTransport()) as rig:
        stream = rig.stream()
        await stream.send({1: request("a"), 2: request("a", "order"), 3: request("b")})
        await stream.read(3)
        assert {(COMMITTED, "")} == {stream.outcome(1), stream.outcome(3)}
        assert code_pb2.ALREADY_EXISTS == stream.error(2).code


def broken() -> dict[str, tuple[pb.ExecuteRequest, int]]:
    """Requests that are refused, each with its code."""
    doubled = request("doubled")
    doubled.branches[1].branch_id = doubled.branches[0].branch_id
    nameless = request("nameless")
    nameless.branches[0].branch_id = "no spaces"
    big = request("big")
    big.branches[0].operation.value = b"x" * (64 * 1024 + 1)
    return {
        "nothing at all": (pb.ExecuteRequest(), code_pb2.INVALID_ARGUMENT),
        "no key": (request(""), code_pb2.INVALID_ARGUMENT),
        "no branches": (pb.ExecuteRequest(idempotency_key="k"), code_pb2.INVALID_ARGUMENT),
        "a branch twice": (doubled, code_pb2.INVALID_ARGUMENT),
        "a bad name": (nameless, code_pb2.INVALID_ARGUMENT),
        "too large": (big, code_pb2.INVALID_ARGUMENT),
        "a stranger": (request("k", "order", "stranger"), code_pb2.INVALID_ARGUMENT),
    }


@pytest.mark.parametrize("name", broken())
async def test_a_refused_request_harms_no_other(name: str) -> None:
    """It is answered with the status of Execute; the rest of its message is done."""
    bad, code = broken()[name]
    transport = ScriptedTransport()
    async with door(transport) as rig:
        stream = rig.stream()
        await stream.send({1: request("a"), 2: bad, 3: request("b")})
        await stream.read(3)
        assert code == stream.error(2).code
        assert {(COMMITTED, "")} == {stream.outcome(1), stream.outcome(3)}
        assert 2 == transport.count("prepare", "order")
        await stream.send({4: request("c")})
        assert 4 in await stream.read()


async def test_a_message_of_nothing_but_refusals_is_answered() -> None:
    """Nothing was begun, and still everybody hears."""
    async with door(ScriptedTransport()) as rig:
        stream = rig.stream()
        await stream.send({1: request(""), 2: request("a", "stranger")})
        await stream.read(2)
        assert "UNKNOWN_PARTICIPANT" == info(stream.error(2)).reason


async def test_a_message_of_nothing_is_no_error() -> None:
    """It has no answer; the next one does."""
    async with door(ScriptedTransport()) as rig:
        stream = rig.stream()
        await stream.send({})
        await stream.send({1: request("a")})
        assert [1] == await stream.read()


def info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    """What a status says to machines."""
    return _detail(status, error_details_pb2.ErrorInfo())


def _detail(status: status_pb2.Status, kind: Any) -> Any:
    (found,) = [each for each in status.details if each.Is(kind.DESCRIPTOR)]
    assert found.Unpack(kind)
    return kind


async def test_over_the_limit_requests_are_turned_away() -> None:
    """RESOURCE_EXHAUSTED and when to come again; nothing was begun, and the others go on."""
    transport = ScriptedTransport()
    gate = Gate(Vote.COMMIT)
    transport.on("prepare", "ledger", gate, gate)
    async with door(transport, max_active=2) as rig:
        stream = rig.stream()
        await stream.send({number: request(f"k{number}") for number in range(5)})
        assert {2, 3, 4} == set(await stream.read(3))
        for number in (2, 3, 4):
            status = stream.error(number)
            assert (code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED") == (status.code, info(status).reason)
            retry = _detail(status, error_details_pb2.RetryInfo())
            assert retry.retry_delay.ToMilliseconds() > 0
        gate.opened.set()
        await stream.read(2)
        assert {(COMMITTED, "")} == {stream.outcome(0), stream.outcome(1)}
        assert 2 == transport.count("prepare", "order")
        await stream.send({9: request("k4")})
        await stream.read()
        assert (COMMITTED, "") == stream.outcome(9)


async def test_execute_over_the_limit_says_when_to_come_again() -> None:
    """The unary call carries the same advice."""
    transport = ScriptedTransport()
    gate = Gate(Vote.COMMIT)
    transport.on("prepare", "ledger", gate)
    async with door(transport, max_active=1) as rig:
        call = asyncio.ensure_future(rig.stub.Execute(request("a"), timeout=TIMEOUT_S))
        await gate.reached.wait()
        error = await failed(rig.stub.Execute(request("b"), timeout=TIMEOUT_S))
        assert grpc.StatusCode.RESOURCE_EXHAUSTED is error.code()
        status: Any = rpc_status.from_call(error)  # type: ignore[arg-type]
        retry = _detail(status, error_details_pb2.RetryInfo())
        assert retry.retry_delay.ToMilliseconds() > 0
        gate.opened.set()
        await call


async def test_pending_at_the_deadline() -> None:
    """What is not final by then is answered while the caller listens; the key finds it later."""
    transport = ScriptedTransport()
    gate = Gate(Vote.COMMIT)
    transport.on("prepare", "audit", gate)
    async with door(transport) as rig:
        stream = rig.stream(timeout_s=EXECUTE_MARGIN_S + 1.0)
        await stream.send({1: request("slow", "audit"), 2: request("quick")})
        await stream.read(2)
        assert (COMMITTED, "") == stream.outcome(2)
        assert (pb.OUTCOME_PENDING, "") == stream.outcome(1)
        gate.opened.set()
        again = rig.stream()
        await again.send({1: request("slow", "audit")})
        await again.read()
        assert (COMMITTED, "") == again.outcome(1)
        assert stream.answers[1].response.txn_id == again.answers[1].response.txn_id
        assert 1 == transport.count("prepare", "audit")


async def test_a_server_reads_only_so_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """While too many messages are unanswered, the next ones are neither read nor begun."""
    monkeypatch.setattr(module, "EXECUTE_MESSAGES_MAX", 2)
    transport = ScriptedTransport()
    gate = Gate(Vote.COMMIT)
    transport.always["prepare", "ledger"] = gate
    async with door(transport) as rig:
        stream = rig.stream()
        for number in range(5):
            await stream.send({number: request(f"k{number}")})
        await eventually(lambda: transport.count("prepare", "order") == 2)
        # A fence: whatever could have been read by now would have been.
        for _ in range(5):
            await rig.stub.ListTransactions(pb.ListTransactionsRequest())
        assert 2 == transport.count("prepare", "order")
        gate.opened.set()
        await stream.read(5)
        assert {(COMMITTED, "")} == {stream.outcome(number) for number in range(5)}


async def test_a_caller_that_goes_away_changes_nothing() -> None:
    """What it has begun goes on; the key finds it, and nothing is left waiting for the caller."""
    transport = ScriptedTransport()
    gate = Gate(Vote.COMMIT)
    transport.on("prepare", "ledger", gate)
    before = len(asyncio.all_tasks())
    async with door(transport) as rig:
        stream = rig.stream()
        await stream.send({1: request("a"), 2: request("b", "order")})
        await gate.reached.wait()
        await stream.read()
        stream.call.cancel()
        await rig.servicer.drain(TIMEOUT_S)
        gate.opened.set()
        await eventually(lambda: transport.count("commit", "ledger") == 1)
        reply = await rig.stub.Execute(request("a"), timeout=TIMEOUT_S)
        assert (COMMITTED, 1) == (reply.outcome, transport.count("prepare", "ledger"))
    await eventually(lambda: len(asyncio.all_tasks()) <= before)


@pytest.mark.parametrize("first_is_answered", [False, True])
async def test_a_caller_that_goes_away_is_watched_for_no_more(first_is_answered: bool) -> None:
    """A transaction that goes on for long keeps nothing of the stream that asked for it."""
    transport = ScriptedTransport()
    gates = Gate(Vote.COMMIT), Gate(Vote.COMMIT)
    transport.on("prepare", "ledger", gates[0])
    transport.on("prepare", "audit", gates[1])
    async with door(transport) as rig:
        stream = rig.stream()
        asked = request("a", "ledger"), request("b", "audit")
        await stream.send({1: asked[0], 2: asked[1], 3: asked[1]})
        for gate in gates:
            await gate.reached.wait()
        if first_is_answered:
            gates[0].opened.set()
            await stream.read()
        active = list(rig.engine._active.values())
        watched = [len(each._watchers) for each in active]
        assert ([2] if first_is_answered else [1, 2]) == watched
        stream.call.cancel()
        await eventually(lambda: not any(each._watchers for each in active))
        assert active == list(rig.engine._active.values())
        for gate in gates:
            gate.opened.set()
        await eventually(lambda: not rig.engine._active)


def _raw(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


@pytest.mark.parametrize(
    ("bad", "field", "rule"),
    [
        (b"\xff\xff", "", "malformed"),
        (numbered({n: pb.ExecuteRequest() for n in range(1025)}), "requests", "repeated.max_items"),
    ],
    ids=["unreadable", "too many requests"],
)
async def test_a_malformed_message_ends_the_stream(
    bad: Message | bytes, field: str, rule: str
) -> None:
    """With INVALID_ARGUMENT and the rule; what came before it is answered first."""
    transport = ScriptedTransport()
    gate = Gate(Vote.COMMIT)
    transport.on("prepare", "ledger", gate)
    async with door(transport) as rig:
        call: Any = rig.channel.stream_stream(METHOD, request_serializer=_raw)(timeout=TIMEOUT_S)
        await call.write(numbered({1: request("a")}))
        await call.write(bad)
        await gate.reached.wait()
        gate.opened.set()
        answer = pb.ExecuteStreamResponse.FromString(await call.read())
        assert [(1, COMMITTED)] == [(e.number, e.response.outcome) for e in answer.responses]
        error = await failed(call.read())
        assert grpc.StatusCode.INVALID_ARGUMENT is error.code()
        reason, fields = details(error)
        assert ("INVALID_ARGUMENT", rule) == (reason, fields.get(field))


async def test_a_drain_answers_what_has_come() -> None:
    """Then the stream ends; what comes later on it is not begun."""
    transport = ScriptedTransport()
    gate = Gate(Vote.COMMIT)
    transport.on("prepare", "ledger", gate)
    async with door(transport) as rig:
        stream = rig.stream()
        await stream.send({1: request("a")})
        await gate.reached.wait()
        draining = asyncio.ensure_future(rig.servicer.drain(TIMEOUT_S))
        await asyncio.sleep(0)
        assert not draining.done()
        gate.opened.set()
        await stream.read()
        assert (COMMITTED, "") == stream.outcome(1)
        assert grpc.aio.EOF is await stream.call.read()
        await draining
        assert 1 == transport.count("prepare", "order")


async def test_an_engine_that_closes_is_said_to_each() -> None:
    """Of a stream that is open all the same: UNAVAILABLE, nothing was begun."""
    async with door(ScriptedTransport()) as rig:
        await rig.engine.close(grace_s=TIMEOUT_S)
        stream = rig.stream()
        await stream.send({1: request("a"), 2: request("b")})
        await stream.read(2)
        for number in (1, 2):
            status = stream.error(number)
            assert (code_pb2.UNAVAILABLE, "SHUTTING_DOWN") == (status.code, info(status).reason)


class UnreadableLog(MemoryDecisionLog):
    """A log that cannot be read as long as it has an error to say."""

    error: TxnError | None = None

    async def by_keys(self, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Decision]:
        """See DecisionLog.by_keys."""
        if self.error is not None:
            raise self.error
        return await super().by_keys(names)


async def test_a_log_that_cannot_be_read_is_said_to_each() -> None:
    """Nothing was begun, the status is that of Execute, and the stream goes on."""
    log = UnreadableLog(MemoryStore())
    async with door(ScriptedTransport(), log=log) as rig:
        stream = rig.stream()
        log.error = StoreError("busy")
        await stream.send({1: request("a"), 2: request("b")})
        await stream.read(2)
        for number in (1, 2):
            status = stream.error(number)
            assert (code_pb2.UNAVAILABLE, "STORE_UNAVAILABLE") == (status.code, info(status).reason)
        log.error = None
        await stream.send({3: request("a")})
        await stream.read()
        assert (COMMITTED, "") == stream.outcome(3)
