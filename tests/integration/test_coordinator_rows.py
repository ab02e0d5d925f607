"""Fault rows 1 to 8, 13, 14 and 29 over real processes: a coordinator or a caller dies.

Each test is named for its row in the table of faults, and ends with both books checked.
"""

from __future__ import annotations

import asyncio

import grpc
import pytest
from tallystick.order.v1 import order_service_pb2
from tallystick.txn.v1 import (
    coordinator_service_pb2,
    participant_service_pb2,
    participant_service_pb2_grpc,
)

from services.runtime import EXIT_CANNOT_START
from tests.discovery.proxy import TcpProxy
from tests.support.books import books_agree, unfinished
from tests.support.faults import injected, stopped
from tests.support.mesh import CALL_TIMEOUT_S, Mesh, ServiceProcess, Shop
from tests.support.waiting import eventually
from txn.crash_point import (
    ACKNOWLEDGEMENT_ARRIVES,
    AFTER_DECISION,
    BEFORE_DECISION,
    BEFORE_END,
    DURING_RECOVERY,
    PREPARE_LEAVES,
    VOTE_ARRIVES,
)
from txn.ids import new_id_after
from txn.model import log_id_of
from txn.participant import LATE_PREPARE
from txn.rpc import reason_of

KILLED = -9
RECOVER_WITHIN_S = 30.0
PRICE_MINOR = 350
COMMITTED = coordinator_service_pb2.OUTCOME_COMMITTED


async def _die_paying(
    mesh: Mesh, failpoint: str
) -> tuple[Shop, order_service_pb2.Trade, ServiceProcess]:
    """The coordinator is armed, dies in a payment, and is away."""
    shop = await Shop(mesh).open()
    trade = await shop.trade()
    coordinator = mesh.processes["coordinator-0"]
    # In order, so that nothing that ended before is taken up by who is armed.
    await mesh.restart("coordinator-0", failpoint=failpoint)
    await _ask_until_it_dies(shop, trade, coordinator)
    return shop, trade, coordinator


async def _ask_until_it_dies(
    shop: Shop, trade: order_service_pb2.Trade, victim: ServiceProcess
) -> None:
    asked = asyncio.ensure_future(shop.execute(trade))
    assert await victim.ended() == KILLED
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)


async def _nothing_came_of_it(shop: Shop, trade: order_service_pb2.Trade) -> None:
    """Holds are freed without a new request, and the trade can still be paid."""
    await books_agree(shop.mesh)
    assert await shop.state_of(trade) == "WAIT_BUYER_PAY"
    payer = await shop.balance(shop.payer)
    assert (payer.posted_minor, payer.held_minor) == (100_000, 0)
    await _paid_once(shop, trade)


async def _paid_once(shop: Shop, trade: order_service_pb2.Trade) -> str:
    """The same request ends, twice with the same answer, and moves the money once."""
    first = await shop.execute_until_final(trade, within_s=RECOVER_WITHIN_S)
    second = await shop.execute(trade)
    assert (first.outcome, first.txn_id) == (second.outcome, second.txn_id)
    assert first.outcome == COMMITTED
    assert await shop.state_of(trade) == "TRADE_SUCCESS"
    assert (await shop.balance(shop.merchant)).posted_minor == PRICE_MINOR
    await books_agree(shop.mesh)
    return first.txn_id


async def test_row_1_coordinator_killed_before_the_first_prepare(hurt_mesh: Mesh) -> None:
    """Nobody has heard of it: nothing is held, and the same request pays."""
    shop, trade, coordinator = await _die_paying(hurt_mesh, PREPARE_LEAVES)
    assert unfinished(hurt_mesh) == []
    coordinator.launch()
    await _nothing_came_of_it(shop, trade)


async def test_row_2_coordinator_killed_after_one_vote(hurt_mesh: Mesh) -> None:
    """Who has voted asks, is told ABORT, and frees what it held."""
    shop, trade, coordinator = await _die_paying(hurt_mesh, VOTE_ARRIVES)
    assert unfinished(hurt_mesh) != []
    coordinator.launch()
    await _nothing_came_of_it(shop, trade)


async def test_who_has_asked_nothing_yet_asks_while_the_registry_is_away(
    hurt_mesh: Mesh,
) -> None:
    """Participants have looked for the coordinator before they serve: what is held is freed."""
    await hurt_mesh.restart("order-0")
    await hurt_mesh.restart("ledger-0")
    shop, trade, coordinator = await _die_paying(hurt_mesh, BEFORE_DECISION)
    hurt_mesh.etcd.kill9()
    try:
        coordinator.launch()
        await eventually(
            lambda: unfinished(hurt_mesh) == [], RECOVER_WITHIN_S, what="nothing is held"
        )
    finally:
        hurt_mesh.etcd.start()
    await _nothing_came_of_it(shop, trade)


