"""The coordinator's other way in: many requests begun in one call, and watched."""

from __future__ import annotations

import asyncio

from txn.coordinator import Begun, Coordinator, conclude
from txn.errors import TxnError
from txn.transaction import Request, Result, Transaction

# How long requests gather before they are begun together.
GATHER_S = 0.002


class Door:
    """Begins what has come together in one call, as a stream of requests does."""

    def __init__(self, engine: Coordinator) -> None:
        self._engine = engine
        self._waiting: list[tuple[Request, asyncio.Future[Begun]]] = []

    async def execute(self, request: Request, wait_s: float) -> Result:
        """As `Coordinator.execute`."""
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[Begun] = loop.create_future()
        if not self._waiting:
            loop.call_later(GATHER_S, lambda: loop.create_task(self._begin()))
        self._waiting.append((request, mine))
        begun = await mine
        if isinstance(begun, Transaction):
            await self._wait(begun, wait_s, for_applied=request.wait_for_applied)
        return conclude(request, begun)

    async def _begin(self) -> None:
        those, self._waiting = self._waiting, []
        begun: list[Begun]
        try:
            begun = await self._engine.begin([request for request, _ in those])
        except TxnError as error:
            begun = [error] * len(those)
        for (_, future), each in zip(those, begun, strict=True):
            if not future.done():
                future.set_result(each)

    async def _wait(self, transaction: Transaction, wait_s: float, *, for_applied: bool) -> None:
        changed = asyncio.Event()
        transaction.watch(changed.set)
        try:
            async with asyncio.timeout(wait_s):
                while not transaction.final(wait_for_applied=for_applied):
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            pass
        finally:
            transaction.unwatch(changed.set)
