"""What is going on while somebody is killed: payments that commit or abort, and what follows.

A scenario says when kills begin (`Play.begin`). Whatever it is told is kept, and compared
with the books when all is over.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc
from tallystick.ledger.v1.ledger_service_pb2 import TransferOperation
from tallystick.order.v1.order_service_pb2 import PayTradeOperation
from tallystick.txn.v1 import coordinator_service_pb2 as pb

from tests.failpoints.checks import ABORTED, ALONE, COMMITTED, Heard, remembered
from tests.failpoints.host import (
    COORDINATOR,
    MERCHANT,
    PARTICIPANTS,
    PAYER,
    POOR,
    PRICE_MINOR,
    Settings,
)
from tests.failpoints.mesh import FailMesh
from tests.support.books import CONVERGE_WITHIN_S, unfinished
from tests.support.mesh import euros, packed
from tests.support.waiting import eventually
from txn import crash_point as at

CALL_TIMEOUT_S = 3.0
ASK_AGAIN_S = 0.02
# Above those of trades.
ALONE_MINOR = 10_000
USUAL = Settings()
# Of who is in doubt for longer than usual, because the machine is slow.
INQUIRIES = frozenset({at.INQUIRY_LEAVES, at.INQUIRY_ARRIVES, at.ANSWER_LEAVES, at.ANSWER_ARRIVES})
# Word of what may be forgotten goes when the coordinator has looked whether there are others.
WORD = frozenset({at.FORGET_LEAVES, at.FORGET_ARRIVES})
FORGETTING = WORD | {at.BEFORE_FORGETTING, at.AFTER_FORGETTING}


@dataclass
class Play:
    """One scenario on one mesh."""

    mesh: FailMesh
    # Arms what is to happen, or only begins to take notes.
    arm: Callable[[], None]
    # Who has come to which point until the scenario was over; what follows is another's.
    passed: list[tuple[str, str]] | None = None
    heard: list[Heard] = field(default_factory=list)
    asked: list[pb.ExecuteRequest] = field(default_factory=list)
    # How much was heard before kills began.
    prelude: int = 0

    def begin(self) -> None:
        """From now on somebody may be killed."""
        self.prelude = len(self.heard)
        self.arm()

    async def pay(self, *, payer: str = PAYER, agreed: bool = True) -> pb.ExecuteResponse:
        """A payment, asked for until its outcome is final; refused if the two do not agree."""
        request = self.request(payer=payer, agreed=agreed)
        return await self.ask(request)

    def request(self, *, payer: str = PAYER, agreed: bool = True) -> pb.ExecuteRequest:
        """A payment of a new trade."""
        trade = self.mesh.next_trade()
        order = PayTradeOperation(
            trade_no=trade,
            amount=euros(PRICE_MINOR if agreed else PRICE_MINOR - 1),
            payee_account_id=MERCHANT,
            payer_account_id=payer,
        )
        ledger = TransferOperation(
            debit_account_id=payer,
            credit_account_id=MERCHANT,
            amount=euros(PRICE_MINOR),
            reference=trade,
        )
        return pb.ExecuteRequest(
            idempotency_key=trade,
            branches=[
                pb.Branch(branch_id=name, participant=name, operation=packed(operation))
                for name, operation in (("order", order), ("ledger", ledger))
            ],
        )

    def request_alone(self, *, payer: str = PAYER) -> pb.ExecuteRequest:
        """A payment that the ledger alone makes, of an amount of its own."""
        amount_minor = ALONE_MINOR + int(self.mesh.next_trade().removeprefix("t"))
        transfer = TransferOperation(
            debit_account_id=payer, credit_account_id=MERCHANT, amount=euros(amount_minor)
        )
        branch = pb.Branch(branch_id="ledger", participant="ledger", operation=packed(transfer))
        return pb.ExecuteRequest(idempotency_key=f"{ALONE}{amount_minor}", branches=[branch])

    async def ask(self, request: pb.ExecuteRequest) -> pb.ExecuteResponse:
        """Asks until the outcome is final."""
        answer = pb.ExecuteResponse()
        self.asked.append(request)
        async with asyncio.timeout(CONVERGE_WITHIN_S):
            while answer.outcome not in (COMMITTED, ABORTED):
                try:
                    answer = await self.mesh.coordinator.Execute(request, timeout=CALL_TIMEOUT_S)
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(ASK_AGAIN_S)
        self.heard.append(Heard(request.idempotency_key, answer.outcome, answer.txn_id))
        return answer

    async def die_paying(
        self, point: str, request: pb.ExecuteRequest | None = None
    ) -> pb.ExecuteRequest:
        """The coordinator comes to `point` of a payment, and stays dead."""
        coordinator = self.mesh.hosts[COORDINATOR]
        request = request or self.request()
        coordinator.stay_down()
        self.mesh.arm(COORDINATOR, point, 1, COORDINATOR)
        asked = asyncio.ensure_future(
            self.mesh.coordinator.Execute(request, timeout=CALL_TIMEOUT_S)
        )
        await coordinator.died()
        await asyncio.gather(asked, return_exceptions=True)
        return request

    def over(self) -> None:
        """What comes now is no part of the scenario."""
        self.passed = self.mesh.passed()

    async def settled(self) -> None:
        """Waits until nothing is in doubt."""
        await eventually(
            lambda: unfinished(self.mesh) == [], CONVERGE_WITHIN_S, what="nothing in doubt"
        )


@dataclass(frozen=True, slots=True)
class Scenario:
    """`outcomes` are those that its first answer may be, and first that in peace.

    Whoever is killed before it has voted may come back too late for that: then a payment
    aborts.
    """

    name: str
    play: Callable[[Play], Awaitable[None]]
    outcomes: tuple[pb.Outcome.ValueType, ...]
    settings: Settings = USUAL
    # Points to which somebody may come, as it falls out; they are another scenario's cases.
    by_chance: frozenset[str] = FORGETTING
    # Whether keys are known to the end, so that asking again is no new request.
    keys_are_kept: bool = True


async def _commit(play: Play) -> None:
    """The second payment brings the first one's end."""
    play.begin()
    await play.pay()
    await play.pay()