async def test_row_3_coordinator_killed_with_all_votes_and_nothing_written(
    hurt_mesh: Mesh,
) -> None:
    """Votes without a decision come to nothing, in both books."""
    shop, trade, coordinator = await _die_paying(hurt_mesh, BEFORE_DECISION)
    assert await shop.state_of(trade) == "PAYING"
    assert (await shop.balance(shop.payer)).held_minor == PRICE_MINOR
    coordinator.launch()
    await _nothing_came_of_it(shop, trade)


@pytest.mark.parametrize(
    ("call", "fault"),
    [("pwrite64", "signal=KILL:when=3"), ("fdatasync", "signal=KILL:when=1")],
    ids=["half-written", "unforced"],
)
@pytest.mark.only_on("sqlite")  # a fault of its files
async def test_row_4_coordinator_killed_inside_the_decision_write(
    hurt_mesh: Mesh, call: str, fault: str
) -> None:
    """Whichever outcome is on disk is that of both books, and the request ends once."""
    shop = await Shop(hurt_mesh).open()
    trade = await shop.trade()
    coordinator = hurt_mesh.processes["coordinator-0"]
    async with injected(coordinator, call, fault):
        await _ask_until_it_dies(shop, trade, coordinator)
    coordinator.launch()
    await books_agree(hurt_mesh)
    await _paid_once(shop, trade)


async def test_row_5_coordinator_killed_with_the_decision_durable_and_none_sent(
    hurt_mesh: Mesh,
) -> None:
    """A decision that was forced before the coordinator died is carried out by the next one."""
    shop, trade, coordinator = await _die_paying(hurt_mesh, AFTER_DECISION)
    assert await shop.state_of(trade) == "PAYING"
    assert (await shop.balance(shop.payer)).held_minor == PRICE_MINOR
    coordinator.launch()
    await books_agree(hurt_mesh)
    assert await shop.state_of(trade) == "TRADE_SUCCESS"
    await _paid_once(shop, trade)


async def test_row_6_coordinator_killed_after_the_first_commit(hurt_mesh: Mesh) -> None:
    """One book has it, so the other one gets it."""
    shop, trade, coordinator = await _die_paying(hurt_mesh, ACKNOWLEDGEMENT_ARRIVES)
    coordinator.launch()
    await books_agree(hurt_mesh)
    assert await shop.state_of(trade) == "TRADE_SUCCESS"
    await _paid_once(shop, trade)


async def test_row_7_coordinator_killed_with_all_acknowledged_and_the_end_unwritten(
    hurt_mesh: Mesh,
) -> None:
    """Commit is sent again, does nothing, and the transaction does not stay open."""
    shop, trade, coordinator = await _die_paying(hurt_mesh, BEFORE_END)
    assert unfinished(hurt_mesh) == []
    coordinator.launch()
    await _paid_once(shop, trade)
    await _nothing_is_open(hurt_mesh)


async def test_row_8_coordinator_killed_during_recovery_three_times_in_a_row(
    hurt_mesh: Mesh,
) -> None:
    """Recovery begins again, however far it had come, and ends in the same place."""
    shop, trade, coordinator = await _die_paying(hurt_mesh, AFTER_DECISION)
    for failpoint in (DURING_RECOVERY, ACKNOWLEDGEMENT_ARRIVES, BEFORE_END):
        coordinator.launch(failpoint)
        assert await coordinator.ended() == KILLED
    coordinator.launch()
    await _paid_once(shop, trade)
    await _nothing_is_open(hurt_mesh)


async def _nothing_is_open(mesh: Mesh) -> None:
    async def closed() -> bool:
        reply = await mesh.coordinator.ListTransactions(
            coordinator_service_pb2.ListTransactionsRequest(unfinished_only=True),
            timeout=CALL_TIMEOUT_S,
        )
        return not reply.transactions

    await eventually(closed, what="no transaction without an end")


async def test_row_13_wallet_killed_after_submitting(hurt_mesh: Mesh) -> None:
    """A payment belongs to the coordinator: the same key finds it, and charges once."""
    shop = await Shop(hurt_mesh).open()
    trade = await shop.trade()
    wallet = hurt_mesh.processes["wallet-0"]
    with stopped(hurt_mesh.processes["ledger-0"]):
        payment = asyncio.ensure_future(shop.pay(trade))

        def voted() -> bool:
            nonlocal payment
            if payment.done() and payment.exception() is not None:
                # The coordinator was started anew before this test: the wallet finds it by and by.
                payment = asyncio.ensure_future(shop.pay(trade))
            return bool(unfinished(hurt_mesh))

        await eventually(voted, what="a vote")
        wallet.kill9()
    with pytest.raises(grpc.aio.AioRpcError):
        await payment
    wallet.launch()
    first = await shop.pay_until_final(trade, within_s=RECOVER_WITHIN_S)
    assert first == await shop.pay_until_final(trade, within_s=RECOVER_WITHIN_S)
    assert (await shop.balance(shop.merchant)).posted_minor == PRICE_MINOR
    await books_agree(hurt_mesh)


