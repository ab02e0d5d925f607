"""Fault rows 9 to 11, 18 and 25 to 27 over real processes: a participant, or a disk, fails.

Each test is named for its row in the table of faults, and ends with both books checked.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from tallystick.order.v1 import order_service_pb2
from tallystick.txn.v1 import coordinator_service_pb2

from tests.support.books import books_agree, unfinished
from tests.support.faults import filled, injected, small_disk, stopped
from tests.support.mesh import Mesh, ServiceProcess, Shop
from tests.support.waiting import eventually
from txn.crash_point import AFTER_APPLY, AFTER_VOTE
from txn.store.opening import EXIT_STORE_IN_DOUBT
from txn.store.sqlite import FREE_SPACE_RESERVE_BYTES

KILLED = -9
RECOVER_WITHIN_S = 30.0
PRICE_MINOR = 350
COMMITTED = coordinator_service_pb2.OUTCOME_COMMITTED
DISK_BYTES = FREE_SPACE_RESERVE_BYTES * 3 // 2


async def _arm(process: ServiceProcess, failpoint: str) -> None:
    process.kill9()
    process.launch(failpoint)
    await process.serving()


async def _ends_once(shop: Shop, trade: order_service_pb2.Trade) -> bool:
    """The request has one final answer, and it is that of both books; whether it was paid."""
    first = await shop.execute_until_final(trade, within_s=RECOVER_WITHIN_S)
    await books_agree(shop.mesh)
    second = await shop.execute(trade)
    assert (first.outcome, first.txn_id) == (second.outcome, second.txn_id)
    paid = first.outcome == COMMITTED
    assert (await shop.state_of(trade) == "TRADE_SUCCESS") is paid
    expected = PRICE_MINOR if paid else 0
    assert (await shop.balance(shop.merchant)).posted_minor == expected
    return paid


@pytest.mark.only_on("sqlite")  # a fault of its files
async def test_row_9_ledger_killed_before_its_vote_is_durable(hurt_mesh: Mesh) -> None:
    """Its vote was never sent: Prepare is repeated, or the transaction aborted."""
    shop = await Shop(hurt_mesh).open()
    trade = await shop.trade()
    ledger = hurt_mesh.processes["ledger-0"]
    async with injected(ledger, "fdatasync", "signal=KILL:when=1"):
        asked = asyncio.ensure_future(shop.execute(trade))
        assert await ledger.ended() == KILLED
    ledger.launch()
    await asyncio.gather(asked, return_exceptions=True)
    await _ends_once(shop, trade)


async def test_row_10_ledger_killed_after_its_vote_keeps_the_hold_and_never_decides_alone(
    hurt_mesh: Mesh,
) -> None:
    """With nobody to ask it stays in doubt, and holds; the next coordinator tells it."""
    shop = await Shop(hurt_mesh).open()
    trade = await shop.trade()
    ledger, coordinator = hurt_mesh.processes["ledger-0"], hurt_mesh.processes["coordinator-0"]
    await _arm(ledger, AFTER_VOTE)
    asked = asyncio.ensure_future(shop.execute(trade))
    assert await ledger.ended() == KILLED
    coordinator.kill9()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    ledger.launch()

    await eventually(lambda: "stay in doubt" in ledger.log, timeout_s=20, what="an inquiry")
    assert (await shop.balance(shop.payer)).held_minor == PRICE_MINOR

    coordinator.launch()
    await books_agree(hurt_mesh)
    await _ends_once(shop, trade)


@pytest.mark.only_on("sqlite")  # a fault of its files
async def test_row_11_ledger_killed_while_it_applies(hurt_mesh: Mesh) -> None:
    """A commit that was half written is sent again, and moves the money once."""
    shop = await Shop(hurt_mesh).open()
    trade = await shop.trade()
    ledger = hurt_mesh.processes["ledger-0"]
    async with injected(ledger, "fdatasync", "signal=KILL:when=2"):
        asked = asyncio.ensure_future(shop.execute(trade))
        assert await ledger.ended() == KILLED
    ledger.launch()
    await asyncio.gather(asked, return_exceptions=True)
    assert await _ends_once(shop, trade)


async def test_row_11_ledger_killed_before_it_acknowledges_applies_once(hurt_mesh: Mesh) -> None:
    """A commit whose acknowledgement is lost is repeated, and moves the money once."""
    shop = await Shop(hurt_mesh).open()
    trade = await shop.trade()
    ledger = hurt_mesh.processes["ledger-0"]
    await _arm(ledger, AFTER_APPLY)
    asked = asyncio.ensure_future(shop.execute(trade))
    assert await ledger.ended() == KILLED
    ledger.launch()
    await asyncio.gather(asked, return_exceptions=True)
    assert await _ends_once(shop, trade)


async def test_row_18_ledger_stopped_after_its_vote_is_ejected(
    hurt_mesh: Mesh,
) -> None:
    """Another replica applies the commit; who wakes up finds it done, and takes part again."""
    shop = await Shop(hurt_mesh).open()
    trade = await shop.trade()
    sleeper = hurt_mesh.processes["ledger-0"]
    key = f"tallystick/ledger/{sleeper.address}"
    other = hurt_mesh.replica("ledger", 1)
    try:
        async with AsyncExitStack() as asleep:
            with stopped(hurt_mesh.processes["order-0"]):
                asked = asyncio.ensure_future(shop.execute(trade))
                await eventually(
                    lambda: "hold" in [row[0] for row in unfinished(hurt_mesh)], what="its vote"
                )
                asleep.enter_context(stopped(sleeper))
                other.launch()
                await other.serving()
            assert (await asked).outcome == COMMITTED
            assert unfinished(hurt_mesh) == []
            await eventually(lambda: key not in hurt_mesh.etcd.entries(), what="its lease over")
        await eventually(lambda: key in hurt_mesh.etcd.entries(), what="registered again")
        assert await _ends_once(shop, trade)
    finally:
        await other.terminate()


@pytest.mark.parametrize("victim", ["coordinator-0", "ledger-0"])
@pytest.mark.only_on("sqlite")  # a fault of its files
async def test_row_25_a_force_takes_longer_than_an_attempt(hurt_mesh: Mesh, victim: str) -> None:
    """Nobody hears of what is not forced yet; the transaction ends once, as if it were fast."""
    shop = await Shop(hurt_mesh).open()
    trade = await shop.trade()
    slow = "delay_enter=2500000:when=1"
    async with injected(hurt_mesh.processes[victim], "fdatasync", slow):
        asked = asyncio.ensure_future(shop.execute(trade))
        await eventually(lambda: unfinished(hurt_mesh), what="a vote")
        early = await shop.execute(trade, timeout_s=1)
        assert early.outcome == coordinator_service_pb2.OUTCOME_PENDING
        assert (await asked).outcome == COMMITTED
    assert await _ends_once(shop, trade)


async def test_row_26_a_full_disk_refuses_before_it_begins_and_commits_nothing_falsely(
    tmp_path: Path,
) -> None:
    """Below the reserve nothing begins; a decision that found no room is told to nobody."""
    data = tmp_path / "data"
    with small_disk(data, DISK_BYTES):
        async with Mesh(tmp_path) as mesh:
            shop = await Shop(mesh).open()
            first = await shop.trade()
            with filled(data, leaving_bytes=FREE_SPACE_RESERVE_BYTES // 2):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await shop.trade()
                assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                answer = await shop.execute(first, timeout_s=2)
                assert answer.outcome != COMMITTED
                assert unfinished(mesh) == []
            await _ends_once(shop, first)
            shop = await Shop(mesh).open()
            second = await shop.trade()
            slow = "delay_enter=1500000:when=1"
            async with injected(mesh.processes["order-0"], "fdatasync", slow):
                asked = asyncio.ensure_future(shop.execute(second, timeout_s=5))
                await eventually(lambda: unfinished(mesh), what="the ledger's vote")
                with filled(data, leaving_bytes=0):
                    # A commit that found no room is in doubt: it ends, and reads what is there.
                    coordinator = mesh.processes["coordinator-0"]
                    assert await coordinator.ended() == EXIT_STORE_IN_DOUBT
                    (answer_or_error,) = await asyncio.gather(asked, return_exceptions=True)
                    assert isinstance(answer_or_error, grpc.aio.AioRpcError)
            coordinator.launch()
            await _ends_once(shop, second)


@pytest.mark.parametrize("victim", ["coordinator-0", "ledger-0"])
@pytest.mark.only_on("sqlite")  # a fault of its files
async def test_row_27_a_force_that_fails_ends_the_process_and_nothing_is_lost(
    hurt_mesh: Mesh, victim: str
) -> None:
    """After EIO a commit is in doubt: nobody is told, and the next start reads what is there."""
    shop = await Shop(hurt_mesh).open()
    trade = await shop.trade()
    process = hurt_mesh.processes[victim]
    async with injected(process, "fdatasync", "error=EIO:when=1"):
        asked = asyncio.ensure_future(shop.execute(trade))
        assert await process.ended() == EXIT_STORE_IN_DOUBT
    process.launch()
    await asyncio.gather(asked, return_exceptions=True)
    await _ends_once(shop, trade)
