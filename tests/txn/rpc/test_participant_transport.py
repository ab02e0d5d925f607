"""A coordinator's streams of batches to participants, over real servers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest
from tallystick.txn.v1 import participant_service_pb2 as pb
from tallystick.txn.v1 import participant_service_pb2_grpc

from tests.support.waiting import eventually
from tests.txn.helpers import (
    CALLER,
    COORDINATORS,
    WAIT_S,
    FastClock,
    branch,
    coordinator,
    key,
    prepare,
    start,
    turns,
)
from tests.txn.participant_rig import Counting, MemoryEffects, TextCodec
from tests.txn.rpc.rig import (
    TIMEOUT_S,
    Answers,
    Without,
    details,
    failed,
    garbled,
    served,
    told,
    unary_found_out,
)
from txn.errors import Alarm, Refused, Unreachable
from txn.model import Abort, Batch, Commit, Operation, Prepare, Reply, TxnId, VoteReply
from txn.participant import Participant
from txn.rpc import (
    OPERATION_SIZE_MAX_BYTES,
    GrpcParticipantTransport,
    ParticipantServicer,
    numbered_stream,
)
from txn.rpc import participant_transport as module
from txn.rpc.exchange_stream import ExchangeStream
from txn.rpc.participant import batch_from
from txn.state import BranchState, Outcome, Vote
from txn.testing import MemoryBranchTable, MemoryDecisionLog, MemoryStore, Tables

YES = VoteReply(Vote.COMMIT)
In = TypeVar("In")
Out = TypeVar("Out")
Exchange = Callable[[Any], Awaitable[None]]
LARGE_BYTES = 2 * 1024 * 1024
# Before the first is read.
MORE_THAN_ARE_SENT = 8


class GatedStore(MemoryStore):
    """A store whose writes wait until its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()

    async def write_all(
        self,
        apply: Callable[[Tables, Sequence[In]], Sequence[Out]],
        inputs: Sequence[In],
        *,
        essential: bool = False,
        alone: bool = False,
    ) -> list[Out | Exception]:
        """See Store.write_all."""
        self.reached.set()
        await self.gate.wait()
        return await super().write_all(apply, inputs, essential=essential, alone=alone)


class Replica:
    """A participant behind a server of its own, or at least something that looks like one."""

    def __init__(self, store: GatedStore, exchange: Exchange | None = None) -> None:
        self.store = store
        self.streams = 0
        self.batches: list[pb.ExchangeRequest] = []
        self.participant: Participant[Tables, str] = Participant(
            store=store,
            branches=MemoryBranchTable(),
            resource=Counting(MemoryEffects()),
            codec=TextCodec(),
            coordinators=COORDINATORS,
            clock=FastClock(),
        )
        self.servicer = ParticipantServicer(self.participant)
        self.without = Without()
        self._exchange = exchange

    def add(self, server: grpc.aio.Server) -> None:
        """Adds its service to a server, with a count of streams."""
        serve = self.servicer.Exchange
        handle = self._exchange or (lambda context: serve(None, context))

        async def counted(_: object, context: Any) -> None:
            self.streams += 1
            await handle(context)

        self.servicer.Exchange = counted  # type: ignore[method-assign, assignment]
        participant_service_pb2_grpc.add_ParticipantServiceServicer_to_server(self.servicer, server)


class Mesh:
    """Replicas of one participant, and a coordinator's transport to them."""

    def __init__(self, replicas: Sequence[Replica], channel: grpc.aio.Channel) -> None:
        self.replicas = replicas
        self.transport = GrpcParticipantTransport(lambda _: channel, "coordinator")
        self.stub: participant_service_pb2_grpc.ParticipantServiceAsyncStub = (
            participant_service_pb2_grpc.ParticipantServiceStub(channel)
        )

    async def prepare(self, txn_id: str = "t1", timeout_s: float = TIMEOUT_S) -> Reply:
        """A batch with one prepare."""
        return await told(self.transport, prepare(txn_id), timeout_s)

    def asking(self, *names: str) -> list[asyncio.Future[Reply]]:
        """A batch for each, at once."""
        return [asyncio.ensure_future(self.prepare(name)) for name in names]


