"""Coordinator, participants and inquirers together in memory: forces, and faults of the network."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.txn.helpers import CALLER, COORDINATORS, TWO, WAIT_S, FastClock, key, start
from tests.txn.test_participant import Counting, MemoryEffects, TextCodec
from txn.clock import Backoff
from txn.coordinator import Coordinator
from txn.errors import NotFound, ShuttingDown, Unreachable
from txn.model import BranchKey, Decision, Prepare, TxnId, VoteReply
from txn.participant import Inquirer, Participant
from txn.phases import CoordinatorConfig
from txn.state import BranchState, Outcome
from txn.testing import MemoryBackend, MemoryBranchTable, MemoryDecisionLog, MemoryStore, Tables

NAMES = ("order", "ledger")


class Network:
    """Loses, repeats and delays messages as its random source says; one place for both ways."""

    def __init__(self, rng: Random, loss: float) -> None:
        self.rng = rng
        self.loss = loss
        self.participants: dict[str, Participant[Tables, str]] = {}
        self.coordinator: Coordinator | None = None
        self.late: list[asyncio.Task[None]] = []

    async def prepare(self, participant: str, message: Prepare, timeout_s: float) -> VoteReply:
        """See ParticipantTransport.prepare."""
        await self._may_lose()
        reply = await self.participants[participant].prepare(message)
        if self.rng.random() < self.loss:
            self.late.append(asyncio.ensure_future(self._again(participant, message)))
        await self._may_lose()
        return reply

    async def commit(self, participant: str, key: BranchKey, timeout_s: float) -> None:
        """See ParticipantTransport.commit."""
        await self._may_lose()
        await self.participants[participant].commit(key)
        await self._may_lose()

    async def abort(self, participant: str, key: BranchKey, timeout_s: float) -> None:
        """See ParticipantTransport.abort."""
        await self._may_lose()
        await self.participants[participant].abort(key)
        await self._may_lose()

    async def inquire(self, coordinator: str, key: BranchKey, timeout_s: float) -> Outcome:
        """See CoordinatorTransport.inquire."""
        await self._may_lose()
        if self.coordinator is None:
            raise Unreachable("down")
        try:
            return await self.coordinator.inquire(key.txn_id)
        except ShuttingDown as error:
            raise Unreachable("starting") from error

    async def _may_lose(self) -> None:
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)
        if self.rng.random() < self.loss:
            raise Unreachable("lost")

    async def _again(self, participant: str, message: Prepare) -> None:
        for _ in range(self.rng.randrange(40)):
            await asyncio.sleep(0)
        await self.participants[participant].prepare(message)


class Mesh:
    """One coordinator's store, two participants' stores, and the network between them."""

    def __init__(self, seed: int = 1, loss: float = 0.0) -> None:
        self.rng = Random(seed)
        self.network = Network(self.rng, loss)
        self.log_backend = MemoryBackend()
        self.backends = {name: MemoryBackend() for name in NAMES}
        self.clock = FastClock()
        self._first_txn = 1
        for name in NAMES:
            self.restart_participant(name)

    def restart_participant(self, name: str) -> None:
        """A new process over what was durable."""
        self.network.participants[name] = Participant(
            store=MemoryStore(MemoryBackend(self.backends[name].durable)),
            branches=MemoryBranchTable(),
            resource=Counting(MemoryEffects()),
            codec=TextCodec(),
            coordinators=COORDINATORS,
            clock=self.clock,
        )

    async def start_coordinator(self) -> Coordinator:
        """A new process over what was durable."""
        numbers = iter(range(self._first_txn, self._first_txn + 1_000))
        self._first_txn += 1_000
        self.log = MemoryDecisionLog(MemoryStore(MemoryBackend(self.log_backend.durable)))
        engine = Coordinator(
            config=CoordinatorConfig(
                name="coordinator",
                participants=frozenset(NAMES),
                retry=Backoff(initial_s=0.05, max_s=0.5),
            ),
            log=self.log,
            transport=self.network,
            clock=self.clock,
            rng=self.rng,
            new_txn_id=lambda: TxnId(f"t{next(numbers):04}"),
        )
        await start(engine)
        self.network.coordinator = engine
        return engine

    def inquirer(self, name: str) -> Inquirer[Tables, str]:
        """What asks for a participant that is in doubt."""
        return Inquirer(
            self.network.participants[name], self.network, clock=self.clock, rng=self.rng
        )

    async def heal(self) -> None:
        """The network works again, and every participant asks until nothing is in doubt."""
        self.network.loss = 0.0
        await asyncio.gather(*self.network.late, return_exceptions=True)
        for name, participant in self.network.participants.items():
            inquirer = self.inquirer(name)
            async with asyncio.timeout(WAIT_S):
                while await participant.list_branches(
                    after=None, limit=1, state=BranchState.PREPARED
                ):
                    await inquirer.look()
                    await asyncio.sleep(0)

    async def states(self, name: str) -> dict[str, BranchState]:
        """What a participant remembers."""
        rows = await self.network.participants[name].list_branches(
            after=None, limit=1_000, state=None
        )
        return {row.key.txn_id: row.state for row in rows}

    def effects(self, name: str) -> dict[str, int]:
        """What a participant's resource did."""
        return MemoryEffects().all(self.backends[name].durable)


