"""One phase over real processes: a coordinator or a participant dies at each of its steps.

Each test ends with both books checked, and with the same request answered the same again.
"""

from __future__ import annotations

import asyncio

import pytest
from tallystick.txn.v1 import coordinator_service_pb2

from tests.support.books import books_agree
from tests.support.faults import injected
from tests.support.mesh import CALL_TIMEOUT_S, Mesh, ServiceProcess, Shop, transfer
from tests.support.waiting import eventually
from txn.coordinator import INTERRUPTED
from txn.crash_point import AFTER_CLAIM, AFTER_PERFORM, BEFORE_CLAIM, BEFORE_CLOSE

KILLED = -9
RECOVER_WITHIN_S = 30.0
FUNDS_MINOR = 100_000
DEPOSIT_MINOR = 700
COMMITTED = coordinator_service_pb2.OUTCOME_COMMITTED
ABORTED = coordinator_service_pb2.OUTCOME_ABORTED


class Deposit:
    """One transfer from the bank to the payer: a transaction with a single branch."""

    def __init__(self, shop: Shop, amount_minor: int = DEPOSIT_MINOR) -> None:
        self.shop = shop
        self._request = coordinator_service_pb2.ExecuteRequest(
            idempotency_key=f"deposit:{shop.user_id}",
            branches=[transfer(shop.bank, shop.payer, amount_minor)],
        )

    async def execute(self) -> coordinator_service_pb2.ExecuteResponse:
        """Asks for it; the same request each time."""
        return await self.shop.mesh.coordinator.Execute(
            self._request, timeout=CALL_TIMEOUT_S, wait_for_ready=True
        )

    async def until_it_dies(self, victim: ServiceProcess) -> None:
        """Asks while a process is armed to die of it."""
        asked = asyncio.ensure_future(self.execute())
        assert await victim.ended() == KILLED
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    async def ends_once(self) -> coordinator_service_pb2.ExecuteResponse:
        """One final answer, that of the books, whoever asks for it and however often."""
        answer = coordinator_service_pb2.ExecuteResponse()

        async def final() -> bool:
            answer.CopyFrom(await self.execute())
            return answer.outcome != coordinator_service_pb2.OUTCOME_PENDING

        await eventually(final, timeout_s=RECOVER_WITHIN_S, what="a final outcome")
        assert answer == await self.execute()
        done = DEPOSIT_MINOR if answer.outcome == COMMITTED else 0
        payer = await self.shop.balance(self.shop.payer)
        assert (payer.posted_minor, payer.held_minor) == (FUNDS_MINOR + done, 0)
        await books_agree(self.shop.mesh)
        return answer

    def claimed(self) -> list[tuple[str, str]]:
        """The row of its key."""
        rows = self.shop.mesh.rows(
            "coordinator", "SELECT txn_id, outcome, idempotency_key FROM decision"
        )
        return [tuple(row[:2]) for row in rows if row[2] == self._request.idempotency_key]


async def _shop(mesh: Mesh, name: str, failpoint: str) -> Shop:
    """A process is armed; and the coordinator knows that the ledger takes one phase."""
    await mesh.restart(name, failpoint=failpoint)
    shop = await Shop(mesh).open()
    await shop.execute(await shop.trade(1))
    await books_agree(mesh)
    await _give_back(shop)
    return shop


async def _give_back(shop: Shop) -> None:
    """What the trade has cost, in two branches at the ledger, so that it takes two phases."""
    there = transfer(shop.merchant, shop.payer, 1)
    back = transfer(shop.bank, shop.merchant, 1)
    back.branch_id = "back"
    request = coordinator_service_pb2.ExecuteRequest(
        idempotency_key=f"back:{shop.user_id}", branches=[there, back]
    )
    reply = await shop.mesh.coordinator.Execute(request, timeout=CALL_TIMEOUT_S)
    assert reply.outcome == COMMITTED


async def test_a_deposit_is_performed(hurt_mesh: Mesh) -> None:
    """Its branch is never prepared, and its row says what it came to with the next force."""
    shop = await _shop(hurt_mesh, "coordinator-0", "")
    deposit = Deposit(shop)
    first = await deposit.ends_once()
    assert first.outcome == COMMITTED
    assert deposit.claimed() == [(first.txn_id, "PENDING")]
    await shop.execute(await shop.trade(1))
    assert deposit.claimed() == [(first.txn_id, "COMMITTED")]


