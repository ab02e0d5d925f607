"""A mesh whose outcomes have grown old: what is over goes, and payments notice nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from services.housekeeping import INTERVAL
from tests.support.aging import age_log
from tests.support.mesh import Mesh, Shop
from tests.support.waiting import eventually

FORGOTTEN_WITHIN_S = 30.0
PAYMENTS = 3


@pytest.fixture
async def forgetful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mesh]:
    """A mesh that often looks for what is old."""
    monkeypatch.setenv(INTERVAL, "0.3")
    async with Mesh(tmp_path) as mesh:
        yield mesh


def rows(mesh: Mesh, service: str, table: str) -> list[str]:
    """The transactions of which a service still knows."""
    with closing(sqlite3.connect(f"file:{mesh.book(service)}?mode=ro", uri=True)) as connection:
        found = connection.execute(f"SELECT DISTINCT txn_id FROM {table} ORDER BY 1").fetchall()
    return [txn_id for (txn_id,) in found]


async def test_all_books_forget_what_is_over_though_the_coordinator_was_killed(
    forgetful: Mesh,
) -> None:
    """No row stays for ever because a word was lost, and none is missed: everybody can pay."""
    shop = await Shop(forgetful).open()
    paid = [
        await shop.pay_until_final(await shop.trade(), within_s=FORGOTTEN_WITHIN_S)
        for _ in range(PAYMENTS)
    ]
    forgetful.processes["coordinator-0"].kill9()
    age_log(forgetful.book("coordinator"))
    forgetful.processes["coordinator-0"].launch()
    await forgetful.processes["coordinator-0"].serving()

    def forgotten() -> bool:
        # The newest is the horizon itself: branches below it may be forgotten.
        known = {*rows(forgetful, "order", "branch"), *rows(forgetful, "ledger", "branch")}
        return known <= {paid[-1]} and rows(forgetful, "coordinator", "decision") == []

    await eventually(forgotten, timeout_s=FORGOTTEN_WITHIN_S, what="everything forgotten")
    assert rows(forgetful, "coordinator", "truncation") == [paid[-1]]
    trade = await shop.trade()
    newest = await shop.pay_until_final(trade, within_s=FORGOTTEN_WITHIN_S)
    assert newest > paid[-1]
    assert await shop.state_of(trade) == "TRADE_SUCCESS"
    assert (await shop.balance(shop.merchant)).posted_minor == (PAYMENTS + 1) * 350
    assert (await shop.balance(shop.payer)).held_minor == 0