@asynccontextmanager
async def replica(exchange: Exchange | None = None) -> AsyncIterator[tuple[Mesh, Replica]]:
    """One replica."""
    one = Replica(GatedStore(), exchange)
    async with served(one.add, interceptors=(one.without,)) as channel:
        mesh = Mesh([one], channel)
        try:
            yield mesh, one
        finally:
            one.store.gate.set()
            await mesh.transport.close()


@asynccontextmanager
async def replicas() -> AsyncIterator[tuple[Mesh, list[grpc.aio.Server]]]:
    """Two replicas over one store, of which each new stream takes the next."""
    store = GatedStore()
    both, servers, addresses = [Replica(store), Replica(store)], [], []
    async with AsyncExitStack() as stack:
        for each in both:
            server = grpc.aio.server(interceptors=(each.without,))
            each.add(server)
            addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
            await server.start()
            stack.push_async_callback(server.stop, None)
            servers.append(server)
        channel = grpc.aio.insecure_channel(
            f"ipv4:{','.join(addresses)}", options=[("grpc.lb_policy_name", "round_robin")]
        )
        stack.push_async_callback(channel.close)
        mesh = Mesh(both, channel)
        stack.push_async_callback(mesh.transport.close)
        stack.callback(store.gate.set)

        async def both_are_called() -> bool:
            await mesh.stub.ListBranches(pb.ListBranchesRequest())
            return all(each.without.calls for each in both)

        await eventually(both_are_called)
        yield mesh, servers


def names(count: int) -> list[str]:
    """Of so many transactions."""
    return [f"t{number}" for number in range(count)]