async def test_a_lone_transaction_forces_five_times() -> None:
    """Decision, and at each participant prepared and committed; the end rides in the next force."""
    logs, stores = MemoryBackend(), {name: MemoryBackend() for name in NAMES}
    network = Network(Random(1), loss=0.0)
    for name in NAMES:
        network.participants[name] = Participant(
            store=MemoryStore(stores[name]),
            branches=MemoryBranchTable(),
            resource=Counting(MemoryEffects()),
            codec=TextCodec(),
            coordinators=COORDINATORS,
            clock=FastClock(),
        )
    log = MemoryDecisionLog(MemoryStore(logs))
    engine = Coordinator(
        config=CoordinatorConfig(name="coordinator", participants=frozenset(NAMES)),
        log=log,
        transport=network,
        clock=FastClock(),
        rng=Random(1),
        new_txn_id=lambda: TxnId(f"t{logs.forces}"),
    )
    await start(engine)
    logs.forces = 0
    result = await engine.execute(caller=CALLER, idempotency_key="k", branches=TWO, wait_s=WAIT_S)
    assert Outcome.COMMITTED is result.outcome
    assert [1, 2, 2] == [logs.forces, *(stores[name].forces for name in NAMES)]
    assert 1 == len(await log.list_decisions(after="", limit=9, unfinished_only=True))
    await engine.inquire(TxnId("another"))
    assert [] == list(await log.list_decisions(after="", limit=9, unfinished_only=True))
    assert 2 == logs.forces
    await engine.close(grace_s=0)


async def test_what_a_killed_coordinator_left_behind_is_undone() -> None:
    """Prepared everywhere and nothing decided: the next coordinator answers ABORTED."""
    mesh = Mesh()
    for name in NAMES:
        message = Prepare(key("t1", name), "coordinator", TWO[0].operation)
        await mesh.network.participants[name].prepare(message)
    engine = await mesh.start_coordinator()
    await mesh.heal()
    assert {BranchState.ABORTED} == {(await mesh.states(name))["t1"] for name in NAMES}
    await engine.close(grace_s=0)


async def test_a_participant_never_decides_alone() -> None:
    """With nobody to ask a branch stays prepared, over restarts too."""
    mesh = Mesh()
    participant = mesh.network.participants["order"]
    await participant.prepare(Prepare(key("t1", "order"), "coordinator", TWO[0].operation))
    for _ in range(3):
        mesh.restart_participant("order")
        inquirer = mesh.inquirer("order")
        for _ in range(20):
            await inquirer.look()
    assert {"t1": BranchState.PREPARED} == await mesh.states("order")


async def _storm(seed: int, loss: float) -> None:
    """Payments over a bad network, both sides killed in the middle of them; then it heals."""
    mesh = Mesh(seed, loss)
    finals: dict[str, set[Outcome]] = {}
    for life in range(6):
        # Each key lives twice: what was not answered is asked again of the next coordinator.
        for name, result in (await _a_life(mesh, f"k{life // 2}")).items():
            if result is not Outcome.PENDING:
                finals.setdefault(name, set()).add(result)
    engine = await mesh.start_coordinator()
    await mesh.heal()
    await engine.close(grace_s=WAIT_S)
    await mesh.log.decide(
        Decision(TxnId("forces the ends"), Outcome.ABORTED, None, (), 1, ended=True)
    )
    await _check(mesh, engine, finals)


async def _a_life(mesh: Mesh, prefix: str) -> dict[str, Outcome]:
    """A coordinator from its start to its sudden end; returns the answers that it gave."""
    engine = await mesh.start_coordinator()
    calls = {
        name: asyncio.ensure_future(
            engine.execute(caller=CALLER, idempotency_key=name, branches=TWO, wait_s=WAIT_S)
        )
        for name in (f"{prefix}.{number}" for number in range(4))
    }
    asking = [asyncio.ensure_future(mesh.inquirer(name).run()) for name in NAMES]
    for turn in range(mesh.rng.randrange(10, 80)):
        if turn == 20:
            mesh.restart_participant(mesh.rng.choice(NAMES))
        await asyncio.sleep(0)
    answers = {name: call.result().outcome for name, call in calls.items() if call.done()}
    mesh.network.coordinator = None
    await engine.close(grace_s=0)
    for task in (*calls.values(), *asking):
        task.cancel()
    await asyncio.gather(*calls.values(), *asking, return_exceptions=True)
    return answers


async def _check(mesh: Mesh, engine: Coordinator, finals: dict[str, set[Outcome]]) -> None:
    order, ledger = await mesh.states("order"), await mesh.states("ledger")
    committed = {txn_id for txn_id, state in order.items() if state is BranchState.COMMITTED}
    assert committed == {t for t, state in ledger.items() if state is BranchState.COMMITTED}
    assert BranchState.PREPARED not in {*order.values(), *ledger.values()}
    assert [] == list(await mesh.log.list_decisions(after="", limit=9, unfinished_only=True))
    by_key = [
        row.request
        for row in mesh.log_backend.durable["decision"].values()
        if row.outcome is Outcome.COMMITTED
    ]
    assert len(by_key) == len(set(by_key)) == len(committed)
    for name, outcomes in finals.items():
        try:
            final = (await engine.get_by_key(CALLER, name)).outcome
        except NotFound:
            raise AssertionError(f"{name} had a final answer and no row") from None
        assert {final} == outcomes
    for name in NAMES:
        effects = mesh.effects(name)
        assert len(committed) == effects.get("commit op", 0)
        assert effects.get("prepare", 0) == len(committed) + effects.get("abort op", 0)


@pytest.mark.parametrize("seed", range(6))
async def test_a_storm_leaves_both_books_alike(seed: int) -> None:
    """Losses, duplicates and restarts: committed in both or in neither, and once for each key."""
    await _storm(seed, loss=0.25)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.1, 0.4, 0.7]))
def test_any_storm_leaves_both_books_alike(seed: int, loss: float) -> None:
    """The same for any seed and any loss."""
    asyncio.run(_storm(seed, loss))
