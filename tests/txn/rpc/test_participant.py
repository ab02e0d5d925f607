"""ParticipantService, both ends, over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.rpc import status_pb2
from tallystick.txn.v1 import participant_service_pb2 as pb
from tallystick.txn.v1 import participant_service_pb2_grpc

from tests.support.waiting import eventually
from tests.txn.helpers import COORDINATORS, FastClock, key, prepare
from tests.txn.participant_rig import Counting, MemoryEffects, TextCodec
from tests.txn.rpc.rig import (
    TIMEOUT_S,
    Answers,
    Without,
    details,
    failed,
    served,
    told,
    unary_found_out,
)
from txn.errors import (
    Alarm,
    BranchAborted,
    BranchCommitted,
    Busy,
    GroupLost,
    Overloaded,
    Refused,
    StoreFull,
    UnknownBranch,
    Unreachable,
)
from txn.model import Abort, Commit, VoteReply
from txn.participant import LATE_PREPARE, Participant
from txn.rpc import GrpcParticipantTransport, ParticipantServicer, status_of
from txn.state import Vote
from txn.testing import MemoryBackend, MemoryBranchTable, MemoryStore, Tables

Code = grpc.StatusCode
UNARY_ONLY = (Without("Exchange"),)


class MoodyBackend(MemoryBackend):
    """A backend that cannot begin while it has an error to say."""

    error: Exception | None = None

    def begin(self) -> Tables:
        """See Backend."""
        if self.error is not None:
            raise self.error
        return super().begin()


class Rig:
    """A participant behind a server: raw stub, transport, and its store's moods."""

    def __init__(self, channel: grpc.aio.Channel, backend: MoodyBackend) -> None:
        self.stub: participant_service_pb2_grpc.ParticipantServiceAsyncStub = (
            participant_service_pb2_grpc.ParticipantServiceStub(channel)
        )
        self.transport = GrpcParticipantTransport(lambda _: channel, "coordinator")
        self.backend = backend

    async def prepare(self, txn_id: str = "t1", value: bytes = b"op") -> VoteReply | None:
        """Through the transport."""
        return await told(self.transport, prepare(txn_id, value=value))

    async def commit(self, txn_id: str = "t1") -> None:
        """Through the transport."""
        await told(self.transport, Commit(key(txn_id)))

    async def abort(self, txn_id: str = "t1") -> None:
        """Through the transport."""
        await told(self.transport, Abort(key(txn_id)))

    def raw_prepare(self, value: bytes = b"op") -> Awaitable[pb.PrepareResponse]:
        """Through the stub."""
        request = pb.PrepareRequest(txn_id="t1", branch_id="a", coordinator="coordinator")
        request.operation.type_url = "type.example/Op"
        request.operation.value = value
        return self.stub.Prepare(request, timeout=TIMEOUT_S)