async def raised(calls: Sequence[Awaitable[Reply]]) -> list[str]:
    """What each of them raises; all of them are Unreachable."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(each, Unreachable) for each in results), results
    return [str(each) for each in results]


async def test_batches_share_a_stream() -> None:
    """One after the other or at once: one call, however much is said on it."""
    async with replica() as (mesh, one):
        assert YES == await mesh.prepare("first")
        assert [YES] * 50 == await asyncio.gather(*mesh.asking(*names(50)))
        assert 1 == one.streams


async def test_a_batch_is_answered_as_a_whole_and_in_order() -> None:
    """Every message has its own answer, also where one of them failed."""
    async with replica() as (mesh, _):
        await mesh.prepare("t1")
        batch = Batch(
            [
                Commit(key("t1")),
                Commit(key("unknown")),
                prepare("t2", value=b"refuse"),
                Abort(key("t3")),
            ]
        )
        replies = await mesh.transport.exchange("p", batch, TIMEOUT_S)
        assert (None, VoteReply(Vote.ABORT, "NO"), None) == (replies[0], replies[2], replies[3])
        assert isinstance(replies[1], Alarm)


async def test_large_operations_fit_into_the_messages_that_carry_them() -> None:
    """A hundred of the largest at once: each is prepared with the first attempt."""
    async with replica() as (mesh, one):
        engine = coordinator(mesh.transport, MemoryDecisionLog(MemoryStore()))
        await start(engine)
        results = await asyncio.gather(
            *(
                engine.execute(
                    caller=CALLER,
                    idempotency_key=f"k{number}",
                    branches=[branch("order", value=b"x" * OPERATION_SIZE_MAX_BYTES)],
                    wait_s=WAIT_S,
                )
                for number in range(100)
            )
        )
        assert {Outcome.COMMITTED} == {result.outcome for result in results}
        assert 1 == one.streams
        await engine.close(grace_s=WAIT_S)


async def test_what_may_be_forgotten_travels() -> None:
    """Names and horizon arrive; and what was forgotten is late afterwards."""
    async with replica() as (mesh, one):
        await mesh.prepare("t1")
        await told(mesh.transport, Commit(key("t1")))
        await mesh.transport.exchange("p", Batch([], [key("t1")], TxnId("t2")), TIMEOUT_S)
        await mesh.prepare("t5")
        assert {"t5"} == {
            row.key.txn_id
            for row in await one.participant.list_branches(after=None, limit=9, state=None)
        }
        vote = await mesh.prepare("t1")
        assert isinstance(vote, VoteReply)
        assert Vote.ABORT is vote.vote


async def test_answers_may_come_in_any_order() -> None:
    """Each finds who waits for it by the number of its batch."""

    async def backwards(context: Any) -> None:
        requests = [await context.read() for _ in range(3)]
        for request in reversed(requests):
            response = pb.ExchangeResponse(batch_id=request.batch_id, votes=[pb.VOTE_ABORT])
            response.notes.add(place=0, reason=request.txn_ids[0].upper())
            await context.write(response)

    async with replica(backwards) as (mesh, _):
        replies = await asyncio.gather(*mesh.asking("t1", "t2", "t3"))
        assert [VoteReply(Vote.ABORT, name) for name in ("T1", "T2", "T3")] == replies


async def test_an_answer_that_nobody_waits_for_is_passed_over() -> None:
    """An unknown number, or the same twice, disturbs nobody."""

    async def chatty(context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            response = pb.ExchangeResponse(batch_id=request.batch_id, votes=[pb.VOTE_COMMIT])
            await context.write(pb.ExchangeResponse(batch_id=99))
            await context.write(response)
            await context.write(response)

    async with replica(chatty) as (mesh, one):
        assert [YES, YES] == [await mesh.prepare("t1"), await mesh.prepare("t2")]
        assert 1 == one.streams


async def test_an_answer_that_lacks_some_says_nothing() -> None:
    """Which of the messages it is about cannot be told."""

    async def forgetful(context: Any) -> None:
        request = await context.read()
        await context.write(pb.ExchangeResponse(batch_id=request.batch_id))
        await context.read()

    async with replica(forgetful) as (mesh, _):
        assert ["ANSWERS_MISSING"] == await raised(mesh.asking("t1"))


async def test_a_note_about_nothing_makes_the_answer_say_nothing() -> None:
    """Which of the messages an error is about cannot be told: none of them is a yes."""

    async def misplaced(context: Any) -> None:
        request = await context.read()
        response = pb.ExchangeResponse(batch_id=request.batch_id, votes=[pb.VOTE_COMMIT])
        response.notes.add(place=1, reason="LATE_PREPARE")
        await context.write(response)
        await context.read()

    async with replica(misplaced) as (mesh, _):
        assert ["ANSWERS_MISPLACED"] == await raised(mesh.asking("t1"))


async def test_an_error_whose_details_are_garbage_is_an_error_all_the_same() -> None:
    """What it says in its code counts, and the other messages of the batch are answered."""

    async def garbling(context: Any) -> None:
        request = await context.read()
        response = pb.ExchangeResponse(batch_id=request.batch_id, votes=[pb.VOTE_COMMIT] * 2)
        response.notes.add(place=0, error=garbled(grpc.StatusCode.PERMISSION_DENIED))
        await context.write(response)
        await context.read()

    async with replica(garbling) as (mesh, _):
        batch = Batch([prepare("t1"), prepare("t2")])
        refused, voted = await mesh.transport.exchange("ledger", batch, TIMEOUT_S)
        assert isinstance(refused, Refused)
        assert "PERMISSION_DENIED" == str(refused)
        assert YES == voted


async def test_operations_of_several_types_keep_theirs() -> None:
    """A batch names each type once, and each operation is handed over with its own."""
    seen: list[Any] = []

    async def recorder(context: Any) -> None:
        request = await context.read()
        seen.append(request)
        await context.write(
            pb.ExchangeResponse(batch_id=request.batch_id, votes=[pb.VOTE_COMMIT] * 3)
        )
        await context.read()

    operations = [Operation("x/a", b"1"), Operation("x/b", b"2"), Operation("x/a", b"3")]
    async with replica(recorder) as (mesh, _):
        batch = Batch(
            [Prepare(key(f"t{at}"), "coordinator", each) for at, each in enumerate(operations)]
        )
        await mesh.transport.exchange("p", batch, TIMEOUT_S)
    (request,) = seen
    assert ["x/a", "x/b"] == list(request.operation_type_urls)
    assert operations == [each.operation for each in batch_from(request).messages]  # type: ignore[union-attr]


async def test_the_end_of_a_stream_is_told_to_who_waits() -> None:
    """Whoever waits hears that nothing is known, and the next batch goes on a new stream."""

    async def mad(context: Any) -> None:
        await context.read()
        await context.abort(grpc.StatusCode.DATA_LOSS, "x")

    async with replica(mad) as (mesh, one):
        assert [["DATA_LOSS"]] * 2 == [await raised(mesh.asking(name)) for name in ("t1", "t2")]
        assert 2 == one.streams


async def test_who_holds_on_to_a_stream_that_has_ended_is_told_at_once() -> None:
    """It is not written to, and nobody waits for an answer."""
    async with replica() as (mesh, _):
        stream = ExchangeStream(mesh.stub.Exchange(timeout=TIMEOUT_S))
        await stream.close()
        with pytest.raises(Unreachable, match="STREAM_CLOSED"):
            await stream.ask(pb.ExchangeRequest(), TIMEOUT_S)


class Late(grpc.aio.StreamStreamClientInterceptor):
    """Begins a call only when its gate is open, or when it is too late."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        """See grpc.aio.StreamStreamClientInterceptor."""
        with suppress(asyncio.CancelledError):
            await self.gate.wait()
        return await continuation(details, requests)


async def test_a_call_that_an_interceptor_begins_too_late_is_no_answer() -> None:
    """The channel was closed meanwhile; gRPC says so of what is read, not of the call."""
    late = Late()
    channel = grpc.aio.insecure_channel("127.0.0.1:1", interceptors=[late])
    transport = GrpcParticipantTransport(lambda _: channel, "coordinator")
    asking = asyncio.ensure_future(told(transport, prepare()))
    await turns()
    await channel.close()
    with pytest.raises(Unreachable):
        await asking
    await transport.close()


async def test_an_unreadable_answer_breaks_the_stream() -> None:
    """Nobody waits until the time is up for what cannot come any more."""
    async with served(Answers(b"\xff\xff\xff").add) as channel:
        transport = GrpcParticipantTransport(lambda _: channel, "coordinator")
        assert ["UNREADABLE_REPLY"] == await raised([told(transport, prepare())])
        await transport.close()


async def test_a_participant_without_batches_is_told_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not asked for a stream each time; so many calls at once and no more."""
    at_once, most = 0, 0

    async def watched(apply: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return await write_all(apply, *args, **kwargs)
        finally:
            at_once -= 1

    monkeypatch.setattr(module, "UNARY_CONCURRENCY_MAX", 3)
    async with replica() as (mesh, one):
        write_all, one.store.write_all = one.store.write_all, watched  # type: ignore[method-assign]
        one.without.methods = ("Exchange",)
        await unary_found_out(mesh.transport)
        batch = Batch([prepare(name) for name in names(20)])
        assert [YES] * 20 == list(await mesh.transport.exchange("p", batch, TIMEOUT_S))
        assert (0, True) == (one.streams, 1 <= most <= 3)
        one.without.methods = ()
        batch = Batch([Commit(key("t1")), Abort(key("t2")), Commit(key("unknown"))])
        replies = await mesh.transport.exchange("p", batch, TIMEOUT_S)
        assert [None, None] == list(replies[:2])
        assert isinstance(replies[2], Alarm)
        assert 0 == one.streams


async def test_a_participant_that_learns_batches_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a while it is asked again, and from then on it is a stream."""
    monkeypatch.setattr(module, "UNARY_ONLY_S", 0.0)
    async with replica() as (mesh, one):
        one.without.methods = ("Exchange",)
        await unary_found_out(mesh.transport)
        assert 0 == one.streams
        one.without.methods = ()
        assert (YES, YES) == (await mesh.prepare("t2"), await mesh.prepare("t3"))
        assert 1 == one.streams


async def test_a_broken_stream_is_followed_by_one_to_another_replica() -> None:
    """All who wait hear that nothing is known; what they then send again is answered elsewhere."""
    async with replicas() as (mesh, servers):
        await mesh.prepare("t0")
        at = [each.streams for each in mesh.replicas].index(1)
        store = mesh.replicas[0].store
        store.gate.clear()
        store.reached.clear()
        waiting = mesh.asking("t1", "t2", "t3")
        await store.reached.wait()
        await servers[at].stop(None)
        assert 3 == len(await raised(waiting))
        store.gate.set()
        assert [YES] * 3 == await asyncio.gather(*mesh.asking("t1", "t2", "t3"))
        assert [1, 1] == [each.streams for each in mesh.replicas]


async def test_a_silent_replica_is_given_up() -> None:
    """Who hears nothing in time takes another; so do the others who wait for the same one."""
    async with replicas() as (mesh, _):
        store = mesh.replicas[0].store
        store.gate.clear()
        patient = mesh.asking("t1")
        await store.reached.wait()
        impatient = asyncio.ensure_future(mesh.prepare("t2", timeout_s=0.05))
        assert ["DEADLINE_EXCEEDED"] * 2 == await raised([*patient, impatient])
        store.gate.set()
        assert YES == await mesh.prepare("t1")
        assert [1, 1] == [each.streams for each in mesh.replicas]


async def test_who_is_still_writing_hears_that_a_replica_was_given_up() -> None:
    """To a write of a call that somebody else has ended gRPC for Python says CancelledError."""

    async def deaf(context: Any) -> None:
        await asyncio.Event().wait()

    large = b"x" * OPERATION_SIZE_MAX_BYTES
    async with replica(deaf) as (mesh, one):
        first = asyncio.ensure_future(mesh.prepare("first", timeout_s=0.5))
        await eventually(lambda: one.streams)
        # Nobody reads them, so that sooner or later one does not go out.
        writing = [
            asyncio.ensure_future(told(mesh.transport, prepare(name, value=large)))
            for name in names(200)
        ]
        assert {"DEADLINE_EXCEEDED"} == set(await raised([first, *writing]))


async def test_what_a_break_says_to_nobody_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who was still writing has heard of it from the write."""

    async def deaf(context: Any) -> None:
        await asyncio.Event().wait()

    large = b"x" * OPERATION_SIZE_MAX_BYTES
    async with replica(deaf) as (mesh, one):
        writing = [
            asyncio.ensure_future(told(mesh.transport, prepare(name, value=large), 0.5))
            for name in names(100)
        ]
        await eventually(lambda: one.streams)
        await raised(writing)
    del writing
    gc.collect()
    assert [] == [each.getMessage() for each in caplog.records if each.name == "asyncio"]


async def test_a_drain_answers_what_has_come_and_ends_the_stream() -> None:
    """Nobody who was read goes without an answer, and the next batch goes to another replica."""
    async with replicas() as (mesh, _):
        await mesh.prepare("t0")
        at = [each.streams for each in mesh.replicas].index(1)
        one = mesh.replicas[at]
        one.store.gate.clear()
        one.store.reached.clear()
        waiting = mesh.asking("t1")
        await one.store.reached.wait()
        draining = asyncio.ensure_future(one.servicer.drain(TIMEOUT_S))
        await asyncio.sleep(0)
        assert not draining.done()
        one.store.gate.set()
        assert [YES] == await asyncio.gather(*waiting)
        await draining

        async def answered_elsewhere() -> bool:
            try:
                return await mesh.prepare("t2") == YES
            except Unreachable:
                # The end of the stream may still be on its way, or a new one goes there first.
                return False

        await eventually(answered_elsewhere)
        assert mesh.replicas[1 - at].streams
        # Calls that are no streams are still answered.
        reply = await one.servicer._participant.get(key("t1"))
        assert BranchState.PREPARED is reply.state


async def test_a_drain_does_not_wait_longer_than_its_grace() -> None:
    """What hangs is left to whoever asks again."""
    async with replica() as (mesh, one):
        one.store.gate.clear()
        waiting = mesh.asking("t1")
        await one.store.reached.wait()
        await one.servicer.drain(0.01)
        one.store.gate.set()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_stream_that_is_drained_is_not_read_any_further() -> None:
    """A batch that comes too late is not begun: nobody would say what became of it."""
    async with replica() as (mesh, one):
        await mesh.prepare("t0")
        await one.servicer.drain(TIMEOUT_S)
        assert 1 == len(await raised(mesh.asking("t1")))
        rows = await one.participant.list_branches(after=None, limit=9, state=None)
        assert ["t0"] == [row.key.txn_id for row in rows]


async def test_closing_tells_who_waits() -> None:
    """No answer will come any more; nothing is left running."""
    before = asyncio.all_tasks()
    async with replica() as (mesh, one):
        one.store.gate.clear()
        waiting = mesh.asking("t1", "t2")
        await one.store.reached.wait()
        await mesh.transport.close()
        assert ["STREAM_CLOSED"] * 2 == await raised(waiting)
    await eventually(lambda: asyncio.all_tasks() <= before)


async def test_an_old_stream_is_replaced_before_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """New batches go on another one, and those under way are answered on the old."""
    async with replica() as (mesh, one):
        one.store.gate.clear()
        monkeypatch.setattr(numbered_stream, "RETIRE_AGE_S", 0.0)
        first = mesh.asking("t1")
        await one.store.reached.wait()
        monkeypatch.undo()
        one.store.reached.clear()
        second = mesh.asking("t2", "t3")
        await eventually(lambda: one.streams == 2)
        one.store.gate.set()
        assert [YES] * 3 == await asyncio.gather(*first, *second)
        assert (YES, 2) == (await mesh.prepare("t4"), one.streams)


async def test_a_cancelled_batch_disturbs_nobody() -> None:
    """Who stops waiting does not take the stream from the others."""
    async with replica() as (mesh, one):
        one.store.gate.clear()
        gone, stays = mesh.asking("t1", "t2")
        await one.store.reached.wait()
        gone.cancel()
        one.store.gate.set()
        assert YES == await stays
        assert (YES, 1) == (await mesh.prepare("t3"), one.streams)


async def test_who_is_cancelled_while_it_writes_disturbs_nobody() -> None:
    """The call goes on, though gRPC would cancel it with the write, and with it the others."""
    reading = asyncio.Event()

    async def late(context: Any) -> None:
        await reading.wait()
        while (request := await context.read()) is not grpc.aio.EOF:
            response = pb.ExchangeResponse(batch_id=request.batch_id, votes=[pb.VOTE_COMMIT])
            await context.write(response)

    async with replica(late) as (mesh, one):
        unread = [prepare(name, value=b"x" * LARGE_BYTES) for name in names(MORE_THAN_ARE_SENT)]
        gone = [asyncio.ensure_future(told(mesh.transport, each, TIMEOUT_S)) for each in unread]
        await eventually(lambda: one.streams == 1)
        stays = asyncio.ensure_future(mesh.prepare("stays"))
        for each in gone:
            each.cancel()
        await asyncio.wait(gone)
        reading.set()
        assert (YES, 1) == (await stays, one.streams)


def _writing(stream: ExchangeStream) -> bool:
    return stream._written is not None


async def test_closing_ends_what_is_still_being_written() -> None:
    """A replica that does not read holds up nobody who closes, and nothing is left running."""

    async def deaf(context: Any) -> None:
        await asyncio.Event().wait()

    async with replica(deaf) as (mesh, one):
        stream = ExchangeStream(mesh.stub.Exchange(timeout=TIMEOUT_S))
        unread = pb.ExchangeRequest(coordinator="x" * LARGE_BYTES * MORE_THAN_ARE_SENT)
        asking = asyncio.ensure_future(stream.ask(unread, TIMEOUT_S))
        await eventually(lambda: one.streams == 1)
        assert _writing(stream)
        await asyncio.wait_for(stream.close(), TIMEOUT_S)
        assert not _writing(stream)
        assert stream._reading.done()
        with pytest.raises(Unreachable, match="STREAM_CLOSED"):
            await asking


class Stuck:
    """A call that ends without telling who writes to it, and whose writes do not end at once."""

    async def write(self, request: object) -> None:
        """See grpc.aio.StreamStreamCall."""
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        for _ in range(20):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)

    async def read(self) -> object:
        """See grpc.aio.StreamStreamCall."""
        return await asyncio.Event().wait()

    def cancel(self) -> bool:
        """See grpc.aio.Call."""
        return True


