"""Coordinator, participants and inquirers together in memory: forces, and faults of the network."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.txn.helpers import (
    CALLER,
    COORDINATORS,
    TWO,
    WAIT_S,
    FastClock,
    decide,
    inquire,
    key,
    start,
)
from tests.txn.participant_rig import MemoryEffects, TextCodec
from txn.clock import Backoff
from txn.config import CoordinatorConfig
from txn.coordinator import Coordinator
from txn.errors import NotFound, ShuttingDown, TxnError, Unreachable
from txn.inquirer import Inquirer
from txn.model import Batch, Branch, BranchKey, Decision, Prepare, Reply, TxnId
from txn.participant import Participant
from txn.state import BranchState, Outcome, Vote
from txn.testing import MemoryBackend, MemoryBranchTable, MemoryDecisionLog, MemoryStore, Tables

NAMES = ("order", "ledger")


class Book:
    """A resource that notes what was done of which transaction, and never forgets that."""

    effects = MemoryEffects()

    def prepare(self, tx: Tables, key: BranchKey, operation: str) -> Vote:
        """Notes it."""
        self.effects.add(tx, f"prepare {key.txn_id}")
        return Vote.COMMIT

    def commit(self, tx: Tables, key: BranchKey, operation: str) -> None:
        """Notes it."""
        self.effects.add(tx, f"commit {key.txn_id}")

    def abort(self, tx: Tables, key: BranchKey, operation: str) -> None:
        """Notes it."""
        self.effects.add(tx, f"abort {key.txn_id}")


class Network:
    """Loses, repeats and delays messages as its random source says; one place for both ways."""

    def __init__(self, rng: Random, loss: float) -> None:
        self.rng = rng
        self.loss = loss
        self.participants: dict[str, Participant[Tables, str]] = {}
        self.coordinator: Coordinator | None = None
        self.late: list[asyncio.Task[None]] = []

    async def exchange(self, participant: str, batch: Batch, timeout_s: float) -> Sequence[Reply]:
        """See ParticipantTransport.exchange."""
        await self._may_lose()
        replies = await self._deliver(participant, batch)
        if self.rng.random() < self.loss:
            # Of a batch that was answered, or that nobody waits for any more.
            self.late.append(asyncio.ensure_future(self._again(participant, batch)))
        await self._may_lose()
        return replies

    def offers_one_phase(self, participant: str) -> bool:
        """See ParticipantTransport.offers_one_phase."""
        return True

    async def inquire(
        self, coordinator: str, keys: Sequence[BranchKey], timeout_s: float
    ) -> Sequence[Outcome]:
        """See CoordinatorTransport.inquire."""
        await self._may_lose()
        if self.coordinator is None:
            raise Unreachable("down")
        try:
            answers = await self.coordinator.inquire([key.txn_id for key in keys])
        except ShuttingDown as error:
            raise Unreachable("starting") from error
        return [Outcome.PENDING if isinstance(each, TxnError) else each for each in answers]

    async def _deliver(self, participant: str, batch: Batch) -> Sequence[Reply]:
        """As one batch, or message by message in any order, as to one that knows no batches."""
        if self.rng.random() >= self.loss:
            return await self.participants[participant].exchange(batch)
        replies: dict[int, Reply] = {}
        for at in self.rng.sample(range(len(batch.messages)), len(batch.messages)):
            alone = Batch([batch.messages[at]])
            (replies[at],) = await self.participants[participant].exchange(alone)
            if self.rng.random() < self.loss:
                replies[at] = Unreachable("lost")
        return [replies[at] for at in range(len(replies))]

    async def _may_lose(self) -> None:
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)
        if self.rng.random() < self.loss:
            raise Unreachable("lost")

    async def _again(self, participant: str, batch: Batch) -> None:
        for _ in range(self.rng.randrange(40)):
            await asyncio.sleep(0)
        await self._deliver(participant, batch)


class Mesh:
    """One coordinator's store, two participants' stores, and the network between them."""

    def __init__(self, seed: int = 1, loss: float = 0.0, **limits: int) -> None:
        self.rng = Random(seed)
        self.limits = limits
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
            resource=Book(),
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
                **self.limits,  # type: ignore[arg-type]
            ),
            log=self.log,
            transport=self.network,
            clock=self.clock,
            rng=self.rng,
            new_txn_id=lambda after: f"t{next(numbers):04}",
        )
        await start(engine)
        self.network.coordinator = engine
        return engine

    def inquirer(self, name: str) -> Inquirer:
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
            after=None, limit=10_000, state=None
        )
        return {row.key.txn_id: row.state for row in rows}

    def did(self, name: str) -> dict[str, set[str]]:
        """What a participant's resource did, and of which transactions; of each once."""
        effects = MemoryEffects().all(self.backends[name].durable)
        assert set(effects.values()) <= {1}, effects
        done: dict[str, set[str]] = {"prepare": set(), "commit": set(), "abort": set()}
        for effect in effects:
            verb, _, txn_id = effect.partition(" ")
            done[verb].add(txn_id)
        return done


