"""Fault row 30 over real processes: the PostgreSQL behind them fails.

Each test is named for its row in the table of faults, and ends with both books checked.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from services.runtime import EXIT_CANNOT_START
from tests.support.books import books_agree
from tests.support.load import Load
from tests.support.mesh import Mesh, Shop
from tests.support.postgres import PostgresServer, running

PAYERS = 4
LOOK_EVERY_S = 0.05
ROUNDS = 2


@asynccontextmanager
async def _kept_running(mesh: Mesh) -> AsyncIterator[None]:
    """What ends is started again, as by a supervisor."""

    async def keep() -> None:
        while True:
            for process in mesh.processes.values():
                if process.has_ended:
                    process.launch()
            await asyncio.sleep(LOOK_EVERY_S)

    keeper = asyncio.ensure_future(keep())
    try:
        yield
    finally:
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper


@asynccontextmanager
async def _mesh(home: Path) -> AsyncIterator[tuple[Mesh, PostgresServer]]:
    with running() as server:
        async with Mesh(home, server.database()) as mesh, _kept_running(mesh):
            yield mesh, server


async def test_row_30_back_ends_are_killed_under_load(tmp_path: Path) -> None:
    """Whatever was under way ends the same way in both books, and payments go on."""
    async with _mesh(tmp_path) as (mesh, server):
        async with Load([await Shop(mesh).open() for _ in range(PAYERS)]) as load:
            await load.until_paid(PAYERS)
            with server.connect() as operator:
                for _ in range(3 * ROUNDS):
                    operator.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE application_name LIKE 'tallystick %'"
                    )
                    await load.until_paid(1)
        await books_agree(mesh)


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGINT], ids=["at once", "in order"])
async def test_row_30_the_server_is_stopped_under_load(tmp_path: Path, how: signal.Signals) -> None:
    """While it is away nothing is paid twice or by half; once it is back, payments go on."""
    async with _mesh(tmp_path) as (mesh, server):
        async with Load([await Shop(mesh).open() for _ in range(PAYERS)]) as load:
            for _ in range(ROUNDS):
                await load.until_paid(PAYERS)
                await asyncio.to_thread(server.stop, how)
                failed = len(load.failed)
                while len(load.failed) < failed + PAYERS:  # noqa: ASYNC110 - a count, not an event
                    await asyncio.sleep(LOOK_EVERY_S)
                await asyncio.to_thread(server.start)
            await load.until_paid(PAYERS)
        await books_agree(mesh)


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
