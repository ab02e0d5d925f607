"""Payments one after the other, while something is done to the mesh."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

import grpc
from tallystick.wallet.v1 import wallet_service_pb2

from tests.support.mesh import Shop

RECOVER_WITHIN_S = 30.0
RETRY_AFTER_S = 0.1
# Between two payments of one payer: without a pause paying would be all that the machine does.
THINK_S = 0.4


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
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), THINK_S)

    async def until_paid(self, count: int, *, within_s: float = RECOVER_WITHIN_S) -> None:
        """Waits for `count` more payments."""
        target = self.paid + count
        async with asyncio.timeout(within_s):
            while self.paid < target:  # noqa: ASYNC110 - a count, not an event
                await asyncio.sleep(0.02)