@pytest.mark.parametrize(
    ("branches", "forces"), [(TWO, [1, 2, 2]), (TWO[:1], [1, 1, 0])], ids=["two", "one"]
)
async def test_a_lone_transaction_forces_this_often(
    branches: tuple[Branch, ...], forces: list[int]
) -> None:
    """Decision, and at each participant prepared and committed; the end rides in the next force.

    A single branch: the claim, and what was performed.
    """
    logs, stores = MemoryBackend(), {name: MemoryBackend() for name in NAMES}
    network = Network(Random(1), loss=0.0)
    for name in NAMES:
        network.participants[name] = Participant(
            store=MemoryStore(stores[name]),
            branches=MemoryBranchTable(),
            resource=Book(),
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
        new_txn_id=lambda after: f"t{logs.forces}",
    )
    await start(engine)
    logs.forces = 0
    result = await engine.execute(
        caller=CALLER, idempotency_key="k", branches=branches, wait_s=WAIT_S
    )
    assert Outcome.COMMITTED is result.outcome
    assert forces == [logs.forces, *(stores[name].forces for name in NAMES)]
    assert 1 == len(await log.list_decisions(after="", limit=9, unfinished_only=True))
    await inquire(engine, "another")
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


async def _storm(seed: int, loss: float, payments: int = 4, turns: int = 80, **limits: int) -> None:
    """Payments over a bad network, both sides killed in the middle of them; then it heals."""
    mesh = Mesh(seed, loss, **limits)
    finals: dict[str, set[Outcome]] = {}
    for life in range(6):
        # Each key lives twice: what was not answered is asked again of the next coordinator.
        for name, result in (await _a_life(mesh, f"k{life // 2}", payments, turns)).items():
            if result is not Outcome.PENDING:
                finals.setdefault(name, set()).add(result)
    engine = await mesh.start_coordinator()
    await mesh.heal()
    await engine.close(grace_s=WAIT_S)
    await decide(
        mesh.log, Decision(TxnId("forces the ends"), Outcome.ABORTED, None, (), 1, ended=True)
    )
    await _check(mesh, engine, finals)


async def _a_life(mesh: Mesh, prefix: str, payments: int, turns: int) -> dict[str, Outcome]:
    """A coordinator from its start to its sudden end; returns the answers that it gave."""
    engine = await mesh.start_coordinator()
    calls = {
        name: asyncio.ensure_future(
            engine.execute(caller=CALLER, idempotency_key=name, branches=TWO, wait_s=WAIT_S)
        )
        for name in (f"{prefix}.{number}" for number in range(payments))
    }
    asking = [asyncio.ensure_future(mesh.inquirer(name).run()) for name in NAMES]
    for turn in range(mesh.rng.randrange(10, turns)):
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
    assert [] == list(await mesh.log.list_decisions(after="", limit=9, unfinished_only=True))
    rows = mesh.log_backend.durable["decision"].values()
    by_txn_id = {row.txn_id: row.request for row in rows if row.outcome is Outcome.COMMITTED}
    assert len(by_txn_id) == len(set(by_txn_id.values()))
    for name in NAMES:
        did, states = mesh.did(name), await mesh.states(name)
        assert set(by_txn_id) == did["commit"]
        assert did["prepare"] == did["commit"] | did["abort"]
        assert not did["commit"] & did["abort"]
        # Commits may be forgotten meanwhile, and aborts too.
        assert BranchState.PREPARED not in states.values()
        assert did["commit"] >= {t for t, s in states.items() if s is BranchState.COMMITTED}
    for name, outcomes in finals.items():
        try:
            final = (await engine.get_by_key(CALLER, name)).outcome
        except NotFound:
            raise AssertionError(f"{name} had a final answer and no row") from None
        assert {final} == outcomes


@pytest.mark.parametrize("seed", range(6))
async def test_a_storm_leaves_both_books_alike(seed: int) -> None:
    """Losses, duplicates and restarts: committed in both or in neither, and once for each key."""
    await _storm(seed, loss=0.25)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.1, 0.4, 0.7]))
def test_any_storm_leaves_both_books_alike(seed: int, loss: float) -> None:
    """The same for any seed and any loss."""
    asyncio.run(_storm(seed, loss))


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.05, 0.2, 0.5]),
    payments=st.integers(1, 24),
    batch_size_max=st.sampled_from([1, 2, 5, 256]),
)
def test_any_storm_of_batches_leaves_both_books_alike(
    seed: int, loss: float, payments: int, batch_size_max: int
) -> None:
    """Many at once, in batches of any size: lost, repeated, reordered, taken apart."""
    asyncio.run(_storm(seed, loss, payments, turns=400, batch_size_max=batch_size_max))


async def test_what_is_over_is_forgotten_by_all() -> None:
    """In good weather the rows of branches do not outnumber what was done last."""
    mesh = Mesh()
    engine = await mesh.start_coordinator()
    for round_ in range(10):
        for result in await asyncio.gather(
            *(
                engine.execute(
                    caller=CALLER,
                    idempotency_key=f"{round_}.{number}",
                    branches=TWO,
                    wait_s=WAIT_S,
                )
                for number in range(20)
            )
        ):
            assert Outcome.COMMITTED is result.outcome
    await engine.close(grace_s=WAIT_S)
    for name in NAMES:
        assert 200 == len(mesh.did(name)["commit"])
        assert len(await mesh.states(name)) <= 3 * 20
