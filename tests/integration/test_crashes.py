"""Processes are killed with -9 at the worst moments; afterwards both books must agree."""

from __future__ import annotations

import asyncio
from typing import Self

import grpc
from tallystick.txn.v1 import coordinator_service_pb2
from tallystick.wallet.v1 import wallet_service_pb2

from tests.support.books import books_agree, unfinished
from tests.support.mesh import CALL_TIMEOUT_S, Mesh, Shop
from txn.crash_point import AFTER_APPLY, AFTER_DECISION, AFTER_VOTE, BEFORE_DECISION

PAYERS = 6
RECOVER_WITHIN_S = 30.0
RETRY_AFTER_S = 0.1


async def test_coordinator_killed_after_its_decision_commits_when_it_is_back(
    own_mesh: Mesh,
) -> None:
    """A decision that was forced before the coordinator died is carried out by the next one."""
    shop = await Shop(own_mesh).open()
    await own_mesh.restart("coordinator-0", failpoint=AFTER_DECISION)
    trade = await shop.trade()
    payment = asyncio.ensure_future(shop.pay(trade))
    assert await own_mesh.processes["coordinator-0"].ended() == -9
    assert await shop.state_of(trade) == "PAYING"
    assert (await shop.balance(shop.payer)).held_minor == 350

    own_mesh.processes["coordinator-0"].launch()
    first_reply = await asyncio.gather(payment, return_exceptions=True)
    txn_id = await shop.pay_until_final(trade, within_s=RECOVER_WITHIN_S)

    assert isinstance(
        first_reply[0], wallet_service_pb2.ConfirmPaymentResponse | grpc.aio.AioRpcError
    )
    assert await shop.state_of(trade) == "TRADE_SUCCESS"
    assert (await shop.balance(shop.merchant)).posted_minor == 350
    view = await own_mesh.coordinator.GetTransaction(
        coordinator_service_pb2.GetTransactionRequest(txn_id=txn_id),
        timeout=CALL_TIMEOUT_S,
        wait_for_ready=True,
    )
    assert view.transaction.outcome == coordinator_service_pb2.OUTCOME_COMMITTED
    await books_agree(own_mesh)


async def test_coordinator_killed_before_its_decision_leaves_the_trade_payable(
    own_mesh: Mesh,
) -> None:
    """Without a decision the votes come to nothing, and the same request pays after all."""
    shop = await Shop(own_mesh).open()
    await own_mesh.restart("coordinator-0", failpoint=BEFORE_DECISION)
    trade = await shop.trade()
    payment = asyncio.ensure_future(shop.pay(trade))
    assert await own_mesh.processes["coordinator-0"].ended() == -9
    assert await shop.state_of(trade) == "PAYING"

    own_mesh.processes["coordinator-0"].launch()
    await asyncio.gather(payment, return_exceptions=True)
    await shop.pay_until_final(trade, within_s=RECOVER_WITHIN_S)

    assert await shop.state_of(trade) == "TRADE_SUCCESS"
    assert (await shop.balance(shop.merchant)).posted_minor == 350
    await books_agree(own_mesh)


async def test_ledger_killed_after_its_vote_keeps_the_hold_and_hears_the_outcome(
    own_mesh: Mesh,
) -> None:
    """A forced vote survives the ledger, and the transaction ends the same in both books."""
    shop = await Shop(own_mesh).open()
    await own_mesh.restart("ledger-0", failpoint=AFTER_VOTE)
    trade = await shop.trade()
    payment = asyncio.ensure_future(shop.pay(trade))
    assert await own_mesh.processes["ledger-0"].ended() == -9
    assert [row[0] for row in unfinished(own_mesh)].count("hold") == 1

    own_mesh.processes["ledger-0"].launch()
    await asyncio.gather(payment, return_exceptions=True)

    await books_agree(own_mesh)
    paid = await shop.state_of(trade) == "TRADE_SUCCESS"
    assert (await shop.balance(shop.merchant)).posted_minor == (350 if paid else 0)
    second = await shop.trade()
    await shop.pay_until_final(second, within_s=RECOVER_WITHIN_S)
    await books_agree(own_mesh)


async def test_ledger_killed_after_applying_applies_once(own_mesh: Mesh) -> None:
    """A commit whose acknowledgement is lost is repeated, and moves the money once."""
    shop = await Shop(own_mesh).open()
    await own_mesh.restart("ledger-0", failpoint=AFTER_APPLY)
    trade = await shop.trade()
    payment = asyncio.ensure_future(shop.pay(trade))
    assert await own_mesh.processes["ledger-0"].ended() == -9

    own_mesh.processes["ledger-0"].launch()
    await asyncio.gather(payment, return_exceptions=True)
    await shop.pay_until_final(trade, within_s=RECOVER_WITHIN_S)

    assert (await shop.balance(shop.merchant)).posted_minor == 350
    await books_agree(own_mesh)


class Load:
    """Payments one after the other by several payers, until told to stop."""

    def __init__(self, shops: list[Shop]) -> None:
        self._shops = shops
        self._stop = asyncio.Event()
        self.paid = 0
        self.failed: list[grpc.StatusCode] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.ensure_future(self._pay(shop)) for shop in self._shops]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Lets those under way end."""
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _pay(self, shop: Shop) -> None:
        while not self._stop.is_set():
            try:
                trade = await shop.trade()
                reply = await shop.pay(trade)
            except grpc.aio.AioRpcError as error:
                self.failed.append(error.code())
                await asyncio.sleep(RETRY_AFTER_S)
            else:
                self.paid += reply.state == wallet_service_pb2.PAYMENT_STATE_SUCCEEDED

    async def until_paid(self, count: int) -> None:
        """Waits for `count` more payments."""
        target = self.paid + count
        async with asyncio.timeout(RECOVER_WITHIN_S):
            while self.paid < target:  # noqa: ASYNC110 - a count, not an event
                await asyncio.sleep(0.02)


async def test_etcd_killed_under_load_fails_no_payment_and_loses_no_registration(
    own_mesh: Mesh,
) -> None:
    """Calls to endpoints that are known go on while etcd is dead, and everyone is back after it."""
    before = own_mesh.etcd.entries("tallystick/")
    async with Load([await Shop(own_mesh).open() for _ in range(2)]) as load:
        await load.until_paid(5)
        own_mesh.etcd.kill9()
        await load.until_paid(10)
        own_mesh.etcd.start()
        await load.until_paid(10)

    assert load.failed == []
    assert own_mesh.etcd.entries("tallystick/").keys() == before.keys()
    await books_agree(own_mesh)


async def test_all_services_killed_at_once_under_load_leave_both_books_the_same(
    own_mesh: Mesh,
) -> None:
    """Whatever was under way when everything died ends the same way in both books."""
    async with Load([await Shop(own_mesh).open() for _ in range(PAYERS)]) as load:
        await load.until_paid(PAYERS)
        for process in own_mesh.processes.values():
            process.kill9()
        for process in own_mesh.processes.values():
            process.launch()
        await load.until_paid(PAYERS)
    await books_agree(own_mesh)
