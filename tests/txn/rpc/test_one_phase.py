"""One phase on the wire: who is asked for it, and what becomes of it where nobody knows it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tallystick.txn.v1 import participant_service_pb2 as pb

from tests.support.waiting import eventually
from tests.txn.helpers import CALLER, WAIT_S, branch, coordinator, key, operation, start
from tests.txn.rpc.rig import TIMEOUT_S, unary_found_out
from tests.txn.rpc.test_participant_transport import Mesh, replica, replicas
from txn.errors import BranchDiffers, BranchForgotten, BranchPrepared, Busy, Unreachable
from txn.model import Batch, Message, Perform, Prepare, Reply, Resolve, TxnId, VoteReply
from txn.rpc.participant import batch_from
from txn.rpc.replies import replies_out
from txn.state import BranchState, Outcome, Vote
from txn.testing import MemoryDecisionLog, MemoryStore

YES = VoteReply(Vote.COMMIT)


def perform(txn_id: str = "t1", value: bytes = b"op") -> Perform:
    """A perform of one branch."""
    return Perform(key(txn_id), "coordinator", operation(value))


async def told(mesh: Mesh, *messages: Message) -> list[Reply | type[Exception]]:
    """The answers to one batch; errors as their types."""
    replies = await mesh.transport.exchange("p", Batch(messages), TIMEOUT_S)
    return [type(each) if isinstance(each, Exception) else each for each in replies]


def old(exchange: list[pb.ExchangeRequest]) -> Callable[[Any], Awaitable[None]]:
    """A replica of a release that does not know one phase; it notes what comes and agrees."""

    async def serve(context: Any) -> None:
        while (request := await context.read()) is not None and isinstance(
            request, pb.ExchangeRequest
        ):
            exchange.append(request)
            response = replies_out([YES] * len(request.verbs), request.batch_id)
            response.ClearField("one_phase")
            await context.write(response)

    return serve


async def test_what_is_asked_and_answered_arrives() -> None:
    """Votes, reasons and errors, in their places, among what takes two phases."""
    async with replica() as (mesh, one):
        expected: list[Reply | type[Exception]] = [
            YES,
            VoteReply(Vote.ABORT, "NO"),
            Busy,
            YES,
            VoteReply(Vote.ABORT),
            VoteReply(Vote.READ_ONLY),
            Unreachable,
        ]
        assert expected == await told(
            mesh,
            perform("t1"),
            perform("t2", b"refuse"),
            perform("t3", b"busy"),
            Prepare(key("t4"), "coordinator", operation()),
            Resolve(key("t5")),
            perform("t6", b"read"),
            perform("t7", b"break"),
        )
        row = await one.participant.get(key("t1"))
    assert (BranchState.COMMITTED, operation()) == (row.state, row.operation)


async def test_alarms_arrive_as_what_they_are() -> None:
    """Not as refusals, and not as silence."""
    async with replica() as (mesh, one):
        prepare = Prepare(key("t1-x"), "coordinator", operation())
        await told(mesh, prepare, perform("t2-x"))
        assert [BranchPrepared, BranchPrepared, BranchDiffers] == await told(
            mesh, perform("t1-x"), Resolve(key("t1-x")), perform("t2-x", b"other")
        )
        await one.participant.forget([], TxnId("t9-x"))
        assert [BranchForgotten] == await told(mesh, Resolve(key("t3-x")))


async def test_who_has_not_said_so_is_not_known_to_offer_it() -> None:
    """It says so with every answer, on the stream that is open."""
    async with replica() as (mesh, _):
        assert not mesh.transport.offers_one_phase("p")
        await told(mesh, Prepare(key(), "coordinator", operation()))
        assert mesh.transport.offers_one_phase("p")
        await mesh.transport.close()
        assert not mesh.transport.offers_one_phase("p")


async def test_a_replica_that_was_given_up_offers_nothing() -> None:
    """The next one has to say what it knows, before anything begins in one phase."""
    async with replica() as (mesh, one):
        await told(mesh, Prepare(key(), "coordinator", operation()))
        one.store.gate.clear()
        with pytest.raises(Unreachable):
            await mesh.transport.exchange("p", Batch([perform("t2")]), 0.05)
        assert not mesh.transport.offers_one_phase("p")
        one.store.gate.set()
        assert [YES] == await told(mesh, perform("t2"))
        assert mesh.transport.offers_one_phase("p")


async def test_a_replica_that_does_not_know_it_is_not_asked() -> None:
    """What it knows it is told; the rest waits for another replica."""
    came: list[pb.ExchangeRequest] = []
    async with replica(old(came)) as (mesh, _):
        prepare = Prepare(key("t4"), "coordinator", operation())
        assert [Unreachable, YES, Unreachable] == await told(
            mesh, perform(), prepare, Resolve(key("t2"))
        )
        assert not mesh.transport.offers_one_phase("p")
    assert {pb.VERB_PREPARE} == {verb for request in came for verb in request.verbs}


async def test_a_participant_without_batches_is_not_asked() -> None:
    """Its calls know two phases only."""
    async with replica() as (mesh, one):
        one.without.methods = ("Exchange",)
        await unary_found_out(mesh.transport)
        assert not mesh.transport.offers_one_phase("p")
        assert [Unreachable, Unreachable] == await told(mesh, perform(), Resolve(key()))


@pytest.mark.parametrize("value", [b"op", b"refuse"])
async def test_what_is_asked_again_on_another_stream_is_answered_the_same(value: bytes) -> None:
    """The new stream is asked first what its replica knows, and it is done once."""
    async with replicas() as (mesh, servers):
        first = await told(mesh, perform(value=value))
        await servers[[each.streams for each in mesh.replicas].index(1)].stop(None)

        async def again() -> bool:
            try:
                return first == await told(mesh, perform(value=value))
            except Unreachable:
                return False

        await eventually(again)
        assert [1, 1] == [each.streams for each in mesh.replicas]
        rows = await mesh.replicas[0].participant.list_branches(after=None, limit=9, state=None)
    assert 1 == len(rows)


async def test_a_transaction_with_one_branch_takes_one_phase() -> None:
    """The first to a participant takes two, since nobody knew; the next ones do not."""
    async with replica() as (mesh, one):
        exchange = one.participant.exchange
        kinds: list[str] = []

        async def noted(batch: Batch) -> list[Reply]:
            kinds.extend(type(each).__name__ for each in batch.messages)
            return await exchange(batch)

        one.participant.exchange = noted  # type: ignore[method-assign]
        engine = coordinator(mesh.transport, MemoryDecisionLog(MemoryStore()))
        await start(engine)
        for number in range(3):
            result = await engine.execute(
                caller=CALLER,
                idempotency_key=f"k{number}",
                branches=[branch("ledger", "ledger")],
                wait_s=WAIT_S,
            )
            assert Outcome.COMMITTED is result.outcome
        await engine.close(grace_s=0)
    assert ["Prepare", "Commit", "Perform", "Perform"] == kinds


def test_operations_keep_to_their_messages() -> None:
    """Those of prepares and performs are one column, in the order of both."""
    request = pb.ExchangeRequest(
        batch_id=1,
        coordinator="coordinator",
        verbs=[pb.VERB_PERFORM, pb.VERB_RESOLVE, pb.VERB_PREPARE, pb.VERB_ABORT],
        txn_ids=["t1", "t2", "t3", "t4"],
        branch_ids=["a", "a", "a", "a"],
        operation_type_urls=["type.example/Op"],
        operation_types=[0, 0],
        operations=[b"one", b"three"],
    )
    first, second, third, _ = batch_from(request).messages
    assert perform("t1", b"one") == first
    assert Resolve(key("t2")) == second
    assert Prepare(key("t3"), "coordinator", operation(b"three")) == third


async def test_another_replica_is_looked_for() -> None:
    """While one that does not know one phase answers, the next stream may be to one that does."""
    async with replica(old([])) as (mesh, one):
        for _ in range(3):
            both = [told(mesh, Resolve(key(name))) for name in ("t1", "t2")]
            assert [[Unreachable]] * 2 == await asyncio.gather(*both)
        assert 3 == one.streams
