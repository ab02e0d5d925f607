"""A mesh whose outcomes have grown old: what is over goes, and payments notice nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.housekeeping import INTERVAL
from tests.support.aging import age_log
from tests.support.books import books_agree
from tests.support.mesh import Mesh, Shop
from tests.support.waiting import eventually
from txn.crash_point import AFTER_TRUNCATION, BEFORE_TRUNCATION
from txn.log_keeper import LogKeeperConfig

FORGOTTEN_WITHIN_S = 30.0
PAYMENTS = 3
KILLED = -9
STEP = LogKeeperConfig().rows_per_step


@pytest.fixture
async def forgetful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mesh]:
    """A mesh that often looks for what is old."""
    monkeypatch.setenv(INTERVAL, "0.3")
    async with Mesh(tmp_path) as mesh:
        yield mesh


def rows(mesh: Mesh, service: str, table: str) -> list[str]:
    """The transactions of which a service still knows."""
    found = mesh.rows(service, f"SELECT DISTINCT txn_id FROM {table} ORDER BY 1")
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


@pytest.mark.parametrize("failpoint", [BEFORE_TRUNCATION, AFTER_TRUNCATION])
async def test_row_8_coordinator_killed_during_log_truncation(
    forgetful: Mesh, failpoint: str
) -> None:
    """On either side of a step's force nothing is half gone; the next start goes on to the end."""
    shop = await Shop(forgetful).open()
    trades = [await shop.trade(1) for _ in range(STEP)]
    await asyncio.gather(*map(shop.execute, trades))
    young = await shop.trade()
    paid = await shop.execute(young)
    coordinator = forgetful.processes["coordinator-0"]
    # The ends of the others ride along with its decision; its own waits for the next.
    await eventually(lambda: set(open_in_log(forgetful)) <= {paid.txn_id}, what="ends written")
    coordinator.kill9()
    *old, youngest = rows(forgetful, "coordinator", "decision")
    assert (len(old), youngest) == (STEP + 1, paid.txn_id)
    age_log(forgetful.book("coordinator"), below=paid.txn_id)
    coordinator.launch(failpoint)
    assert await coordinator.ended() == KILLED
    gone = 0 if failpoint == BEFORE_TRUNCATION else STEP
    assert rows(forgetful, "coordinator", "decision") == [*old[gone:], paid.txn_id]
    assert rows(forgetful, "coordinator", "truncation") == old[:gone][-1:]

    coordinator.launch()
    await eventually(
        lambda: rows(forgetful, "coordinator", "decision") == [paid.txn_id],
        timeout_s=FORGOTTEN_WITHIN_S,
        what="all that is old truncated",
    )
    assert rows(forgetful, "coordinator", "truncation") == [old[-1]]
    again = await shop.execute_until_final(young, within_s=FORGOTTEN_WITHIN_S)
    assert (again.outcome, again.txn_id) == (paid.outcome, paid.txn_id)
    newest = await shop.execute(await shop.trade())
    assert newest.txn_id > paid.txn_id

    def forgotten() -> bool:
        known = {*rows(forgetful, "order", "branch"), *rows(forgetful, "ledger", "branch")}
        return known <= {paid.txn_id, newest.txn_id}

    await eventually(forgotten, timeout_s=FORGOTTEN_WITHIN_S, what="branches forgotten")
    assert (await shop.balance(shop.merchant)).posted_minor == STEP + 2 * 350
    await books_agree(forgetful)


def open_in_log(mesh: Mesh) -> list[str]:
    """The commits without an end."""
    return rows(mesh, "coordinator", "decision WHERE ended = 0")
