"""Processes are killed with -9 under load; afterwards both books must agree."""

from __future__ import annotations

from tests.support.books import books_agree
from tests.support.load import Load
from tests.support.mesh import Mesh, Shop
from tests.support.waiting import eventually

PAYERS = 6


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
