"""The mesh as people run it, with its supervisor: any one process may be killed with -9."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from services.launcher import mesh, status
from services.launcher.catalogue import CATALOGUE
from services.launcher.home import Home
from services.launcher.settings import Settings
from services.launcher.status import State
from tests.launcher.conftest import free_block
from tests.support.books import books_agree
from tests.support.mesh import Clients, Shop
from tests.support.waiting import eventually

PAYS_AGAIN_WITHIN_S = 10.0
ALL_BACK_WITHIN_S = 30.0


@pytest.fixture(scope="module")
async def settings(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Settings]:
    """The real services with their default replicas, on free ports."""
    settings = Settings(
        home=Home(tmp_path_factory.mktemp("launched")),
        catalogue=tuple(replace(service, port=free_block()) for service in CATALOGUE),
        etcd_port=free_block(),
    )
    await asyncio.to_thread(mesh.up, settings, None, lambda _: None)
    yield settings
    await asyncio.to_thread(mesh.down, settings, lambda _: None)


@pytest.fixture(scope="module")
async def clients(settings: Settings) -> AsyncIterator[Clients]:
    """Stubs to the launched mesh."""
    clients = Clients(settings.home.path)
    etcd = next(p for p in status.read(settings.home).processes if p.name == "etcd-0")
    clients.connect(etcd.address)
    yield clients
    await clients.disconnect()


def _pid(settings: Settings, name: str) -> int | None:
    found = next(p for p in status.read(settings.home).processes if p.name == name)
    return found.identity.pid if found.identity else None


async def _all_serving(settings: Settings) -> bool:
    found = status.read(settings.home).processes
    return all(process.state is State.SERVING for process in found)


@pytest.mark.parametrize(
    "victim",
    ["etcd-0", "order-0", "order-1", "ledger-0", "ledger-1", "wallet-0", "coordinator-0"],
)
async def test_mesh_pays_again_after_any_one_process_is_killed(
    settings: Settings, clients: Clients, victim: str
) -> None:
    """Within 10 s of a kill -9 the mesh pays again by itself, and the process is back."""
    shop = await Shop(clients).open()
    killed = _pid(settings, victim)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)

    async def paid() -> bool:
        # A call that was on its way to the victim may fail; the next one must not.
        await shop.pay_until_final(await shop.trade(), within_s=PAYS_AGAIN_WITHIN_S)
        return True

    await eventually(paid, timeout_s=PAYS_AGAIN_WITHIN_S, what="a payment")

    async def back() -> bool:
        return _pid(settings, victim) != killed and await _all_serving(settings)

    await eventually(back, timeout_s=ALL_BACK_WITHIN_S, what=f"{victim} back")
    await books_agree(clients)


async def test_mesh_pays_on_without_its_supervisor(settings: Settings, clients: Clients) -> None:
    """Killing the supervisor takes no service with it, and the next `up` takes over."""
    shop = await Shop(clients).open()
    supervisor = status.read(settings.home).supervisor
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    await shop.pay_until_final(await shop.trade(), within_s=PAYS_AGAIN_WITHIN_S)

    await asyncio.to_thread(mesh.up, settings, None, lambda _: None)
    await shop.pay_until_final(await shop.trade(), within_s=PAYS_AGAIN_WITHIN_S)
    await books_agree(clients)


async def test_books_survive_down_and_up(settings: Settings, clients: Clients) -> None:
    """A second `up` finds the books of the first one."""
    shop = await Shop(clients).open()
    await shop.pay(await shop.trade(1_000))
    await asyncio.to_thread(mesh.down, settings, lambda _: None)
    await asyncio.to_thread(mesh.up, settings, None, lambda _: None)

    async def known() -> bool:
        return (await shop.balance(shop.merchant)).posted_minor == 1_000

    await eventually(known, timeout_s=PAYS_AGAIN_WITHIN_S, what="the balance of before")
    await shop.pay_until_final(await shop.trade(), within_s=PAYS_AGAIN_WITHIN_S)
    await books_agree(clients)