async def test_a_refused_deposit_is_told_why(hurt_mesh: Mesh) -> None:
    """Durably, and the same for whoever asks again."""
    shop = await _shop(hurt_mesh, "coordinator-0", "")
    shop.bank = shop.merchant
    deposit = Deposit(shop)
    first = await deposit.ends_once()
    assert (first.outcome, first.reason) == (ABORTED, "INSUFFICIENT_FUNDS")
    assert deposit.claimed() == [(first.txn_id, "ABORTED")]
    await hurt_mesh.restart("coordinator-0")
    assert await deposit.ends_once() == first


async def test_coordinator_killed_before_its_claim_is_durable(hurt_mesh: Mesh) -> None:
    """Nothing was sent, and the key is not known: the same request is done."""
    shop = await _shop(hurt_mesh, "coordinator-0", BEFORE_CLAIM)
    deposit = Deposit(shop)
    await deposit.until_it_dies(hurt_mesh.processes["coordinator-0"])
    assert deposit.claimed() == []
    hurt_mesh.processes["coordinator-0"].launch()
    assert (await deposit.ends_once()).outcome == COMMITTED


async def test_coordinator_killed_after_its_claim(hurt_mesh: Mesh) -> None:
    """Recovery asks, and since nothing was done nothing ever is, under this key."""
    shop = await _shop(hurt_mesh, "coordinator-0", AFTER_CLAIM)
    deposit = Deposit(shop)
    await deposit.until_it_dies(hurt_mesh.processes["coordinator-0"])
    ((txn_id, outcome),) = deposit.claimed()
    assert outcome == "PENDING"
    hurt_mesh.processes["coordinator-0"].launch()
    answer = await deposit.ends_once()
    assert (answer.txn_id, answer.outcome, answer.reason) == (txn_id, ABORTED, INTERRUPTED)


async def test_coordinator_killed_with_the_answer_and_no_outcome_row(hurt_mesh: Mesh) -> None:
    """The participant knows, and is asked: nobody hears of another outcome."""
    shop = await _shop(hurt_mesh, "coordinator-0", BEFORE_CLOSE)
    deposit = Deposit(shop)
    await deposit.until_it_dies(hurt_mesh.processes["coordinator-0"])
    ((txn_id, outcome),) = deposit.claimed()
    assert outcome == "PENDING"
    hurt_mesh.processes["coordinator-0"].launch()
    answer = await deposit.ends_once()
    assert (answer.txn_id, answer.outcome) == (txn_id, COMMITTED)


async def test_ledger_killed_after_its_force_and_before_its_answer(hurt_mesh: Mesh) -> None:
    """Asked again it says what it did, and does it once."""
    shop = await _shop(hurt_mesh, "ledger-0", AFTER_PERFORM)
    deposit = Deposit(shop)
    asked = asyncio.ensure_future(deposit.execute())
    ledger = hurt_mesh.processes["ledger-0"]
    assert await ledger.ended() == KILLED
    ledger.launch()
    await asyncio.gather(asked, return_exceptions=True)
    assert (await deposit.ends_once()).outcome == COMMITTED


@pytest.mark.only_on("sqlite")  # a fault of its files
async def test_ledger_killed_in_its_force(hurt_mesh: Mesh) -> None:
    """Whether it is on the disk or not, it is done once or never, and everybody hears the same."""
    shop = await _shop(hurt_mesh, "coordinator-0", "")
    deposit = Deposit(shop)
    ledger = hurt_mesh.processes["ledger-0"]
    async with injected(ledger, "fdatasync", "signal=KILL:when=1"):
        asked = asyncio.ensure_future(deposit.execute())
        assert await ledger.ended() == KILLED
    ledger.launch()
    await asyncio.gather(asked, return_exceptions=True)
    await deposit.ends_once()


@pytest.mark.parametrize("failpoint", [AFTER_CLAIM, BEFORE_CLOSE])
async def test_both_killed_at_once(hurt_mesh: Mesh, failpoint: str) -> None:
    """The claim and the branch are on their disks, and that is enough."""
    shop = await _shop(hurt_mesh, "coordinator-0", failpoint)
    deposit = Deposit(shop)
    await deposit.until_it_dies(hurt_mesh.processes["coordinator-0"])
    hurt_mesh.processes["ledger-0"].kill9()
    hurt_mesh.processes["coordinator-0"].launch()
    hurt_mesh.processes["ledger-0"].launch()
    answer = await deposit.ends_once()
    assert (answer.outcome == COMMITTED) is (failpoint == BEFORE_CLOSE)