@pytest_asyncio.fixture(params=["stream", "unary"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """A participant over a memory store, of this release and of one that knows no batches."""
    backend = MoodyBackend()
    participant: Participant[Tables, str] = Participant(
        store=MemoryStore(backend),
        branches=MemoryBranchTable(),
        resource=Counting(MemoryEffects()),
        codec=TextCodec(),
        coordinators=COORDINATORS,
        clock=FastClock(),
    )

    def add(server: grpc.aio.Server) -> None:
        participant_service_pb2_grpc.add_ParticipantServiceServicer_to_server(
            ParticipantServicer(participant), server
        )

    interceptors = UNARY_ONLY if request.param == "unary" else ()
    async with served(add, interceptors=interceptors) as channel:
        rig = Rig(channel, backend)
        if interceptors:
            await unary_found_out(rig.transport)
        yield rig
        await rig.transport.close()


async def test_votes_travel(rig: Rig) -> None:
    """Each vote arrives as it was given, with its reason."""
    assert VoteReply(Vote.COMMIT) == await rig.prepare("t1")
    assert VoteReply(Vote.READ_ONLY) == await rig.prepare("t2", b"read")
    assert VoteReply(Vote.ABORT, "NO") == await rig.prepare("t3", b"refuse")
    await rig.abort("t4")
    assert VoteReply(Vote.ABORT, LATE_PREPARE) == await rig.prepare("t4")


async def test_replies_carry_the_name_of_their_branch(rig: Rig) -> None:
    """Every response says which branch it is about, as a stream of batches will need."""
    name = {"txn_id": "t1", "branch_id": "a"}
    prepared = await rig.raw_prepare()
    committed = await rig.stub.Commit(pb.CommitRequest(**name))
    aborted = await rig.stub.Abort(pb.AbortRequest(txn_id="t2", branch_id="a"))
    names = [(reply.txn_id, reply.branch_id) for reply in (prepared, committed, aborted)]
    assert [("t1", "a"), ("t1", "a"), ("t2", "a")] == names


async def test_busy_travels(rig: Rig) -> None:
    """That another transaction is in the way is no vote, and leaves nothing behind."""
    with pytest.raises(Busy, match="TAKEN"):
        await rig.prepare("t1", b"busy")
    assert VoteReply(Vote.COMMIT) == await rig.prepare("t1")


async def test_phase_two_travels(rig: Rig) -> None:
    """Commit and abort are acknowledged, also when repeated."""
    await rig.prepare("t1")
    await rig.prepare("t2")
    for _ in range(2):
        await rig.commit("t1")
        await rig.abort("t2")
    states = {
        b.txn_id: b.state for b in (await rig.stub.ListBranches(pb.ListBranchesRequest())).branches
    }
    assert {"t1": pb.BRANCH_STATE_COMMITTED, "t2": pb.BRANCH_STATE_ABORTED} == states


async def test_alarms_travel(rig: Rig) -> None:
    """An alarm at the participant is the same alarm at the coordinator."""
    await rig.prepare("t1")
    await rig.commit("t1")
    await rig.abort("t2")
    with pytest.raises(BranchCommitted):
        await rig.abort("t1")
    with pytest.raises(BranchAborted):
        await rig.commit("t2")
    with pytest.raises(UnknownBranch):
        await rig.commit("t3")


async def test_statuses(rig: Rig) -> None:
    """Each error has its code, its reason, and fields where fields are to blame."""
    error = await failed(rig.raw_prepare(b"bad"))
    assert (Code.INVALID_ARGUMENT, ("INVALID_OPERATION", {"operation": "rule"})) == (
        error.code(),
        details(error),
    )
    await rig.raw_prepare()
    error = await failed(rig.raw_prepare(b"other"))
    assert (Code.ALREADY_EXISTS, ("IDEMPOTENCY_CONFLICT", {})) == (error.code(), details(error))
    unseen = {"txn_id": "unseen", "branch_id": "a"}
    error = await failed(rig.stub.GetBranch(pb.GetBranchRequest(**unseen)))
    assert (Code.NOT_FOUND, ("NOT_FOUND", {})) == (error.code(), details(error))
    error = await failed(rig.stub.Commit(pb.CommitRequest(**unseen)))
    assert (Code.FAILED_PRECONDITION, ("UNKNOWN_BRANCH", {})) == (error.code(), details(error))


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (StoreFull("full"), Code.RESOURCE_EXHAUSTED, "STORE_FULL"),
        (GroupLost("undone"), Code.UNAVAILABLE, "STORE_UNAVAILABLE"),
    ],
)
async def test_a_store_in_trouble_is_no_refusal(
    rig: Rig, error: Exception, code: grpc.StatusCode, reason: str
) -> None:
    """The caller may try again: it is not told that the branch said no."""
    rig.backend.error = error
    failure = await failed(rig.raw_prepare())
    assert (code, (reason, {})) == (failure.code(), details(failure))
    with pytest.raises(Unreachable, match=code.name):
        await rig.prepare()
    with pytest.raises(Unreachable, match=code.name):
        await rig.commit()


async def test_a_refused_request_is_a_refusal(rig: Rig) -> None:
    """A participant that does not take the request has said no, and why."""
    with pytest.raises(Refused, match="INVALID_OPERATION"):
        await rig.prepare(value=b"bad")
    await rig.prepare()
    with pytest.raises(Refused, match="IDEMPOTENCY_CONFLICT"):
        await rig.prepare(value=b"other")


async def test_branches_are_shown_page_by_page(rig: Rig) -> None:
    """Tokens lead through all pages; a state narrows them down."""
    for number in range(5):
        await rig.prepare(f"t{number}")
    await rig.commit("t3")
    seen, token = [], ""
    while True:
        page = await rig.stub.ListBranches(
            pb.ListBranchesRequest(page_size=2, page_token=token, state=pb.BRANCH_STATE_PREPARED)
        )
        seen += [branch.txn_id for branch in page.branches]
        if not (token := page.next_page_token):
            break
    assert ["t0", "t1", "t2", "t4"] == seen


async def test_a_branch_is_shown_without_its_operation(rig: Rig) -> None:
    """What people see of a branch: names, state and type, not what is in it."""
    await rig.prepare()
    shown = (await rig.stub.GetBranch(pb.GetBranchRequest(txn_id="t1", branch_id="a"))).branch
    assert ("coordinator", pb.BRANCH_STATE_PREPARED, "type.example/Op") == (
        shown.coordinator,
        shown.state,
        shown.operation_type,
    )
    assert FastClock().utc // 1_000_000 == shown.prepare_time.seconds


