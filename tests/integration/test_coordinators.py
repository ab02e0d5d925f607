"""Several coordinators over one log, by real processes: fault rows 15, 16, 19 and 28, and more.

Who is gone is taken over from, who comes back is fenced, and the books add up.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.txn.v1 import coordinator_service_pb2, coordinator_service_pb2_grpc

from services.coordinator.peers import GRACE_S
from services.runtime import EXIT_CANNOT_START, LEASE_TTL_S
from tests.discovery.proxy import TcpProxy
from tests.support.books import books_agree, unfinished
from tests.support.faults import injected, stop_between_turns, stopped
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
from txn.crash_point import AFTER_DECISION, BEFORE_DECISION
from txn.model import epoch_of
from txn.rpc import TransactionClient
from txn.store.opening import EXIT_FENCED, EXIT_STORE_IN_DOUBT

KILLED = -9
PAYERS = 4
FEW = 12
RECOVER_WITHIN_S = 30.0
# From a kill until all of what the victim had begun is final.
FINAL_WITHIN_S = LEASE_TTL_S + 3.0
# Who stands still is silent, and is not refused: that takes a little longer to notice.
TAKEN_OVER_WITHIN_S = LEASE_TTL_S + GRACE_S + 5.0
COMMITTED = coordinator_service_pb2.OUTCOME_COMMITTED
PENDING = coordinator_service_pb2.OUTCOME_PENDING


@pytest.fixture
async def pair(hurt_mesh: Mesh) -> AsyncIterator[Mesh]:
    """A mesh with two coordinators, of which the test may hurt either."""
    second = hurt_mesh.replica("coordinator", 1)
    hurt_mesh.processes["coordinator-1"] = second
    try:
        await launched(hurt_mesh, second)
        yield hurt_mesh
    finally:
        del hurt_mesh.processes["coordinator-1"]
        if not second.has_ended:
            second.send(signal.SIGCONT)
            await second.terminate()


async def launched(mesh: Mesh, coordinator: ServiceProcess, failpoint: str = "") -> None:
    """Started, serving, and known to whoever looks into the registry."""
    coordinator.launch(failpoint)
    await coordinator.serving()
    await eventually(lambda: coordinator.address in registered(mesh), what="a registration")


def registered(mesh: Mesh) -> set[str]:
    """The addresses of the coordinators in the registry."""
    return {key.rpartition("/")[2] for key in mesh.etcd.entries("tallystick/coordinator/")}


def standing(mesh: Mesh) -> dict[str, int]:
    """The epochs that are not over, by the addresses of their coordinators."""
    rows = mesh.rows("coordinator", "SELECT instance, epoch FROM epoch WHERE successor IS NULL")
    return {str(instance): int(epoch) for instance, epoch in rows}


def committed_in(mesh: Mesh, epoch: int, *outcomes: str) -> set[str]:
    """What was begun in an epoch and has committed, or has one of those `outcomes`."""
    rows = mesh.rows("coordinator", "SELECT txn_id, outcome FROM decision")
    wanted = ("COMMITTED", *outcomes)
    return {txn_id for txn_id, outcome in rows if outcome in wanted and epoch_of(txn_id) == epoch}


def unfinished_of(mesh: Mesh, epoch: int) -> list[tuple[object, ...]]:
    """What was begun in an epoch and is not final, in whichever book."""
    open_rows = mesh.rows("coordinator", "SELECT 'open', txn_id FROM decision WHERE ended = 0")
    return [row for row in [*unfinished(mesh), *open_rows] if epoch_of(str(row[1])) == epoch]


async def paid_by(mesh: Mesh, process: ServiceProcess) -> int:
    """Waits until a coordinator has committed something in its present epoch, and returns that."""

    def has() -> bool:
        epoch = standing(mesh).get(process.address)
        return epoch is not None and committed_in(mesh, epoch) != set()

    await eventually(has, timeout_s=RECOVER_WITHIN_S, what="a payment by each")
    return standing(mesh)[process.address]


def _measured(text: str) -> None:
    print(text)  # noqa: T201 - for who wants to know, with -s


async def shops(mesh: Mesh) -> list[Shop]:
    """Some payers and their merchants."""
    return [await Shop(mesh).open() for _ in range(PAYERS)]


@asynccontextmanager
async def direct(
    *processes: ServiceProcess,
) -> AsyncIterator[list[coordinator_service_pb2_grpc.CoordinatorServiceAsyncStub]]:
    """A stub to each coordinator itself, past the balancer."""
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(each.address))
            for each in processes
        ]
        yield [coordinator_service_pb2_grpc.CoordinatorServiceStub(each) for each in channels]


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
    """The same request at both at once is one transaction, with one effect."""
    shop = await Shop(pair).open()
    trade = await shop.trade()
    request = shop.payment(trade)
    if branches == "one":
        del request.branches[:]
        request.branches.append(transfer(shop.payer, shop.merchant, 350))
    processes = pair.processes["coordinator-0"], pair.processes["coordinator-1"]
    answers: list[coordinator_service_pb2.ExecuteResponse] = []

    async with direct(*processes) as stubs:
        for stub in stubs:
            # Who has just started has nobody to ask yet.
            before = shop.payment(await shop.trade(1))
            await stub.Execute(before, timeout=CALL_TIMEOUT_S)

        async def final() -> bool:
            answers[:] = await asyncio.gather(
                *(stub.Execute(request, timeout=CALL_TIMEOUT_S) for stub in stubs)
            )
            return all(each.outcome != PENDING for each in answers)

        await eventually(final, timeout_s=RECOVER_WITHIN_S, what="a final outcome")
    assert [(COMMITTED, ""), (COMMITTED, "")] == [
        (e.outcome, e.reason + e.refused_branch_id) for e in answers
    ]
    assert answers[0].txn_id == answers[1].txn_id
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


@pytest.mark.parametrize("failpoint", [BEFORE_DECISION, AFTER_DECISION])
async def test_a_killed_coordinator_is_taken_over_from(pair: Mesh, failpoint: str) -> None:
    """What it had decided is carried out by the other one, what it had not is aborted."""
    victim = pair.processes["coordinator-1"]
    payers = await shops(pair)
    await victim.terminate()
    await launched(pair, victim, failpoint)
    epoch = standing(pair)[victim.address]
    async with Load(payers) as load:
        assert await victim.ended() == KILLED
        began_s = time.monotonic()
        assert unfinished_of(pair, epoch) != []
        await load.until_paid(FEW)
        await eventually(
            lambda: not unfinished_of(pair, epoch), timeout_s=FINAL_WITHIN_S, what="all final"
        )
        _measured(f"final {time.monotonic() - began_s:.2f} s after the kill at {failpoint}")
        assert victim.address not in standing(pair)
    committed = committed_in(pair, epoch)
    assert (committed != set()) == (failpoint == AFTER_DECISION)
    await books_agree(pair)


async def test_payments_go_on_when_one_of_two_is_killed_under_load(pair: Mesh) -> None:
    """Its transactions are final within its TTL and 3 s; others do not wait for that."""
    victim = pair.processes["coordinator-1"]
    async with Load(await shops(pair)) as load:
        epoch = await paid_by(pair, victim)
        await eventually(lambda: unfinished_of(pair, epoch), what="something under way")
        victim.kill9()
        began_s = time.monotonic()
        await load.until_paid(FEW)
        paid_s = time.monotonic() - began_s
        await eventually(
            lambda: not unfinished_of(pair, epoch) and victim.address not in standing(pair),
            timeout_s=FINAL_WITHIN_S,
            what="all final",
        )
        _measured(
            f"{FEW} payments {paid_s:.2f} s after the kill,"
            f" all of its own final {time.monotonic() - began_s:.2f} s after it"
        )
    await books_agree(pair)


async def test_row_19_a_stopped_coordinator_that_wakes_decides_nothing_more(pair: Mesh) -> None:
    """It is taken over from, fenced when it goes on, and starts again under a new epoch."""
    victim = pair.processes["coordinator-1"]
    async with Load(await shops(pair)) as load:
        epoch = await paid_by(pair, victim)
        await stop_between_turns(
            lambda: victim.send(signal.SIGSTOP),
            lambda: victim.send(signal.SIGCONT),
            pair.book("coordinator"),
        )
        began_s = time.monotonic()
        await eventually(
            lambda: victim.address not in standing(pair),
            timeout_s=TAKEN_OVER_WITHIN_S,
            what="taken over",
        )
        _measured(f"taken over {time.monotonic() - began_s:.2f} s after SIGSTOP")
        # A claim may have become a commit at its participant before, which who takes over learns.
        before = committed_in(pair, epoch, "PENDING")
        await load.until_paid(FEW)
        victim.send(signal.SIGCONT)
        assert await victim.ended() == EXIT_FENCED
        assert "another coordinator has taken over" in victim.log
        await launched(pair, victim)
        assert await paid_by(pair, victim) > epoch
    late = committed_in(pair, epoch) - before
    # What it had written down before is carried out, and nothing else.
    assert late == set()
    await books_agree(pair)


async def test_nobody_takes_over_while_the_registry_is_away(pair: Mesh) -> None:
    """Both go on; who is killed then is taken over from when it is back."""
    victim = pair.processes["coordinator-1"]
    epoch = standing(pair)[victim.address]
    async with Load(await shops(pair)) as load:
        await paid_by(pair, victim)
        pair.etcd.kill9()
        try:
            await load.until_paid(FEW)
            victim.kill9()
            await load.until_paid(FEW)
            past_s = time.monotonic() + TAKEN_OVER_WITHIN_S
            await eventually(
                lambda: time.monotonic() > past_s, TAKEN_OVER_WITHIN_S + 1.0, what="its TTL over"
            )
            assert standing(pair)[victim.address] == epoch
        finally:
            pair.etcd.start()
        await eventually(
            lambda: victim.address not in standing(pair),
            timeout_s=RECOVER_WITHIN_S,
            what="taken over",
        )
        await load.until_paid(FEW)
    await books_agree(pair)


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
            one_way = {"requests": way == "there", "replies": way == "back"}
            if phase == "prepare":
                proxy.freeze(**one_way)
                asked = asyncio.ensure_future(shop.execute(trade))
            else:
                with stopped(pair.processes["order-0"]):
                    # Whose vote is the last one, so that the ledger's was heard by then.
                    asked = asyncio.ensure_future(shop.execute(trade))
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


@pytest.mark.parametrize("number", [signal.SIGKILL], ids=["killed"])
async def test_callers_fail_over_without_a_second_effect(
    pair: Mesh, number: signal.Signals
) -> None:
    """A client of transactions goes on at the other coordinator, with the same keys."""
    shop = await Shop(pair).open()
    done: dict[str, str] = {}

    async def pay(client: TransactionClient, number: int) -> None:
        operation = ledger_service_pb2.TransferOperation(
            debit_account_id=shop.payer, credit_account_id=shop.merchant, amount=euros(1)
        )
        key = f"{shop.user_id}:{number}"
        answer = await client.execute({"ledger": operation}, idempotency_key=key)
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
            await eventually(
                lambda: len(open_claims(pair, epoch)) == FEW, what="claims of the one that goes"
            )
            victim.send(number)
        began_s = time.monotonic()
        await asyncio.gather(*paying)
        _measured(f"answered {time.monotonic() - began_s:.2f} s after {number.name}")
    assert len(done) == len(set(done.values())) == 2 * FEW
    assert (await shop.balance(shop.merchant)).posted_minor == 2 * FEW
    if number == signal.SIGKILL:
        victim.launch()
    else:
        victim.send(signal.SIGCONT)
        assert await victim.ended() == EXIT_FENCED
        victim.launch()
    await victim.serving()
    await books_agree(pair)


def open_claims(mesh: Mesh, epoch: int) -> set[str]:
    """Of one epoch."""
    rows = mesh.rows("coordinator", "SELECT txn_id FROM decision WHERE outcome = 'PENDING'")
    return {txn_id for (txn_id,) in rows if epoch_of(txn_id) == epoch}
