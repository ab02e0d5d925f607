"""Looks at a mesh under fire: its books, its endpoints, its processes."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from statistics import fmean

import grpc
from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.order.v1 import order_service_pb2

from tests.chaos.books import Books
from tests.chaos.crowd import Crowd, Reader
from tests.chaos.history import History
from tests.chaos.money import HOLDERS
from tests.chaos.probes import Probe
from tests.chaos.reading import read_books, read_recent
from tests.chaos.resources import Taken, taken
from tests.chaos.rig import Rig
from tests.chaos.snapshots import Watch
from tests.support.mesh import Clients

LOOK_EVERY_S = 0.7
PROBE_EVERY_S = 0.3
# That a machine is busy is no failure.
PROBE_TIMEOUT_S = 20.0


class Monitor:
    """Runs beside everything until it is closed."""

    def __init__(self, rig: Rig, crowd: Crowd, history: History, calm: Callable[[], bool]) -> None:
        self.watch = Watch()
        self.probes: list[Probe] = []
        # When it was woken, and how many times as late as it asked for.
        self.lateness: list[tuple[float, float]] = []
        self._rig = rig
        self._crowd = crowd
        self._reader = Reader(history)
        self._calm = calm
        self._after = 0
        self._probing = Clients(rig.settings.home.path)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to look."""
        self._probing.connect(self._rig.network.to_etcd("probe", self._rig.etcd))
        self._tasks = [
            asyncio.ensure_future(self._look_on()),
            asyncio.ensure_future(self._probe_on()),
        ]

    async def close(self) -> None:
        """Ends. Raises what made it fail."""
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._probing.disconnect()
        for result in results:
            if isinstance(result, Exception):
                raise result

    @property
    def paid(self) -> int:
        """Payments that clients have heard of, the funds aside."""
        return self.history.paid

    @property
    def history(self) -> History:
        """What clients have asked and heard so far."""
        return self._reader.history

    def read_journals(self) -> None:
        """Takes in what clients have written."""
        self._reader.read(self._crowd.journals)

    async def books(self) -> Books:
        """All of the books. Raises sqlite3.Error."""
        return await asyncio.to_thread(read_books, self._rig.data)

    def late(self, from_s: float) -> float:
        """How busy the machine was since then: at 3 a sleep took three times as long as asked."""
        return fmean([late for at_s, late in self.lateness if at_s >= from_s] or [1.0])

    def worst_late(self, from_s: float, to_s: float) -> float:
        """The same at its worst in between."""
        return max([late for at_s, late in self.lateness if from_s <= at_s <= to_s], default=1.0)

    def taken(self) -> dict[str, Taken | None]:
        """What each process of the mesh takes of the machine."""
        return {
            process.name: taken(process.identity.pid) if process.identity else None
            for process in self._rig.processes()
        }

    async def _look_on(self) -> None:
        calm = False
        while True:
            self.read_journals()
            calm_now = self._calm()
            try:
                books = await asyncio.to_thread(
                    read_recent, self._rig.data, after=self._after, also=self.watch.held
                )
            except sqlite3.Error as error:
                self.watch.failed(error)
            else:
                self._after = books.ledger.last_entry_id
                self.watch.look(books, now_s=time.monotonic(), calm=calm and calm_now)
            calm = calm_now
            asleep_s = time.monotonic()
            await asyncio.sleep(LOOK_EVERY_S)
            woken_s = time.monotonic()
            self.lateness.append((woken_s, (woken_s - asleep_s) / LOOK_EVERY_S))

    async def _probe_on(self) -> None:
        trade = order_service_pb2.GetTradeRequest(trade_no="none")
        account = ledger_service_pb2.GetAccountRequest(account_id=HOLDERS[0].account_id)
        while True:
            await asyncio.gather(
                self._probe("ledger", lambda: self._probing.ledger.GetAccount(
                    account, timeout=PROBE_TIMEOUT_S
                )),
                self._probe("order", lambda: self._probing.order.GetTrade(
                    trade, timeout=PROBE_TIMEOUT_S
                )),
            )  # fmt: skip
            await asyncio.sleep(PROBE_EVERY_S)

    async def _probe(self, service: str, call: Callable[[], Awaitable[object]]) -> None:
        began_s, error = time.monotonic(), ""
        try:
            await call()
        except grpc.aio.AioRpcError as failure:
            # That there is no such trade is an answer, too.
            if failure.code() is not grpc.StatusCode.NOT_FOUND:
                error = f"{failure.code().name} {failure.details()}"
        self.probes.append(Probe(service, began_s, time.monotonic(), error))
