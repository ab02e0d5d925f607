"""TransactionClient, over a real server: what a caller may conclude of one call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from tallystick.txn.v1 import coordinator_service_pb2 as pb
from tallystick.txn.v1 import coordinator_service_pb2_grpc

from tests.support.waiting import eventually
from tests.txn.helpers import Gate, ScriptedTransport, coordinator, start
from tests.txn.rpc.rig import Without, garbled, served, transfer
from txn.clock import Backoff
from txn.coordinator import Coordinator
from txn.errors import (
    IdempotencyConflict,
    InvalidOperation,
    OutcomeUnknown,
    Overloaded,
    RequestRefused,
    TransactionAborted,
    TxnError,
)
from txn.model import Branch, BranchId, Operation, TxnId, VoteReply
from txn.rpc import (
    OPERATION_SIZE_MAX_BYTES,
    Committed,
    CoordinatorServicer,
    TransactionClient,
    WaitFor,
    operation_of,
)
from txn.state import Vote
from txn.testing import MemoryDecisionLog, MemoryStore

BOTH = {"order": transfer(), "ledger": transfer()}
SHORT_S = 0.3
LONG_S = 20.0
FAST_RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 100),
]


class Rig:
    """A client of a started engine behind a server."""

    def __init__(
        self, client: TransactionClient, engine: Coordinator, servicer: CoordinatorServicer
    ) -> None:
        self.client = client
        self.engine = engine
        self.servicer = servicer


@asynccontextmanager
async def rig(
    transport: ScriptedTransport,
    *,
    without: Without | None = None,
    in_flight_max: int = 100,
    max_active: int = 1_000,
) -> AsyncIterator[Rig]:
    """An engine over a memory log, and a client of it; `without` counts calls."""
    engine = coordinator(transport, MemoryDecisionLog(MemoryStore()), max_active=max_active)
    await start(engine)
    servicer = CoordinatorServicer(engine)

    def add(server: grpc.aio.Server) -> None:
        coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(servicer, server)

    async with (
        served(add, interceptors=[without] if without else None) as channel,
        TransactionClient(channel, in_flight_max=in_flight_max) as client,
    ):
        yield Rig(client, engine, servicer)
    await engine.close(grace_s=0)


@pytest.mark.parametrize("wait_for", WaitFor)
@pytest.mark.parametrize("missing", [(), ("ExecuteStream",)])
async def test_a_transaction_is_one_call(missing: Sequence[str], wait_for: WaitFor) -> None:
    """Over the stream, and where there is none by unary calls; one branch a participant."""
    transport = ScriptedTransport()
    async with rig(transport, without=Without(*missing)) as it:
        for key in ("a", "b"):
            done = await it.client.execute(BOTH, idempotency_key=key, wait_for=wait_for)
            view = await it.engine.get_by_key("anonymous", key)
            assert done == Committed(view.txn_id)
            assert {"order", "ledger"} == {branch.branch_id for branch in view.branches}
    assert 2 == transport.count("prepare", "ledger")


async def test_a_participant_may_have_several_branches() -> None:
    """Then they are named by the caller."""
    transport = ScriptedTransport()
    branches = [Branch(BranchId(name), "ledger", operation_of(transfer())) for name in ("x", "y")]
    async with rig(transport) as it:
        await it.client.execute(branches, idempotency_key="a")
    assert 2 == transport.count("prepare", "ledger")


async def test_an_abort_is_told_with_its_reason() -> None:
    """It is final, also when asked again."""
    transport = ScriptedTransport()
    transport.on("prepare", "ledger", VoteReply(Vote.ABORT, "NO_FUNDS"))
    async with rig(transport) as it:
        for _ in range(2):
            with pytest.raises(TransactionAborted) as caught:
                await it.client.execute(BOTH, idempotency_key="a")
            assert ("NO_FUNDS", "ledger") == (caught.value.reason, caught.value.refused_branch_id)
            assert caught.value.txn_id


@pytest.mark.parametrize("missing", [(), ("ExecuteStream",)])
async def test_what_takes_too_long_is_not_known(missing: Sequence[str]) -> None:
    """And is neither an abort nor a commit; the same key tells later, without a second effect."""
    transport = ScriptedTransport()
    gate = Gate()
    transport.on("prepare", "ledger", gate)
    async with rig(transport, without=Without(*missing)) as it:
        with pytest.raises(OutcomeUnknown) as caught:
            await it.client.execute(BOTH, idempotency_key="a", timeout_s=2 * SHORT_S)
        assert "a" == caught.value.idempotency_key
        gate.opened.set()
        await it.client.execute(BOTH, idempotency_key="a")
    assert 1 == transport.count("prepare", "ledger")


class Restarted:
    """A coordinator that may be stopped and started again at its address, over one log."""

    def __init__(self, transport: ScriptedTransport) -> None:
        self._transport = transport
        self._log = MemoryDecisionLog(MemoryStore())
        self._starts = 0
        self._port = 0

    async def start(self) -> grpc.aio.Channel:
        """Recovers and serves; returns a channel to its address."""
        self._starts += 1
        self.engine = coordinator(self._transport, self._log, first_txn=100 * self._starts)
        await start(self.engine)
        self.servicer = CoordinatorServicer(self.engine)
        self._server = grpc.aio.server()
        coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(
            self.servicer, self._server
        )
        self._port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        await self._server.start()
        return grpc.aio.insecure_channel(f"127.0.0.1:{self._port}", options=FAST_RECONNECT)

    async def stop(self) -> None:
        """Ends at once, with what is under way."""
        await self._server.stop(None)
        await self.engine.close(grace_s=0)


async def test_a_coordinator_that_comes_back_is_asked_again() -> None:
    """Its death says nothing about the outcome; the same key finds what it had decided."""
    transport = ScriptedTransport()
    gate = Gate()
    transport.on("commit", "ledger", gate)
    peer = Restarted(transport)
    async with await peer.start() as channel, TransactionClient(channel) as client:
        asking = asyncio.ensure_future(client.execute(BOTH, idempotency_key="a", timeout_s=LONG_S))
        await gate.reached.wait()
        await peer.stop()
        await (await peer.start()).close()
        assert Committed(TxnId("t100.1")) == await asking
        await peer.stop()
    assert 1 == transport.count("prepare", "ledger")


async def test_a_drained_coordinator_is_left() -> None:
    """A call under way is answered first; the next one goes to whoever serves then."""
    transport = ScriptedTransport()
    gate = Gate()
    transport.on("prepare", "ledger", gate)
    peer = Restarted(transport)
    async with await peer.start() as channel, TransactionClient(channel) as client:
        asking = asyncio.ensure_future(client.execute(BOTH, idempotency_key="a", timeout_s=LONG_S))
        await gate.reached.wait()
        draining = asyncio.ensure_future(peer.servicer.drain(LONG_S))
        gate.opened.set()
        await draining
        assert Committed(TxnId("t100.1")) == await asking
        await peer.stop()
        await (await peer.start()).close()
        await client.execute(BOTH, idempotency_key="b", timeout_s=LONG_S)
        await peer.stop()
    assert 2 == transport.count("prepare", "ledger")


async def test_of_a_stream_that_has_ended_nothing_is_left() -> None:
    """Though nobody asks again, which would take another one and close this."""
    # Others on this loop have streams too, such as the watch of a mesh that tests share.
    before = asyncio.all_tasks()
    async with rig(ScriptedTransport()) as it:
        await it.client.execute(BOTH, idempotency_key="a")
        await it.servicer.drain(LONG_S)

        def running() -> list[str]:
            coroutines = [repr(task.get_coro()) for task in asyncio.all_tasks() - before]
            return [each for each in coroutines if "Stream._" in each]

        await eventually(lambda: running() == [])


async def test_nobody_there_is_not_known() -> None:
    """An attempt that failed may have been heard all the same."""
    async with (
        grpc.aio.insecure_channel("127.0.0.1:1") as channel,
        TransactionClient(channel) as client,
    ):
        with pytest.raises(OutcomeUnknown, match="UNAVAILABLE"):
            await client.execute(BOTH, idempotency_key="a", timeout_s=SHORT_S)


async def test_a_closed_channel_is_no_refusal() -> None:
    """An attempt came to nothing, and whether another one was heard is not known."""
    channel = grpc.aio.insecure_channel("127.0.0.1:1")
    await channel.close()
    async with TransactionClient(channel) as client:
        with pytest.raises(OutcomeUnknown, match="CHANNEL_CLOSED"):
            await client.execute(BOTH, idempotency_key="a", timeout_s=SHORT_S)


async def test_what_breaks_a_rule_is_refused() -> None:
    """With the field and the rule; nothing was begun."""
    transport = ScriptedTransport()
    async with rig(transport) as it:
        with pytest.raises(InvalidOperation) as caught:
            await it.client.execute({"strangers": transfer()}, idempotency_key="a")
        assert ["branches[0].participant"] == [v.field for v in caught.value.violations]
        with pytest.raises(InvalidOperation):
            await it.client.execute(BOTH, idempotency_key="not a key")
        await it.client.execute(BOTH, idempotency_key="a")
        with pytest.raises(IdempotencyConflict):
            await it.client.execute({"order": transfer()}, idempotency_key="a")
    assert 1 == transport.count("prepare", "order")


async def test_what_is_too_large_is_refused_before_it_is_sent() -> None:
    """It would end the stream that others share."""
    for operation in (
        Operation("x/a", b"x" * (OPERATION_SIZE_MAX_BYTES + 1)),
        Operation("x" * 300, b""),
    ):
        without = Without()
        async with rig(ScriptedTransport(), without=without) as it:
            with pytest.raises(InvalidOperation) as caught:
                await it.client.execute(
                    [Branch(BranchId("a"), "order", operation)], idempotency_key="k"
                )
        assert ["branches[0].operation"] == [each.field for each in caught.value.violations]
        assert 0 == without.calls


async def test_a_silent_stream_is_left_though_nobody_waits_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The patience of those who gave up adds up; what they wanted is not sent any more."""
    monkeypatch.setattr("txn.rpc.execute_stream.SILENT_MAX_S", 2.5 * SHORT_S)
    streams = 0

    class Silent(coordinator_service_pb2_grpc.CoordinatorServiceServicer):
        async def ExecuteStream(  # type: ignore[override] # noqa: N802
            self, request_iterator: object, context: object
        ) -> None:
            nonlocal streams
            streams += 1
            await asyncio.Event().wait()

    def add(server: grpc.aio.Server) -> None:
        coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(
            Silent(),  # type: ignore[abstract]
            server,
        )

    async with served(add) as channel, TransactionClient(channel) as client:
        for number in range(6):
            with pytest.raises(OutcomeUnknown):
                await client.execute(BOTH, idempotency_key=f"k{number}", timeout_s=SHORT_S)
    assert streams >= 2