async def test_a_write_that_hears_nothing_of_the_end_is_ended() -> None:
    """What the interceptors of others make of a call may not tell who waits to write."""
    call: Any = Stuck()
    stream = ExchangeStream(call)
    asking = asyncio.ensure_future(stream.ask(pb.ExchangeRequest(), TIMEOUT_S))
    await turns()
    assert _writing(stream)
    await asyncio.wait_for(stream.close(), TIMEOUT_S)
    assert not _writing(stream)
    with pytest.raises(Unreachable, match="STREAM_CLOSED"):
        await asking


async def test_a_batch_that_breaks_a_rule_ends_the_stream() -> None:
    """With the status that says which field; what came before it is answered."""
    async with replica() as (mesh, one):
        call = mesh.stub.Exchange(timeout=TIMEOUT_S)
        good = pb.ExchangeRequest(
            batch_id=1,
            coordinator="coordinator",
            verbs=[pb.VERB_ABORT],
            txn_ids=["t1"],
            branch_ids=["a"],
        )
        bad = pb.ExchangeRequest(
            batch_id=2,
            coordinator="coordinator",
            verbs=[pb.VERB_UNSPECIFIED],
            txn_ids=["t2"],
            branch_ids=["a"],
        )
        await call.write(good)
        await call.write(bad)
        answer: Any = await call.read()
        assert (1, 1) == (answer.batch_id, len(answer.votes))
        error = await failed(call.read())
        assert grpc.StatusCode.INVALID_ARGUMENT is error.code()
        rows = await one.participant.list_branches(after=None, limit=9, state=None)
        assert ["t1"] == [row.key.txn_id for row in rows]


