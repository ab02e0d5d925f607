"""What a coordinator says of its ids: they ascend, and below the horizon none prepares."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from tests.support.waiting import eventually
from tests.txn.helpers import (
    CALLER,
    TWO,
    WAIT_S,
    FastClock,
    Gate,
    ScriptedTransport,
    branch,
    inquire,
)
from txn.config import CoordinatorConfig
from txn.coordinator import Coordinator
from txn.errors import Unreachable
from txn.model import Branch, Ended, Prepare, TxnId
from txn.state import Outcome, Vote
from txn.testing import MemoryDecisionLog, MemoryStore
from txn.transaction import Result


class Lives:
    """One log, and the coordinators that own it one after the other."""

    def __init__(self) -> None:
        self.log = MemoryDecisionLog(MemoryStore())
        self.transport = ScriptedTransport()
        self.now = 100
        self.log_id = ""
        self._keys = 0

    def _new_txn_id(self, after: str) -> str:
        return f"{max(self.now, int(after or 0) + 1):08}"

    @asynccontextmanager
    async def life(self) -> AsyncIterator[Coordinator]:
        """A coordinator from its start to its sudden end."""
        engine = Coordinator(
            config=CoordinatorConfig(
                name="coordinator", participants=frozenset({"order", "ledger", "audit"})
            ),
            log=self.log,
            transport=self.transport,
            clock=FastClock(),
            rng=Random(1),
            new_txn_id=self._new_txn_id,
        )
        await engine.start()
        self.log_id = await self.log.identity("-other")
        try:
            yield engine
        finally:
            await engine.close(grace_s=0)

    async def pay(self, engine: Coordinator, branches: tuple[Branch, ...] = TWO) -> Result:
        """One transaction under a key of its own."""
        self._keys += 1
        return await engine.execute(
            caller=CALLER, idempotency_key=f"k{self._keys}", branches=branches, wait_s=WAIT_S
        )

    async def number(self, engine: Coordinator) -> int:
        """The number in the id of one transaction."""
        txn_id = (await self.pay(engine)).txn_id
        assert txn_id.endswith(self.log_id)
        return int(txn_id.partition(".")[0])

    def id_of(self, number: int, epoch: int = 1) -> TxnId:
        """The id of that number."""
        return TxnId(f"{number:08}.{epoch}{self.log_id}")

    def horizons_at(self, participant: str) -> list[TxnId | None]:
        """What each batch to that participant said."""
        batches = self.transport.batches
        return [batch.prepare_horizon for name, batch in batches if name == participant]

    @property
    def horizons(self) -> list[TxnId | None]:
        """What each batch said, in the order in which they were sent."""
        return [batch.prepare_horizon for _, batch in self.transport.batches]

    def check(self) -> None:
        """No batch has a prepare that is below what was said with it, or before it."""
        said = TxnId("")
        for _, batch in self.transport.batches:
            said = max(said, batch.prepare_horizon or said)
            prepares = [each.key.txn_id for each in batch.messages if isinstance(each, Prepare)]
            assert all(txn_id >= said for txn_id in prepares), (said, prepares)
            assert all(key.txn_id < said for key in batch.forgettable)


async def test_ids_ascend_when_the_clock_goes_back() -> None:
    """Within a life of a coordinator, and from one to the next."""
    lives = Lives()
    async with lives.life() as engine:
        numbers = [await lives.number(engine)]
        lives.now = 50
        numbers += [await lives.number(engine) for _ in range(2)]
    lives.now = 10
    async with lives.life() as engine:
        numbers.append(await lives.number(engine))
        lives.now = 500
        numbers.append(await lives.number(engine))
    assert [100, 101, 102, 103, 500] == numbers
    lives.check()


async def test_before_anything_is_decided_there_is_no_horizon() -> None:
    """It would have to hold after a crash, and there is nothing in the log yet."""
    lives = Lives()
    gate = Gate(Vote.COMMIT)
    lives.transport.on("prepare", "ledger", gate)
    async with lives.life() as engine:
        call = asyncio.ensure_future(lives.pay(engine))
        await gate.reached.wait()
        assert {None} == set(lives.horizons)
        told = await engine.ended([lives.id_of(1)])
        assert Ended(frozenset(), None) == told
        gate.opened.set()
        await call
    assert lives.id_of(100) == lives.horizons[-1]


async def test_the_horizon_is_never_above_what_still_prepares() -> None:
    """However much is decided meanwhile, the oldest that waits for votes holds it back."""
    lives = Lives()
    gate = Gate(Vote.COMMIT)
    async with lives.life() as engine:
        await lives.pay(engine)
        lives.transport.on("prepare", "audit", gate)
        slow = asyncio.ensure_future(lives.pay(engine, (branch("audit"),)))
        await gate.reached.wait()
        for _ in range(3):
            await lives.pay(engine)
        assert lives.id_of(101) == lives.horizons[-1]
        gate.opened.set()
        await slow
        await lives.pay(engine)
    assert lives.id_of(105) == lives.horizons[-1]
    lives.check()


async def test_what_aborts_holds_nothing_back() -> None:
    """Its prepares are not wanted any more: they may be late."""
    lives = Lives()
    async with lives.life() as engine:
        await lives.pay(engine)
        lives.transport.on("prepare", "ledger", Vote.ABORT)
        lives.transport.always["abort", "order"] = Gate()
        aborting = asyncio.ensure_future(lives.pay(engine))
        await eventually(lambda: lives.transport.count("abort", "order"))
        await lives.pay(engine, (branch("audit"),))
        assert lives.id_of(102) == lives.horizons[-1]
        aborting.cancel()
    lives.check()


async def test_the_horizon_holds_across_restarts() -> None:
    """The next coordinator begins where the log ends, and above it."""
    lives = Lives()
    async with lives.life() as engine:
        await lives.pay(engine)
        lives.transport.on("prepare", "ledger", Gate())
        # Prepared at one participant, and never decided.
        left = asyncio.ensure_future(lives.pay(engine))
        await eventually(lambda: lives.transport.count("prepare", "order") == 2)
        left.cancel()
    before = len(lives.horizons)
    async with lives.life() as engine:
        await lives.pay(engine)
    assert lives.id_of(100) == lives.horizons[before]
    lives.check()


async def test_strange_inquiries_do_not_move_the_horizon() -> None:
    """An id that nobody was given is answered, and is no measure of those that are."""
    lives = Lives()
    async with lives.life() as engine:
        await lives.pay(engine)
        for strange in ("zzz", "99999999"):
            assert Outcome.ABORTED is await inquire(engine, f"{strange}{lives.log_id}")
        await lives.pay(engine)
    async with lives.life() as engine:
        assert 102 == await lives.number(engine)
    assert max(each for each in lives.horizons if each) == lives.id_of(102, epoch=2)
    lives.check()


def _forgotten(lives: Lives) -> dict[str, set[str]]:
    """What each participant was told that it may forget."""
    told: dict[str, set[str]] = {"order": set(), "ledger": set(), "audit": set()}
    for participant, batch in lives.transport.batches:
        told[participant] |= {key.txn_id for key in batch.forgettable}
    return told


async def test_who_holds_a_row_is_told_when_it_is_over() -> None:
    """After the end is durable, with what is said anyway; who was read-only holds none."""
    lives = Lives()
    three = (*TWO, branch("audit"))
    lives.transport.always["prepare", "audit"] = Vote.READ_ONLY
    async with lives.life() as engine:
        await lives.pay(engine, three)
        assert {"order": set(), "ledger": set(), "audit": set()} == _forgotten(lives)
        # Its force makes the end of the first durable, and its commits are the first to go.
        await lives.pay(engine, three)
        await lives.pay(engine, three)
    first = {lives.id_of(100)}
    told = _forgotten(lives)
    assert (True, True, set()) == (first <= told["order"], first <= told["ledger"], told["audit"])
    lives.check()


@pytest.mark.parametrize("verb", ["prepare", "commit"])
async def test_what_is_not_over_is_not_forgotten(verb: str) -> None:
    """Neither what aborts, nor a commit that one participant has not acknowledged."""
    lives = Lives()
    async with lives.life() as engine:
        reply = Vote.ABORT if verb == "prepare" else Unreachable("gone")
        lives.transport.always[verb, "ledger"] = reply
        call = asyncio.ensure_future(lives.pay(engine))
        await eventually(lambda: lives.transport.count(verb, "ledger"))
        for _ in range(3):
            await lives.pay(engine, (branch("order"),))
        assert lives.id_of(100) not in _forgotten(lives)["order"]
        call.cancel()
    lives.check()