async def test_a_full_coordinator_is_asked_again_when_it_says() -> None:
    """RetryInfo is waited for; who has no time for that hears that nothing was begun."""
    transport = ScriptedTransport()
    gate = Gate()
    transport.on("prepare", "ledger", gate)
    async with rig(transport, max_active=1) as it:
        first = asyncio.ensure_future(it.client.execute(BOTH, idempotency_key="a"))
        await gate.reached.wait()
        with pytest.raises(Overloaded):
            await it.client.execute(BOTH, idempotency_key="b", timeout_s=SHORT_S)
        second = asyncio.ensure_future(it.client.execute(BOTH, idempotency_key="c"))
        gate.opened.set()
        assert await first != await second
    assert 2 == transport.count("prepare", "ledger")


async def test_only_so_many_are_in_flight() -> None:
    """Who gets no place in time has begun nothing; one that is free is taken."""
    transport = ScriptedTransport()
    gate = Gate()
    transport.on("prepare", "ledger", gate)
    async with rig(transport, in_flight_max=1) as it:
        first = asyncio.ensure_future(it.client.execute(BOTH, idempotency_key="a"))
        await gate.reached.wait()
        with pytest.raises(Overloaded):
            await it.client.execute(BOTH, idempotency_key="b", timeout_s=SHORT_S)
        assert 1 == transport.count("prepare", "ledger")
        gate.opened.set()
        await first
        await it.client.execute(BOTH, idempotency_key="c")


