"""Backups of a mesh that pays, and what stands in the books when they are restored elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.backup.__main__ import EXIT_FAILED
from services.runtime import POSTGRES
from tests.support.books import books_agree
from tests.support.children import ROOT
from tests.support.load import Load
from tests.support.mesh import CALL_TIMEOUT_S, Mesh, Shop
from tests.support.postgres import PostgresServer
from tests.support.require import lacking, require
from txn.crash_point import AFTER_DECISION, BEFORE_DECISION
from txn.reconcile import Kind

# Two meshes, one after the other, which a busy machine starts slowly.
pytestmark = pytest.mark.timeout(300)
PAYERS = 4
COMMAND_TIMEOUT_S = 120
SOME = 6


class Place:
    """Where books are: a home, and a database where they are in none of its files."""

    def __init__(self, home: Path, postgres: PostgresServer | None) -> None:
        home.mkdir()
        self.home = home
        self.database = postgres.database() if postgres else ""

    def mesh(self) -> Mesh:
        """A mesh on these books."""
        return Mesh(self.home, self.database)

    async def run(self, command: str, *arguments: Path) -> tuple[int, dict[str, Any], str]:
        """Runs one command about these books; its code, what it says, and what went wrong."""
        line = [sys.executable, "-m", "services.backup", command, *map(str, arguments)]
        done = await asyncio.to_thread(
            subprocess.run,
            [*line, "--home", str(self.home), "--json"],
            cwd=ROOT,
            env={**os.environ, POSTGRES: self.database},
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.stdout or done.returncode == EXIT_FAILED, done.stderr
        return done.returncode, json.loads(done.stdout or "{}"), done.stderr

    async def contradictions(self) -> tuple[int, set[str]]:
        """The code of a check, and which kinds of contradictions it finds."""
        code, said, _ = await self.run("check")
        return code, {name for name in said["counts"] if Kind[name].contradiction}


@pytest.fixture
def old(tmp_path: Path, postgres: PostgresServer | None) -> Place:
    """The books that are backed up."""
    if postgres:
        require_dump_of(postgres)
    return Place(tmp_path / "old", postgres)


def require_dump_of(server: PostgresServer) -> None:
    """A pg_dump that is not older than the server, which it would refuse to dump."""
    program = require("pg_dump")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    (major,) = re.findall(r"\(PostgreSQL\) (\d+)", said.stdout)
    with server.connect() as connection:
        if int(major) < connection.info.server_version // 10_000:
            lacking("pg_dump", "is older than the server")


@pytest.fixture
def new(tmp_path: Path, postgres: PostgresServer | None) -> Place:
    """Where they are restored."""
    return Place(tmp_path / "new", postgres)


def paid(mesh: Mesh) -> set[str]:
    """The numbers of the trades that are paid."""
    return {
        no
        for (no,) in mesh.rows("order", "SELECT trade_no FROM trade WHERE state = 'TRADE_SUCCESS'")
    }


async def test_a_backup_taken_under_load_restores_to_books_that_agree(
    old: Place, new: Place, tmp_path: Path
) -> None:
    """What was paid before it is in both books, what came after in neither, and keys are known."""
    async with old.mesh() as mesh:
        shops = [await Shop(mesh).open() for _ in range(PAYERS)]
        first = await shops[0].trade()
        before = await shops[0].pay_until_final(first, within_s=CALL_TIMEOUT_S)
        async with Load(shops) as load:
            await load.until_paid(SOME)
            known = paid(mesh)
            code, taken, _ = await old.run("take", tmp_path / "backup")
            await load.until_paid(SOME)
        late = await shops[0].trade()
        await shops[0].pay_until_final(late, within_s=CALL_TIMEOUT_S)
        assert (0, 0) == (code, taken["contradictions"])
        assert (0, set()) == await old.contradictions()

    code, restored, _ = await new.run("restore", tmp_path / "backup")
    assert (0, taken["counts"]) == (code, restored["counts"])
    async with new.mesh() as mesh:
        await books_agree(mesh)
        assert known <= paid(mesh)
        assert late.trade_no not in paid(mesh)
        shop = shops[0]
        shop.mesh = mesh
        assert before == await shop.pay_until_final(first, within_s=CALL_TIMEOUT_S)
        again = Shop(mesh)
        await again.open()
        trade = await again.trade()
        await again.pay_until_final(trade, within_s=CALL_TIMEOUT_S)
        await books_agree(mesh)
        assert trade.trade_no in paid(mesh)
    assert (0, set()) == await new.contradictions()


@pytest.mark.parametrize(
    ("failpoint", "found", "state"),
    [
        (BEFORE_DECISION, {"WILL_ABORT": 2}, "WAIT_BUYER_PAY"),
        (AFTER_DECISION, {"WILL_COMMIT": 2}, "TRADE_SUCCESS"),
    ],
)
async def test_what_is_in_doubt_in_a_backup_is_resolved_where_it_is_restored(
    old: Place, new: Place, tmp_path: Path, failpoint: str, found: dict[str, int], state: str
) -> None:
    """It is told as in doubt, and ends in both books as the log of the backup says."""
    async with old.mesh() as mesh:
        shop = await Shop(mesh).open()
        trade = await shop.trade()
        await mesh.restart("coordinator-0", failpoint=failpoint)
        payment = asyncio.ensure_future(shop.execute(trade, timeout_s=5))
        assert -9 == await mesh.processes["coordinator-0"].ended()
        payment.cancel()
        await asyncio.gather(payment, return_exceptions=True)
        assert "PAYING" == await shop.state_of(trade)
        code, taken, _ = await old.run("take", tmp_path / "backup")
    assert (0, found) == (code, taken["counts"])

    code, restored, _ = await new.run("restore", tmp_path / "backup")
    assert (0, found) == (code, restored["counts"])
    async with new.mesh() as mesh:
        await books_agree(mesh)
        shop.mesh = mesh
        assert state == await shop.state_of(trade)


async def test_nothing_is_restored_over_books(old: Place, tmp_path: Path) -> None:
    """Neither over those that it was taken of, nor from what is no backup."""
    async with old.mesh() as mesh:
        await Shop(mesh).open()
        assert 0 == (await old.run("take", tmp_path / "backup"))[0]
        before = mesh.rows("ledger", "SELECT * FROM posting ORDER BY 1, 2")
        code, _, said = await old.run("restore", tmp_path / "backup")
        assert (2, True) == (code, "nothing is restored over books" in said)
        code, _, said = await old.run("restore", tmp_path)
        assert (2, True) == (code, "is no finished backup" in said)
        assert before == mesh.rows("ledger", "SELECT * FROM posting ORDER BY 1, 2")


@pytest.mark.only_on("sqlite")
async def test_a_store_that_is_older_than_the_others_is_a_contradiction(
    old: Place, new: Place, tmp_path: Path
) -> None:
    """A commit that a participant has lost, or the log, is reported, with the transaction."""
    async with old.mesh() as mesh:
        shop = await Shop(mesh).open()
        trade = await shop.trade()
        await old.run("take", tmp_path / "earlier")
        txn_id = await shop.pay_until_final(trade, within_s=CALL_TIMEOUT_S)
        await old.run("take", tmp_path / "later")
    await new.run("restore", tmp_path / "later")
    assert (0, set()) == await new.contradictions()

    for participant in ("ledger", "order"):
        with as_it_was(new.home / "data" / f"{participant}.db", tmp_path / "earlier"):
            code, said, _ = await new.run("check")
        place = {"txn_id": txn_id, "participant": participant, "branch_id": participant}
        assert (1, [{"kind": "LOST", **place, "forced": None}]) == (code, said["findings"])
    with as_it_was(new.home / "data" / "coordinator.db", tmp_path / "earlier"):
        code, kinds = await new.contradictions()
    # Those that the participants have not forgotten, and those that they have.
    assert code == 1
    assert kinds & {"UNLOGGED", "AHEAD"}
    assert kinds <= {"UNLOGGED", "AHEAD", "END_LOST"}
    assert (0, set()) == await new.contradictions()


@pytest.mark.only_on("sqlite")
async def test_a_log_that_was_lost_is_reconciled_with_books_that_were_not(
    old: Place, new: Place, tmp_path: Path
) -> None:
    """What one book has committed is committed in the other, though the log knows nothing of it."""
    async with old.mesh() as mesh:
        shop = await Shop(mesh).open()
        await shop.pay_until_final(await shop.trade(), within_s=CALL_TIMEOUT_S)
        await old.run("take", tmp_path / "earlier")
        trade = await shop.trade()
        await mesh.restart("coordinator-0", failpoint=AFTER_DECISION)
        payment = asyncio.ensure_future(shop.execute(trade, timeout_s=5))
        assert -9 == await mesh.processes["coordinator-0"].ended()
        payment.cancel()
        await asyncio.gather(payment, return_exceptions=True)
        await old.run("take", tmp_path / "midst")
        mesh.processes["coordinator-0"].launch()
        await books_agree(mesh)
        await old.run("take", tmp_path / "later")
    await new.run("restore", tmp_path / "later")
    for service, backup in (("coordinator", "earlier"), ("order", "midst")):
        path = new.home / "data" / f"{service}.db"
        path.write_bytes((tmp_path / backup / path.name).read_bytes())
    code, kinds = await new.contradictions()
    assert (1, True) == (code, {"SPLIT", "UNLOGGED"} <= kinds)

    code, said, _ = await new.run("reconcile")
    assert (0, {"WILL_COMMIT": 1}) == (code, said["counts"])
    async with new.mesh() as mesh:
        await books_agree(mesh)
        shop.mesh = mesh
        assert "TRADE_SUCCESS" == await shop.state_of(trade)


@contextmanager
def as_it_was(store: Path, backup: Path) -> Iterator[None]:
    """One store alone goes back in time."""
    content = store.read_bytes()
    store.write_bytes((backup / store.name).read_bytes())
    yield
    store.write_bytes(content)