@pytest.mark.parametrize(
    ("horizon", "rule"),
    [("t" * 65, "string.max_len"), ("t 1", "string.pattern"), ("t1\n", "string.pattern")],
    ids=["long", "space", "newline"],
)
async def test_a_horizon_that_is_no_id_is_refused(horizon: str, rule: str) -> None:
    """It would be written down for ever; the status names the field, and nothing is forgotten."""
    async with replica() as (mesh, one):
        await one.participant.prepare(prepare("t1"))
        await one.participant.commit(key("t1"))
        call = mesh.stub.Exchange(timeout=TIMEOUT_S)
        await call.write(
            pb.ExchangeRequest(
                coordinator="coordinator",
                forgettable_txn_ids=["t1"],
                forgettable_branch_ids=[key("t1").branch_id],
                prepare_horizon=horizon,
            )
        )
        error = await failed(call.read())
        assert grpc.StatusCode.INVALID_ARGUMENT is error.code()
        assert ("INVALID_ARGUMENT", {"prepare_horizon": rule}) == details(error)
        assert YES == await one.participant.prepare(prepare("t0"))
        assert BranchState.COMMITTED is (await one.participant.get(key("t1"))).state


async def test_a_stream_is_read_only_so_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that sends more than is answered has to wait; in the end all is answered."""
    from txn.rpc import participant as servicer

    monkeypatch.setattr(servicer, "EXCHANGE_BATCHES_MAX", 2)
    async with replica() as (mesh, one):
        one.store.gate.clear()
        begun = 0
        exchange = one.participant.exchange

        async def counted(batch: Batch) -> Any:
            nonlocal begun
            begun += 1
            return await exchange(batch)

        one.participant.exchange = counted  # type: ignore[method-assign]
        waiting = mesh.asking(*names(8))
        await eventually(lambda: begun == 2)
        # A fence: whatever could have been read by now would have been.
        for _ in range(5):
            await mesh.stub.ListBranches(pb.ListBranchesRequest())
        assert 2 == begun
        one.store.gate.set()
        assert [YES] * 8 == await asyncio.gather(*waiting)
