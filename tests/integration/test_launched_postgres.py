"""The mesh as people run it with STORE=postgres: the server is one more process of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tallystick.order.v1 import order_service_pb2

from services import books_place
from services.launcher import mesh, postgres, status
from services.launcher.catalogue import CATALOGUE
from services.launcher.errors import PostgresUnavailable
from services.launcher.home import Home
from services.launcher.settings import Settings
from services.launcher.status import POSTGRES, ProcessStatus, State
from tests.launcher.conftest import free_block
from tests.support.books import books_agree
from tests.support.mesh import Clients, Shop
from tests.support.require import lacking
from tests.support.waiting import eventually

BACK_WITHIN_S = 30.0
AMOUNT_MINOR = 1_000


@pytest.fixture
async def settings(tmp_path: Path) -> AsyncIterator[Settings]:
    """The real services over a server that the launcher starts, on free ports."""
    try:
        programs = postgres.find(None)
    except PostgresUnavailable:
        lacking("postgres")
    settings = Settings(
        home=Home(tmp_path),
        catalogue=tuple(replace(each, port=free_block(), replicas=1) for each in CATALOGUE),
        etcd_port=free_block(),
        store=POSTGRES,
        postgres_port=free_block(),
    )
    await asyncio.to_thread(mesh.up, settings, None, lambda _: None)
    yield settings
    await asyncio.to_thread(mesh.down, settings, lambda _: None)
    # Of root it is not in the home.
    shutil.rmtree(postgres.data_directory(tmp_path, programs.version))


def _process(settings: Settings, name: str) -> ProcessStatus:
    return next(each for each in status.read(settings.home).processes if each.name == name)


async def test_the_server_of_a_mesh_is_kept_running_and_keeps_the_books(settings: Settings) -> None:
    """Killed with -9 it is started again, and payments go on; `down` and `up` find the books."""
    server = _process(settings, "postgres-0")
    port = int(server.address.rpartition(":")[2])
    dsn = postgres.dsn(port, settings.home.path / POSTGRES / "password")
    clients = Clients(settings.home.path, dsn)
    clients.connect(_process(settings, "etcd-0").address)
    shop = await Shop(clients).open()
    await shop.pay_until_final(await shop.trade(AMOUNT_MINOR), within_s=BACK_WITHIN_S)

    assert books_place.noted(settings.home.path) == POSTGRES
    assert server.identity is not None
    os.kill(server.identity.pid, signal.SIGKILL)

    async def back() -> bool:
        found = _process(settings, "postgres-0")
        return found.state is State.SERVING and found.identity != server.identity

    await eventually(back, timeout_s=BACK_WITHIN_S, what="the server back")
    await _pays_again(shop)
    await asyncio.to_thread(mesh.down, settings, lambda _: None)
    await asyncio.to_thread(mesh.up, settings, None, lambda _: None)
    await _pays_again(shop)
    assert (await shop.balance(shop.merchant)).posted_minor == 3 * AMOUNT_MINOR
    await books_agree(clients)
    await clients.disconnect()


async def _pays_again(shop: Shop) -> None:
    """Whatever fails on the way, as a call that was under way may; and not twice."""
    trades: list[order_service_pb2.Trade] = []

    async def paid() -> bool:
        trades[:] = trades or [await shop.trade(AMOUNT_MINOR)]
        await shop.pay_until_final(trades[0], within_s=BACK_WITHIN_S)
        return True

    await eventually(paid, timeout_s=BACK_WITHIN_S, what="a payment")
