"""Several coordinators over one log, by real processes: fault row 15, and more."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Collection
from pathlib import Path

import pytest
from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.txn.v1 import coordinator_service_pb2

from services.runtime import EXIT_CANNOT_START
from tests.discovery.proxy import TcpProxy
from tests.support.books import books_agree
from tests.support.coordinators import (
    COMMITTED,
    FEW,
    KILLED,
    PENDING,
    RECOVER_WITHIN_S,
    direct,
    launched,
    measured,
    paid_by,
    shops,
    standing,
    unfinished_of,
)
from tests.support.faults import stop_between_turns, stopped
from tests.support.load import Load
from tests.support.mesh import (
    CALL_TIMEOUT_S,
    Mesh,
    ServiceProcess,
    Shop,
    euros,
    transfer,
)
from tests.support.waiting import eventually
from txn.coordinator import INTERRUPTED
from txn.crash_point import AFTER_DECISION
from txn.errors import TransactionAborted
from txn.model import epoch_of
from txn.rpc import TransactionClient
from txn.store.opening import EXIT_FENCED

ABORTED = coordinator_service_pb2.OUTCOME_ABORTED
# Callers wait much longer than a takeover takes.
PATIENT_S = 2 * RECOVER_WITHIN_S


async def test_both_coordinators_decide_over_one_log(pair: Mesh) -> None:
    """Payments go through both at once, each under its epoch, into the same books."""
    async with Load(await shops(pair)) as load:
        await load.until_paid(FEW)
        for name in ("coordinator-0", "coordinator-1"):
            await paid_by(pair, pair.processes[name])
    assert load.failed == []
    await books_agree(pair)


@pytest.mark.parametrize("branches", ["one", "two"])
async def test_row_15_two_coordinators_on_one_log_give_one_outcome(
    pair: Mesh, branches: str
) -> None:
    """The same request at both at once is one transaction, with one effect.

    Or with none: the older attempt is refused when it finds that the younger one was there first.
    """
    shop = await Shop(pair).open()
    trade = await shop.trade()
    request = shop.payment(trade)
    if branches == "one":
        del request.branches[:]
        request.branches.append(transfer(shop.payer, shop.merchant, 350))
    processes = pair.processes["coordinator-0"], pair.processes["coordinator-1"]
    said: set[tuple[str, object, str, str]] = set()

    async with direct(*processes) as stubs:
        for stub in stubs:
            # Who has just started has nobody to ask yet.
            before = shop.payment(await shop.trade(1))
            await stub.Execute(before, timeout=CALL_TIMEOUT_S)

        async def final() -> bool:
            answers = await asyncio.gather(
                *(stub.Execute(request, timeout=CALL_TIMEOUT_S) for stub in stubs)
            )
            told = [each for each in answers if each.outcome != PENDING]
            said.update((e.txn_id, e.outcome, e.reason, e.refused_branch_id) for e in told)
            return len(told) == len(answers)

        await eventually(final, timeout_s=RECOVER_WITHIN_S, what="a final outcome")
        ((_, *outcome),) = said
        if outcome != [COMMITTED, "", ""]:
            assert (branches, outcome) == ("two", [ABORTED, "TRADE_PAYING", "order"])
            # Nothing of it is held.
            request.idempotency_key += ":again"
            again = await stubs[0].Execute(request, timeout=CALL_TIMEOUT_S)
            assert again.outcome == COMMITTED
    assert (await shop.balance(shop.merchant)).posted_minor == 350 + len(processes)
    await books_agree(pair)


async def test_row_15_who_is_started_at_an_address_that_is_served_fences_nobody(
    pair: Mesh,
) -> None:
    """It says that the address is taken and ends; whoever serves there keeps its epoch."""
    first = pair.processes["coordinator-0"]
    epoch = standing(pair)[first.address]
    second = pair.replica("coordinator", 0)
    second.address = first.address
    second.launch()
    assert await second.ended() == EXIT_CANNOT_START
    assert f"{first.address} is taken" in second.log
    assert standing(pair)[first.address] == epoch
    assert not first.has_ended


async def test_row_15_who_is_started_at_an_address_that_others_reach_fences_nobody(
    pair: Mesh,
) -> None:
    """The same where it listens elsewhere and is said to be there."""
    first = pair.processes["coordinator-0"]
    epoch = standing(pair)[first.address]
    second = pair.replica("coordinator", 2)
    second.arguments = ("--advertise", first.address)
    second.launch()
    assert await second.ended() == EXIT_CANNOT_START
    assert f"{first.address} is taken" in second.log
    assert standing(pair)[first.address] == epoch


async def test_row_15_who_starts_again_at_its_address_inherits_at_once(pair: Mesh) -> None:
    """Nobody has to wait for a lease: what it had begun is final before that has run out."""
    victim = pair.processes["coordinator-1"]
    payers = await shops(pair)
    await victim.terminate()
    await launched(pair, victim, AFTER_DECISION)
    epoch = standing(pair)[victim.address]
    async with Load(payers):
        assert await victim.ended() == KILLED
        assert unfinished_of(pair, epoch) != []
        victim.launch()
        await eventually(lambda: not unfinished_of(pair, epoch), RECOVER_WITHIN_S, what="final")
    assert standing(pair)[victim.address] > epoch
    assert f"took over from epoch {epoch}:" not in pair.processes["coordinator-0"].log
    await books_agree(pair)


async def test_a_coordinator_of_another_log_is_refused_and_ends(pair: Mesh, tmp_path: Path) -> None:
    """Started before the registry knew of the others, it ends when it hears of them."""
    stranger = ServiceProcess("coordinator", 2, "", tmp_path)
    async with TcpProxy(pair.etcd.endpoint) as to_etcd:
        to_etcd.freeze()
        stranger.arguments = ("--etcd", to_etcd.endpoint)
        stranger.launch()
        try:
            await stranger.serving()
            assert "who else coordinates is not known" in stranger.log
            to_etcd.thaw()
            assert await stranger.ended() == EXIT_CANNOT_START
        finally:
            stranger.kill9()
    assert "it decides in another log" in stranger.log
    assert stranger.address not in standing(pair)


async def test_who_has_paid_nothing_yet_pays_while_the_registry_is_away(pair: Mesh) -> None:
    """It has looked for its participants before it serves."""
    young = pair.processes["coordinator-1"]
    shop = await Shop(pair).open()
    trade = await shop.trade()
    await young.terminate()
    await launched(pair, young)
    pair.etcd.kill9()
    try:
        async with direct(young) as (stub,):
            reply = await stub.Execute(shop.payment(trade), timeout=CALL_TIMEOUT_S)
    finally:
        pair.etcd.start()
    assert reply.outcome == COMMITTED
    await books_agree(pair)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_callers_fail_over_without_a_second_effect(
    pair: Mesh, number: signal.Signals
) -> None:
    """A client of transactions goes on at the other coordinator, with the same keys.

    However long it would wait, and also if the first one wakes up when all is over. Of what one
    that died had sent its participant need not have heard: that is aborted, once and for all.
    """
    shop = await Shop(pair).open()
    done: dict[str, str] = {}
    unheard: dict[str, str] = {}

    async def pay(client: TransactionClient, number: int) -> None:
        operation = ledger_service_pb2.TransferOperation(
            debit_account_id=shop.payer, credit_account_id=shop.merchant, amount=euros(1)
        )
        key = f"{shop.user_id}:{number}"
        try:
            answer = await client.execute(
                {"ledger": operation}, idempotency_key=key, timeout_s=PATIENT_S
            )
        except TransactionAborted as aborted:
            if aborted.reason != INTERRUPTED:
                raise
            unheard[key] = aborted.txn_id
        else:
            done[key] = answer.txn_id

    async with TransactionClient(pair.channel("coordinator")) as client:
        await asyncio.gather(*(pay(client, n) for n in range(FEW)))
        (epoch,) = {epoch_of(txn_id) for txn_id in done.values()}
        (victim,) = [
            each
            for name, each in pair.processes.items()
            if name.startswith("coordinator-") and standing(pair)[each.address] == epoch
        ]
        with stopped(pair.processes["ledger-0"]):
            paying = [asyncio.ensure_future(pay(client, n)) for n in range(FEW, 2 * FEW)]
            await eventually(lambda: performs_sent_by(victim, FEW), what="all is at the ledger")
            await stop_between_turns(
                lambda: victim.send(number),
                lambda: victim.send(signal.SIGCONT),
                pair.book("coordinator"),
            )
            began_s = time.monotonic()
        async with asyncio.timeout(RECOVER_WITHIN_S):
            await asyncio.gather(*paying)
        measured(f"answered {time.monotonic() - began_s:.2f} s after {number.name}")
    told = done | unheard
    assert len(told) == len(set(told.values())) == 2 * FEW
    assert rows_of_keys(pair, told) == sorted(done.items())
    assert rows_of_keys(pair, told, aborted=True) == sorted(unheard.items())
    if number == signal.SIGSTOP:
        assert not unheard
        victim.send(signal.SIGCONT)
        assert await victim.ended() == EXIT_FENCED
    await launched(pair, victim)
    assert rows_of_keys(pair, told) == sorted(done.items())
    assert (await shop.balance(shop.merchant)).posted_minor == len(done)
    await books_agree(pair)


def rows_of_keys(
    mesh: Mesh, keys: Collection[str], *, aborted: bool = False
) -> list[tuple[str, str]]:
    """Keys and ids of what the log has decided or claimed under some keys, or has aborted."""
    rows = mesh.rows("coordinator", "SELECT idempotency_key, txn_id, outcome FROM decision")
    return sorted(
        (key, txn_id)
        for key, txn_id, said in rows
        if key in keys and (said == "ABORTED") is aborted
    )


async def performs_sent_by(coordinator: ServiceProcess, count: int) -> bool:
    """Whether a coordinator has sent something of so many transactions in one phase."""
    request = coordinator_service_pb2.ListTransactionsRequest(unfinished_only=True)
    async with direct(coordinator) as (stub,):
        listed = await stub.ListTransactions(request, timeout=CALL_TIMEOUT_S)
    return count == sum(each.branches[0].attempts > 0 for each in listed.transactions)
