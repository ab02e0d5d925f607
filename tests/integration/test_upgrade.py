"""A release with another schema is rolled out while the mesh pays."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from services.runtime import EXIT_CANNOT_START
from tests.stores.test_recorded import RELEASES, restored
from tests.support.books import books_agree
from tests.support.children import ROOT
from tests.support.load import Load
from tests.support.mesh import CALL_TIMEOUT_S, SERVICES, Mesh, Shop, new_mesh
from tests.support.postgres import PostgresServer
from tests.support.waiting import eventually

# Eight processes that start one after the other take long on a busy machine.
pytestmark = pytest.mark.timeout(300)
PACKAGES = ("services", "txn", "discovery", "balancer", "generated")
PAYERS = 3
SOME = 4
NOT_CODE = shutil.ignore_patterns("__pycache__")
CREATED = re.compile(r"CREATE TABLE (\w+)")
RENAMED = re.compile(r"RENAME TO (\w+)")


def next_release(tree: Path) -> Path:
    """Our code with one migration more of each component: every table has a new column."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=NOT_CODE)
    for directory in [
        *tree.glob("services/*/migrations/*"),
        *tree.glob("txn/store/migrations/*/*"),
    ]:
        scripts = sorted(directory.glob("*.sql"))
        made = "".join(each.read_text(encoding="utf-8") for each in scripts)
        tables = set(CREATED.findall(made)) - set(RENAMED.findall(made))
        statements = [
            f"ALTER TABLE {table} ADD COLUMN next_release TEXT NOT NULL DEFAULT 'new';"
            for table in sorted(tables)
        ]
        path = directory / f"{len(scripts) + 1:04}_next_release.sql"
        path.write_text("\n".join(statements) + "\n", encoding="utf-8")
    return tree


@pytest.fixture
def mesh(tmp_path: Path, postgres: PostgresServer | None) -> Mesh:
    """Books that an earlier release has left behind, where such are recorded."""
    if postgres is None:
        for service in SERVICES:
            restored(RELEASES[0], service, tmp_path / "data" / f"{service}.db")
    return new_mesh(tmp_path, postgres)


async def test_replicas_of_two_releases_share_a_store_while_one_takes_the_place_of_the_other(
    mesh: Mesh, tmp_path: Path
) -> None:
    """No payment fails; a process of the old one goes on, and does not start any more."""
    tree = next_release(tmp_path / "next")
    async with mesh:
        for service in ("order", "ledger"):
            second = mesh.processes[f"{service}-1"] = mesh.replica(service, 1)
            second.launch()
            await second.serving()
        shops = [await Shop(mesh).open() for _ in range(PAYERS)]
        async with Load(shops) as load:
            await load.until_paid(SOME)
            # The first of each brings the store up to date; what is paid then, the old one does.
            for name in ("order-0", "ledger-0", "order-1", "ledger-1"):
                mesh.processes[name].tree = tree
                await mesh.restart(name)
                await load.until_paid(SOME)
        assert [] == load.failed

        old = mesh.processes["ledger-2"] = mesh.replica("ledger", 2)
        old.launch()
        assert EXIT_CANNOT_START == await old.ended()
        assert "a newer release has written the store" in old.log

        for name in ("wallet-0", "coordinator-0"):
            mesh.processes[name].tree = tree
            await mesh.restart(name)
        trade = await shops[0].trade()

        async def pays() -> bool:
            return bool(await shops[0].pay_until_final(trade, within_s=CALL_TIMEOUT_S))

        await eventually(pays, timeout_s=CALL_TIMEOUT_S, what="the new release paying")
        await books_agree(mesh)
        for service, table in (("ledger", "hold"), ("order", "trade"), ("coordinator", "decision")):
            assert mesh.rows(service, f"SELECT COUNT(next_release) FROM {table}")