async def test_many_share_one_stream() -> None:
    """Each has the answer that is its own."""
    calls = Without()
    async with rig(ScriptedTransport(), without=calls, in_flight_max=200) as it:
        keys = [f"k{number}" for number in range(500)]
        done = await asyncio.gather(*(it.client.execute(BOTH, idempotency_key=key) for key in keys))
        views = [await it.engine.get_by_key("anonymous", key) for key in keys]
    assert [view.txn_id for view in views] == [each.txn_id for each in done]
    assert 1 == calls.calls


async def test_closing_tells_who_waits() -> None:
    """What was sent is not known; what comes later is not begun."""
    transport = ScriptedTransport()
    gate = Gate()
    transport.on("prepare", "ledger", gate)
    async with rig(transport) as it:
        asking = asyncio.ensure_future(it.client.execute(BOTH, idempotency_key="a"))
        await gate.reached.wait()
        await it.client.close()
        with pytest.raises(OutcomeUnknown):
            await asking
        with pytest.raises(Overloaded):
            await it.client.execute(BOTH, idempotency_key="b")
        gate.opened.set()


PROBE = "probe"


class Says(coordinator_service_pb2_grpc.CoordinatorServiceServicer):
    """A coordinator without streams that answers with these statuses, the last for ever.

    If it `garbles`, nobody can read the details of one.
    """

    def __init__(self, *codes: grpc.StatusCode, garbles: bool = False) -> None:
        self.codes = list(codes)
        self.garbles = garbles
        self.keys: list[str] = []

    async def Execute(self, request: pb.ExecuteRequest, context: Any) -> pb.ExecuteResponse:  # noqa: N802
        """See the proto."""
        if request.idempotency_key == PROBE:
            # One that its caller has given up may be late: it is not to take a status from others.
            return pb.ExecuteResponse(txn_id="probe", outcome=pb.OUTCOME_COMMITTED)
        self.keys.append(request.idempotency_key)
        code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
        if code is grpc.StatusCode.OK:
            return pb.ExecuteResponse(txn_id="t", outcome=pb.OUTCOME_COMMITTED)
        if self.garbles:
            await context.abort_with_status(rpc_status.to_status(garbled(code)))
        status = status_pb2.Status(code=code.value[0], message="said so")
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason="SAID_SO"))
        await context.abort_with_status(rpc_status.to_status(status))
        raise AssertionError


