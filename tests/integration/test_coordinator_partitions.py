"""Several coordinators that are cut off, or end while they force: fault rows 16 and 28."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from tallystick.txn.v1 import coordinator_service_pb2

from tests.discovery.proxy import TcpProxy
from tests.support.books import books_agree, unfinished
from tests.support.coordinators import (
    COMMITTED,
    FEW,
    KILLED,
    PAYERS,
    PENDING,
    RECOVER_WITHIN_S,
    TAKEN_OVER_WITHIN_S,
    committed_in,
    direct,
    registered,
    standing,
)
from tests.support.faults import injected, stopped
from tests.support.mesh import (
    CALL_TIMEOUT_S,
    Mesh,
    Shop,
)
from tests.support.waiting import eventually
from txn.config import CoordinatorConfig
from txn.model import epoch_of
from txn.store.opening import EXIT_FENCED, EXIT_STORE_IN_DOUBT

# How long who asks waits in a partition: for the abort after a prepare without an answer; and
# while a commit is sent again.
_USUAL = CoordinatorConfig("coordinator", frozenset({"ledger"}))
_ASKED_FOR_S = {
    "prepare": _USUAL.prepare_timeout_s + _USUAL.attempt_timeout_s,
    "commit": 2.0 * _USUAL.attempt_timeout_s,
}


@pytest.mark.parametrize("phase", ["prepare", "commit"])
@pytest.mark.parametrize("way", ["there", "back"])
async def test_row_16_a_partition_between_coordinators_and_a_participant(
    pair: Mesh, way: str, phase: str
) -> None:
    """Each direction, each phase: both books say the same, and other traffic proceeds."""
    ledger = pair.processes["ledger-0"]
    async with TcpProxy(ledger.address) as proxy:
        ledger.arguments = ("--advertise", proxy.endpoint)
        await pair.restart("ledger-0")
        try:
            shop = await Shop(pair).open()
            trade = await shop.trade()
            asking = shop.execute(trade, timeout_s=_ASKED_FOR_S[phase])
            one_way = {"requests": way == "there", "replies": way == "back"}
            if phase == "prepare":
                proxy.freeze(**one_way)
                asked = asyncio.ensure_future(asking)
            else:
                with stopped(pair.processes["order-0"]):
                    # Whose vote is the last one, so that the ledger's was heard by then.
                    asked = asyncio.ensure_future(asking)
                    await eventually(lambda: unfinished(pair), what="the ledger's vote")
                    proxy.freeze(requests=way == "there", replies=False)
                if way == "back":
                    proxy.freeze(requests=False)
            await shop.trade()
            answer = (await asyncio.gather(asked, return_exceptions=True))[0]
            assert isinstance(answer, coordinator_service_pb2.ExecuteResponse | grpc.RpcError)
            proxy.thaw()
            final = await shop.execute_until_final(trade, within_s=RECOVER_WITHIN_S)
            if isinstance(answer, coordinator_service_pb2.ExecuteResponse) and (
                answer.outcome != PENDING
            ):
                assert answer.outcome == final.outcome
            paid = await shop.state_of(trade) == "TRADE_SUCCESS"
            assert paid == (final.outcome == COMMITTED)
            await books_agree(pair)
        finally:
            ledger.arguments = ()
            await pair.restart("ledger-0")


async def test_row_16_a_coordinator_that_only_the_registry_and_the_others_do_not_see(
    pair: Mesh,
) -> None:
    """It serves, writes, and is taken over from all the same: then it is fenced at once."""
    cut_off = pair.replica("coordinator", 2)
    async with (
        TcpProxy(pair.etcd.endpoint) as to_etcd,
        TcpProxy(cut_off.address) as inward,
    ):
        cut_off.arguments = ("--etcd", to_etcd.endpoint, "--advertise", inward.endpoint)
        cut_off.launch()
        try:
            await cut_off.serving()
            await eventually(lambda: inward.endpoint in registered(pair), what="a registration")
            to_etcd.freeze()
            inward.freeze()
            assert inward.endpoint in standing(pair)
            await eventually(
                lambda: inward.endpoint not in standing(pair),
                timeout_s=TAKEN_OVER_WITHIN_S,
                what="taken over",
            )
            assert await cut_off.ended() == EXIT_FENCED
        finally:
            cut_off.kill9()
    shop = await Shop(pair).open()
    await shop.execute_until_final(await shop.trade(), within_s=RECOVER_WITHIN_S)
    await books_agree(pair)


@pytest.mark.parametrize("fault", ["error=EIO:when=1", "signal=KILL:when=1"], ids=["EIO", "cut"])
@pytest.mark.only_on("sqlite")  # a fault of its files
async def test_row_28_what_a_coordinator_was_forcing_when_it_ended(pair: Mesh, fault: str) -> None:
    """Both outcomes are possible, and both books have the same one; nothing told is lost."""
    victim = pair.processes["coordinator-1"]
    shop = await Shop(pair).open()
    trade = await shop.trade()
    async with direct(victim) as (stub,):
        paid = await stub.Execute(shop.payment(await shop.trade()), timeout=CALL_TIMEOUT_S)
        async with injected(victim, "fdatasync", fault):
            asked = asyncio.ensure_future(stub.Execute(shop.payment(trade), timeout=CALL_TIMEOUT_S))
            assert await victim.ended() in (EXIT_STORE_IN_DOUBT, KILLED)
        with pytest.raises(grpc.aio.AioRpcError):
            await asked
    first = await shop.execute_until_final(trade, within_s=RECOVER_WITHIN_S)
    second = await shop.execute(trade)
    assert (first.outcome, first.txn_id) == (second.outcome, second.txn_id)
    assert paid.outcome == COMMITTED
    assert committed_in(pair, epoch_of(paid.txn_id)) >= {paid.txn_id}
    await books_agree(pair)


@pytest.mark.only_on("sqlite")  # a fault of its files
async def test_row_28_everything_cut_off_at_once_while_it_forces(pair: Mesh) -> None:
    """Both coordinators and all participants die; what was told is there when they are back."""
    told: list[coordinator_service_pb2.ExecuteResponse] = []
    shop = await Shop(pair).open()

    async def pay() -> None:
        while True:
            told.append(await shop.execute(await shop.trade()))

    paying = [asyncio.ensure_future(pay()) for _ in range(PAYERS)]
    await eventually(lambda: len(told) >= FEW, what="payments")
    for process in pair.processes.values():
        process.kill9()
    await asyncio.gather(*paying, return_exceptions=True)
    for process in pair.processes.values():
        process.launch()
    await asyncio.gather(*(process.serving() for process in pair.processes.values()))
    await books_agree(pair)
    paid = {row[0] for row in pair.rows("order", "SELECT txn_id FROM trade WHERE txn_id <> ''")}
    assert {each.txn_id for each in told if each.outcome == COMMITTED} <= paid