async def _garbage_details(context: Any) -> bytes:
    context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
    await context.abort(Code.FAILED_PRECONDITION, "x")
    return b""


async def _details_of_another_status(context: Any) -> bytes:
    status = status_pb2.Status(code=3, message="y").SerializeToString()
    context.set_trailing_metadata((("grpc-status-details-bin", status),))
    await context.abort(Code.FAILED_PRECONDITION, "x")
    return b""


async def _hang(context: Any) -> bytes:
    await asyncio.Event().wait()
    return b""


async def _three(transport: GrpcParticipantTransport, timeout_s: float) -> list[type[Exception]]:
    """What prepare, commit and abort raise."""
    raised: list[type[Exception]] = []
    for message in (prepare(), Commit(key()), Abort(key())):
        try:
            await told(transport, message, timeout_s)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
            raised.append(type(error))
    return raised


@pytest.mark.parametrize(
    ("answer", "timeout_s", "expected"),
    [
        (b"\xff\xff\xff", TIMEOUT_S, [Unreachable, Unreachable, Unreachable]),
        (_hang, 0.05, [Unreachable, Unreachable, Unreachable]),
        (_garbage_details, TIMEOUT_S, [Refused, Unreachable, Unreachable]),
        (_details_of_another_status, TIMEOUT_S, [Refused, Unreachable, Unreachable]),
    ],
    ids=["unreadable replies", "no replies", "unreadable details", "foreign details"],
)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "unary"])
async def test_a_peer_gone_mad_is_survived(
    answer: Any, timeout_s: float, expected: list[type[Exception]], stream: bool
) -> None:
    """Whatever a peer sends, the engine is told one of the errors that it knows.

    The end of a stream says nothing about the messages in it, so it is never a refusal.
    """
    interceptors = () if stream else UNARY_ONLY
    async with served(Answers(answer).add, interceptors=interceptors) as channel:
        transport = GrpcParticipantTransport(lambda _: channel, "coordinator")
        if interceptors:
            await unary_found_out(transport)
        raised = await _three(transport, timeout_s)
        await transport.close()
    assert ([Unreachable] * 3 if stream else expected) == raised
    assert not any(issubclass(kind, Alarm) for kind in raised)


async def test_an_unknown_vote_is_a_refusal() -> None:
    """A peer newer than this one may vote what this one does not know: that is no yes."""
    for vote in (0, 99):
        alone = pb.PrepareResponse()
        alone.vote = vote  # type: ignore[assignment]
        batch = pb.ExchangeResponse(batch_id=1, votes=[vote])  # type: ignore[list-item]
        for reply, interceptors in ((alone, UNARY_ONLY), (batch, ())):
            answers = Answers(reply.SerializeToString())
            async with served(answers.add, interceptors=interceptors) as channel:
                transport = GrpcParticipantTransport(lambda _, c=channel: c, "coordinator")  # type: ignore[misc]
                if interceptors:
                    await unary_found_out(transport)
                with pytest.raises(Refused, match="UNKNOWN_VOTE"):
                    await told(transport, prepare())
                await transport.close()


@pytest.mark.parametrize("interceptors", [(), UNARY_ONLY], ids=["stream", "unary"])
async def test_a_closed_channel_is_no_answer(interceptors: Any) -> None:
    """Neither a new call nor one in flight ends the task that waits for it."""
    async with served(Answers(_hang).add, interceptors=interceptors) as channel:
        transport = GrpcParticipantTransport(lambda _: channel, "coordinator")
        if interceptors:
            await unary_found_out(transport)
        call = asyncio.ensure_future(told(transport, prepare()))
        ready = grpc.ChannelConnectivity.READY
        await eventually(lambda: channel.get_state(try_to_connect=True) is ready)
        await channel.close()
        with pytest.raises(Unreachable):
            await call
        assert [Unreachable] * 3 == await _three(transport, TIMEOUT_S)


@pytest.mark.parametrize("interceptors", [(), UNARY_ONLY], ids=["stream", "unary"])
async def test_a_cancelled_task_stays_cancelled(interceptors: Any) -> None:
    """Who cancels the waiting task gets what was asked for."""
    async with served(Answers(_hang).add, interceptors=interceptors) as channel:
        transport = GrpcParticipantTransport(lambda _: channel, "coordinator")
        if interceptors:
            await unary_found_out(transport)
        call = asyncio.ensure_future(told(transport, prepare()))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


def test_overload_is_in_the_table() -> None:
    """A full queue has the status that says "try later"."""
    assert Code.RESOURCE_EXHAUSTED.value[0] == status_of(Overloaded("many")).code