C = grpc.StatusCode
# An attempt that is still under way when time is up may have begun something: so there is one.
ONLY_ONCE = Backoff(initial_s=1e9, max_s=1e9)
UNKNOWN = (C.UNAVAILABLE, C.DEADLINE_EXCEEDED, C.CANCELLED, C.UNKNOWN, C.INTERNAL)


@pytest.mark.parametrize(
    ("codes", "error"),
    [
        *(((code,), OutcomeUnknown) for code in UNKNOWN),
        *(((code, C.OK), None) for code in UNKNOWN),
        ((C.RESOURCE_EXHAUSTED,), Overloaded),
        ((C.RESOURCE_EXHAUSTED, C.OK), None),
        ((C.UNAVAILABLE, C.RESOURCE_EXHAUSTED), OutcomeUnknown),
        ((C.RESOURCE_EXHAUSTED, C.UNAVAILABLE), OutcomeUnknown),
        ((C.INVALID_ARGUMENT,), InvalidOperation),
        ((C.UNAVAILABLE, C.INVALID_ARGUMENT), OutcomeUnknown),
        ((C.ALREADY_EXISTS,), IdempotencyConflict),
        ((C.UNAVAILABLE, C.ALREADY_EXISTS), IdempotencyConflict),
        ((C.PERMISSION_DENIED,), RequestRefused),
        ((C.UNAVAILABLE, C.PERMISSION_DENIED), OutcomeUnknown),
        ((C.UNIMPLEMENTED,), RequestRefused),
    ],
    ids=str,
)
async def test_statuses_are_what_may_be_concluded(
    codes: Sequence[grpc.StatusCode],
    error: type[TxnError] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is called refused once an attempt before may have begun it; all under one key."""
    says = Says(*codes)  # type: ignore[abstract]

    def add(server: grpc.aio.Server) -> None:
        coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(says, server)

    async with served(add) as channel, TransactionClient(channel) as client:
        # So that no attempt is spent on finding that out.
        await eventually(lambda: _has_no_stream(client))
        if error is Overloaded:
            monkeypatch.setattr("txn.rpc.client._RETRY", ONLY_ONCE)
        timeout_s = LONG_S if error in (None, Overloaded) else 1.0
        asking = client.execute(BOTH, idempotency_key="a", timeout_s=timeout_s)
        if error is None:
            assert "t" == (await asking).txn_id
        else:
            with pytest.raises(error):
                await asking
        assert {"a"} == set(says.keys)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (C.INVALID_ARGUMENT, InvalidOperation),
        (C.RESOURCE_EXHAUSTED, Overloaded),
        (C.UNAVAILABLE, OutcomeUnknown),
    ],
)
async def test_details_that_are_garbage_change_nothing(
    code: grpc.StatusCode, error: type[TxnError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may be concluded follows from the code; it was a DecodeError, which says nothing."""
    says = Says(code, garbles=True)  # type: ignore[abstract]

    def add(server: grpc.aio.Server) -> None:
        coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(says, server)

    async with served(add) as channel, TransactionClient(channel) as client:
        await eventually(lambda: _has_no_stream(client))
        if error is Overloaded:
            monkeypatch.setattr("txn.rpc.client._RETRY", ONLY_ONCE)
        with pytest.raises(error):
            await client.execute(BOTH, idempotency_key="a", timeout_s=3)


async def _has_no_stream(client: TransactionClient) -> bool:
    """Whether the client knows by now that there is none, as gRPC says at the second attempt."""
    with contextlib.suppress(TxnError):
        await client.execute(BOTH, idempotency_key=PROBE, timeout_s=SHORT_S)
    return client._unary_until_s > 0


def test_a_limit_of_nothing_is_refused() -> None:
    """At the start, and not by waiting for ever."""
    with pytest.raises(ValueError, match="in_flight_max"):
        TransactionClient(object(), in_flight_max=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [0, 99])
async def test_a_status_that_nobody_knows_says_nothing(code: int) -> None:
    """It is no refusal: the transaction may have been begun."""
    said: list[int] = []

    class Odd(coordinator_service_pb2_grpc.CoordinatorServiceServicer):
        async def ExecuteStream(  # type: ignore[override] # noqa: N802
            self, request_iterator: object, context: Any
        ) -> None:
            while (message := await context.read()) is not grpc.aio.EOF:
                response = pb.ExecuteStreamResponse()
                for each in message.requests:
                    response.responses.add(number=each.number).error.code = code
                await context.write(response)
                said.append(code)

    def add(server: grpc.aio.Server) -> None:
        coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(
            Odd(),  # type: ignore[abstract]
            server,
        )

    async with served(add) as channel, TransactionClient(channel) as client:
        with pytest.raises(OutcomeUnknown):
            await client.execute(BOTH, idempotency_key="k", timeout_s=SHORT_S)
    assert {code} == set(said)
