"""Processes are killed with -9 under load; afterwards both books must agree."""

from __future__ import annotations

import asyncio
from typing import Self

import grpc
from tallystick.wallet.v1 import wallet_service_pb2

from tests.support.books import books_agree
from tests.support.mesh import Mesh, Shop
from tests.support.waiting import eventually

PAYERS = 6
RECOVER_WITHIN_S = 30.0
RETRY_AFTER_S = 0.1


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
    hurt_mesh: Mesh,
) -> None:
    """Calls to endpoints that are known go on while etcd is dead, and everyone is back after it."""
    everyone = {f"tallystick/{p.service}/{p.address}" for p in hurt_mesh.processes.values()}

    def registered() -> set[str]:
        return set(hurt_mesh.etcd.entries("tallystick/"))

    await eventually(lambda: registered() == everyone, what="everyone registered")
    async with Load([await Shop(hurt_mesh).open() for _ in range(2)]) as load:
        await load.until_paid(5)
        hurt_mesh.etcd.kill9()
        await load.until_paid(10)
        hurt_mesh.etcd.start()
        await load.until_paid(10)

    assert load.failed == []
    assert registered() == everyone
    await books_agree(hurt_mesh)


async def test_row_12_all_services_killed_at_once_under_load_leave_both_books_the_same(
    hurt_mesh: Mesh,
) -> None:
    """Whatever was under way when everything died ends the same way in both books."""
    async with Load([await Shop(hurt_mesh).open() for _ in range(PAYERS)]) as load:
        await load.until_paid(PAYERS)
        for process in hurt_mesh.processes.values():
            process.kill9()
        for process in hurt_mesh.processes.values():
            process.launch()
        await load.until_paid(PAYERS)
    await books_agree(hurt_mesh)
