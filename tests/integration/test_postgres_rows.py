"""Fault row 30 over real processes: the PostgreSQL behind them fails.

Each test is named for its row in the table of faults, and ends with both books checked.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from services.runtime import EXIT_CANNOT_START
from tests.support.books import books_agree
from tests.support.load import Load
from tests.support.mesh import START_TIMEOUT_S, Mesh, ServiceProcess, Shop
from tests.support.postgres import PostgresServer, running
from tests.support.waiting import eventually

PAYERS = 4
LOOK_EVERY_S = 0.05
ROUNDS = 2
PAYING_AGAIN_WITHIN_S = 5.0


class _Supervisor:
    """Starts what has ended again."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self.restarts = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            for process in self._mesh.processes.values():
                if process.has_ended:
                    process.launch()
                    self.restarts += 1
            await asyncio.sleep(LOOK_EVERY_S)


class _Fire:
    """A mesh whose payers go on paying whatever happens to the server below it."""

    def __init__(self, mesh: Mesh, server: PostgresServer, load: Load, watch: _Supervisor) -> None:
        self.mesh = mesh
        self.server = server
        self.load = load
        self._watch = watch

    def _harm(self) -> int:
        return len(self.load.failed) + self._watch.restarts

    async def stop(self, how: signal.Signals) -> None:
        """Stops the server; returns when payments have come to grief by that."""
        before = self._harm()
        await asyncio.to_thread(self.server.stop, how)
        await eventually(lambda: self._harm() > before, what="a payment or a process that failed")

    async def start(self) -> None:
        """Starts it again; fails unless somebody has paid PAYING_AGAIN_WITHIN_S later."""
        await asyncio.to_thread(self.server.start)
        await self.load.until_paid(1, within_s=PAYING_AGAIN_WITHIN_S)


@asynccontextmanager
async def _fire(home: Path) -> AsyncIterator[_Fire]:
    """In the end both books are checked."""
    with running() as server:
        async with Mesh(home, server.database()) as mesh:
            supervisor = _Supervisor(mesh)
            watching = asyncio.ensure_future(supervisor.run())
            try:
                async with Load([await Shop(mesh).open() for _ in range(PAYERS)]) as load:
                    await load.until_paid(PAYERS)
                    yield _Fire(mesh, server, load, supervisor)
                    await load.until_paid(PAYERS)
                await books_agree(mesh)
                assert load.paid <= _paid(mesh)
            finally:
                watching.cancel()


def _paid(mesh: Mesh) -> int:
    ((count,),) = mesh.rows("order", "SELECT COUNT(*) FROM trade WHERE state = 'TRADE_SUCCESS'")
    return int(count)


async def _looks_for_its_database(process: ServiceProcess) -> None:
    """Has it start anew."""
    seen = len(process.log)
    process.kill9()
    await eventually(
        lambda: "no connection for" in process.log[seen:],
        timeout_s=START_TIMEOUT_S,
        what=f"{process.service} looking for its database",
    )


async def test_row_30_back_ends_are_killed_under_load(tmp_path: Path) -> None:
    """Whatever was under way ends the same way in both books, and payments go on."""
    async with _fire(tmp_path) as fire:
        with fire.server.connect() as operator:
            for _ in range(3 * ROUNDS):
                operator.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name LIKE 'tallystick %'"
                )
                await fire.load.until_paid(1)


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGINT], ids=["at once", "in order"])
async def test_row_30_the_server_is_stopped_under_load(tmp_path: Path, how: signal.Signals) -> None:
    """Meanwhile nothing is paid twice or by half; once it is back, payments go on within 5 s."""
    async with _fire(tmp_path) as fire:
        for _ in range(ROUNDS):
            await fire.stop(how)
            await fire.start()


async def test_row_30_services_that_start_while_the_server_is_away_wait_for_it(
    tmp_path: Path,
) -> None:
    """As after a COMMIT without an answer, which ends a process: payments go on as soon."""
    async with _fire(tmp_path) as fire:
        await fire.stop(signal.SIGQUIT)
        for name in ("ledger-0", "coordinator-0"):
            await _looks_for_its_database(fire.mesh.processes[name])
        await fire.start()


async def test_row_30_a_log_without_its_end_is_refused(tmp_path: Path) -> None:
    """As after a failover to a server that lags: absence is no answer, and nobody starts on it."""
    with running() as server:
        database = server.database()
        async with Mesh(tmp_path, database) as mesh:
            shop = await Shop(mesh).open()
            await shop.execute(await shop.trade())
            coordinator = mesh.processes["coordinator-0"]
            await coordinator.terminate()
            with psycopg.connect(database, autocommit=True) as book:
                book.execute("SET search_path = coordinator")
                book.execute(
                    "CREATE TABLE lost AS SELECT * FROM decision ORDER BY txn_id DESC LIMIT 1"
                )
                book.execute("DELETE FROM decision WHERE txn_id = (SELECT txn_id FROM lost)")
                coordinator.launch()
                assert await coordinator.ended() == EXIT_CANNOT_START
                assert "is not as it was written" in coordinator.log
                book.execute("INSERT INTO decision SELECT * FROM lost")
            coordinator.launch()
            await coordinator.serving()
            await books_agree(mesh)