async def test_row_13_the_commit_reply_is_dropped(hurt_mesh: Mesh) -> None:
    """Who does not hear that it was paid asks again, and is told of the same transaction."""
    shop = await Shop(hurt_mesh).open()
    trade = await shop.trade()
    address = hurt_mesh.processes["coordinator-0"].address
    async with TcpProxy(address) as proxy, grpc.aio.insecure_channel(proxy.endpoint) as channel:
        execute: grpc.aio.UnaryUnaryMultiCallable[coordinator_service_pb2.ExecuteRequest, bytes] = (
            channel.unary_unary(
                "/tallystick.txn.v1.CoordinatorService/Execute",
                request_serializer=coordinator_service_pb2.ExecuteRequest.SerializeToString,
            )
        )
        with stopped(hurt_mesh.processes["ledger-0"]):
            asked = asyncio.ensure_future(execute(shop.payment(trade), timeout=CALL_TIMEOUT_S))
            await eventually(lambda: unfinished(hurt_mesh), what="a vote")
            proxy.freeze()
        await books_agree(hurt_mesh)
        await proxy.cut()
        with pytest.raises(grpc.aio.AioRpcError):
            await asked
    assert await shop.state_of(trade) == "TRADE_SUCCESS"
    await _paid_once(shop, trade)


async def test_row_14_late_doubled_and_reordered_messages(hurt_mesh: Mesh) -> None:
    """None has a second effect, a late Prepare votes ABORT, a Commit of the unknown no success."""
    shop = await Shop(hurt_mesh).open()
    trade = await shop.trade()
    paid = (await shop.execute(trade)).txn_id
    unknown = new_id_after(paid.removesuffix(log_id_of(paid))) + log_id_of(paid)
    operation = shop.payment(trade).branches[1].operation
    address = hurt_mesh.processes["ledger-0"].address
    async with grpc.aio.insecure_channel(address) as channel:
        ledger = participant_service_pb2_grpc.ParticipantServiceStub(channel)

        async def prepare(txn_id: str) -> tuple[int, str]:
            reply = await ledger.Prepare(
                participant_service_pb2.PrepareRequest(
                    txn_id=txn_id, branch_id="ledger", coordinator="coordinator",
                    operation=operation,
                ),
                timeout=CALL_TIMEOUT_S,
            )  # fmt: skip
            return reply.vote, reply.reason

        commit = participant_service_pb2.CommitRequest(txn_id=unknown, branch_id="ledger")
        with pytest.raises(grpc.aio.AioRpcError) as early:
            await ledger.Commit(commit, timeout=CALL_TIMEOUT_S)
        assert reason_of(early.value) == "UNKNOWN_BRANCH"
        abort = participant_service_pb2.AbortRequest(txn_id=unknown, branch_id="ledger")
        for _ in range(2):
            await ledger.Abort(abort, timeout=CALL_TIMEOUT_S)
            late = await prepare(unknown)
            assert late == (participant_service_pb2.VOTE_ABORT, LATE_PREPARE)

        async def forgotten() -> bool:
            await shop.execute(await shop.trade(1))
            return await prepare(paid) == (participant_service_pb2.VOTE_ABORT, LATE_PREPARE)

        await eventually(forgotten, what="a branch that is over forgotten")
    entries = (await shop.balance(shop.merchant)).posted_minor
    assert entries // PRICE_MINOR == 1
    await books_agree(hurt_mesh)


@pytest.mark.only_on("sqlite")  # a fault of its files
async def test_row_29_coordinator_refuses_a_log_that_has_lost_its_end(hurt_mesh: Mesh) -> None:
    """A commit whose decision is gone is not aborted: nobody answers until it is back."""
    shop, trade, coordinator = await _die_paying(hurt_mesh, AFTER_DECISION)
    frames = hurt_mesh.book("coordinator").with_name("coordinator.db-wal")
    whole = frames.read_bytes()
    frames.write_bytes(whole[:-1000])
    coordinator.launch()
    assert await coordinator.ended() == EXIT_CANNOT_START
    assert "is not as it was written" in coordinator.log
    assert frames.read_bytes() == whole[:-1000]
    assert await shop.state_of(trade) == "PAYING"

    frames.write_bytes(whole)
    coordinator.launch()
    await books_agree(hurt_mesh)
    assert await shop.state_of(trade) == "TRADE_SUCCESS"
    await _paid_once(shop, trade)