async def _word(play: Play) -> None:
    """Payments bring word of earlier ones that may be forgotten, until all have forgotten some."""
    play.begin()
    async with asyncio.timeout(CONVERGE_WITHIN_S):
        while not (play.mesh.has_lost_somebody() or _all_forget(play)):
            await play.pay()
        if play.mesh.has_lost_somebody():
            # Whoever has come back forgets as before.
            play.mesh.watch()
            while not _all_forget(play):
                await play.pay()


def _all_forget(play: Play) -> bool:
    passed = play.mesh.passed()
    return all((participant, at.AFTER_FORGETTING) in passed for participant in PARTICIPANTS)


async def _refused_by_ledger(play: Play) -> None:
    play.begin()
    await play.pay(payer=POOR)
    await play.settled()


async def _refused_by_order(play: Play) -> None:
    play.begin()
    await play.pay(agreed=False)
    await play.settled()


async def _silent_ledger(play: Play) -> None:
    """Nobody votes for it in time, and then it is told everything at once."""
    ledger = play.mesh.hosts["ledger"]
    await ledger.stop()
    play.begin()
    try:
        await play.pay()
    finally:
        ledger.send(signal.SIGCONT)
    await play.settled()


async def _in_doubt(play: Play) -> None:
    """All have voted, nothing was decided, and the coordinator is another."""
    request = await play.die_paying(at.BEFORE_DECISION)
    play.begin()
    await play.mesh.hosts[COORDINATOR].up()
    await play.settled()
    play.over()
    await play.ask(request)


async def _recovery(play: Play) -> None:
    """The decision is durable, nobody has heard of it, and the coordinator is another."""
    request = await play.die_paying(at.AFTER_DECISION)
    play.begin()
    await play.mesh.hosts[COORDINATOR].up()
    await play.settled()
    await play.ask(request)
    await play.pay()


async def _housekeeping(play: Play) -> None:
    """Word of what may be forgotten is lost: participants ask for it, and the log is truncated."""
    over = (await play.pay()).txn_id
    # With that decision the end of the first one is durable, and nobody is told any more.
    await play.die_paying(at.AFTER_DECISION)
    play.begin()
    await play.mesh.hosts[COORDINATOR].up()
    await eventually(
        lambda: not remembered(play.mesh, over), CONVERGE_WITHIN_S, what="what is over forgotten"
    )


async def _one_phase(play: Play) -> None:
    """The payment before it says that it may go in one phase; the next one closes its claim."""
    await play.pay()
    play.begin()
    await play.ask(play.request_alone())
    await play.pay()


async def _one_phase_refused(play: Play) -> None:
    await play.pay()
    play.begin()
    await play.ask(play.request_alone(payer=POOR))
    await play.settled()


async def _claim_open(play: Play) -> None:
    """A claim is durable, its participant has not heard of it: it never will perform it."""
    await play.pay()
    request = await play.die_paying(at.AFTER_CLAIM, play.request_alone())
    play.begin()
    await play.mesh.hosts[COORDINATOR].up()
    await play.ask(request)


async def _performed(play: Play) -> None:
    """The participant has performed it, and only it knows."""
    await play.pay()
    request = await play.die_paying(at.VOTE_ARRIVES, play.request_alone())
    play.begin()
    await play.mesh.hosts[COORDINATOR].up()
    await play.ask(request)
    await play.pay()


SCENARIOS = {
    each.name: each
    for each in (
        Scenario("commit", _commit, (COMMITTED, ABORTED)),
        Scenario(
            "word", _word, (COMMITTED, ABORTED), by_chance=frozenset(at.all_points()) - FORGETTING
        ),
        Scenario("refused-by-ledger", _refused_by_ledger, (ABORTED,)),
        Scenario("refused-by-order", _refused_by_order, (ABORTED,)),
        Scenario(
            "silent-ledger",
            _silent_ledger,
            # Who is killed instead of waking up, and comes back in time, votes.
            (ABORTED, COMMITTED),
            Settings(prepare_timeout_s=0.6, attempt_timeout_s=0.25),
        ),
        Scenario("in-doubt", _in_doubt, (COMMITTED, ABORTED)),
        Scenario("recovery", _recovery, (COMMITTED,), by_chance=INQUIRIES | FORGETTING),
        Scenario("one-phase", _one_phase, (COMMITTED, ABORTED)),
        Scenario("one-phase-refused", _one_phase_refused, (ABORTED,)),
        Scenario("claim-open", _claim_open, (ABORTED,)),
        Scenario("performed", _performed, (COMMITTED,)),
        Scenario(
            "housekeeping",
            _housekeeping,
            (COMMITTED,),
            Settings(housekeeping_s=0.2, retention_s=0.4),
            by_chance=INQUIRIES | WORD,
            keys_are_kept=False,
        ),
    )
}
