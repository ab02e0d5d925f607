"""What the engine tells about its work, and what of that can be scraped."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.txn.helpers import (
    CALLER,
    COORDINATORS,
    TWO,
    WAIT_S,
    FastClock,
    Gate,
    ManualClock,
    ScriptedTransport,
    key,
    operation,
    prepare,
    turns,
)
from tests.txn.participant_rig import Counting, MemoryEffects, TextCodec
from tests.txn.support import no_commit_may_fail, schema
from txn.config import CoordinatorConfig
from txn.coordinator import Coordinator
from txn.errors import UnknownBranch, Unreachable
from txn.forgetter import Forgetter
from txn.inquirer import Inquirer
from txn.log_keeper import LogKeeper
from txn.metrics import (
    NO_METRICS,
    CoordinatorMetrics,
    ParticipantMetrics,
    StoreMetrics,
)
from txn.metrics_prometheus import (
    PrometheusCoordinatorMetrics,
    PrometheusParticipantMetrics,
    PrometheusStoreMetrics,
)
from txn.model import Batch, BranchKey, Commit, Ended, TxnId
from txn.participant import Participant
from txn.state import Outcome, Vote
from txn.store.loop_store import LoopStore
from txn.store.sqlite import SqliteReader, SqliteWriter
from txn.testing import MemoryBranchTable, MemoryDecisionLog, MemoryStore, Tables


class Counted:
    """A coordinator whose metrics are collected."""

    def __init__(
        self,
        clock: FastClock | None = None,
        store: MemoryStore | None = None,
        instance: str = "",
    ) -> None:
        self.registry = CollectorRegistry()
        self.metrics = PrometheusCoordinatorMetrics(self.registry)
        self.transport = ScriptedTransport()
        self.log = MemoryDecisionLog(store or MemoryStore())
        self.clock = clock or FastClock()
        numbers = iter(range(1, 1_000_000))
        self.engine = Coordinator(
            config=CoordinatorConfig(
                name="coordinator",
                participants=frozenset({"order", "ledger"}),
                abort_attempts=2,
                instance=instance,
            ),
            log=self.log,
            transport=self.transport,
            clock=self.clock,
            rng=Random(1),
            new_txn_id=lambda after: f"t{next(numbers)}",
            metrics=self.metrics,
        )
        self._keys = 0

    async def pay(self) -> Outcome:
        """One transaction under a key of its own."""
        self._keys += 1
        result = await self.engine.execute(
            caller=CALLER, idempotency_key=f"k{self._keys}", branches=TWO, wait_s=WAIT_S
        )
        return result.outcome

    def value(self, name: str, **labels: str) -> float | None:
        """One sample, as a scrape sees it; None if there is none."""
        return self.registry.get_sample_value(f"tallystick_txn_{name}", labels)


async def test_outcomes_batches_and_phases_are_counted() -> None:
    """Two commits and a refusal; phases are observed once for each group."""
    counted = Counted()
    await counted.engine.start()
    for _ in range(2):
        assert Outcome.COMMITTED is await counted.pay()
    counted.transport.on("prepare", "ledger", Vote.ABORT)
    assert Outcome.ABORTED is await counted.pay()
    await counted.engine.close(WAIT_S)
    assert 2 == counted.value("decided_total", outcome="committed")
    assert 1 == counted.value("decided_total", outcome="aborted")
    counts = [
        counted.value("phase_duration_seconds_count", phase=phase)
        for phase in ("prepare", "decide", "apply")
    ]
    assert [3, 3, 2] == counts
    # Prepare and commit twice, and a prepare that was refused.
    assert 5 == counted.value("batch_messages_count", participant="ledger")
    assert 6 == counted.value("batch_messages_sum", participant="order")


async def test_retries_and_alarms_are_counted_by_participant() -> None:
    """What was not answered goes again; what cannot be right is an alarm."""
    counted = Counted()
    await counted.engine.start()
    counted.transport.on("prepare", "ledger", Unreachable("gone"), Unreachable("gone"))
    counted.transport.on("commit", "order", UnknownBranch("never prepared"))
    await counted.pay()
    await counted.engine.close(WAIT_S)
    assert 2 == counted.value("retries_total", participant="ledger")
    assert 1 == counted.value("alarms_total", participant="order")
    assert counted.value("alarms_total", participant="ledger") is None


async def test_what_is_active_shows_with_the_age_of_the_oldest() -> None:
    """Now, and not when something was counted last."""
    counted = Counted(ManualClock())
    assert isinstance(counted.clock, ManualClock)
    await counted.engine.start()
    gate = Gate(Vote.COMMIT)
    counted.transport.always["prepare", "ledger"] = gate
    first = asyncio.ensure_future(counted.pay())
    await gate.reached.wait()
    await counted.clock.advance(7.0)
    second = asyncio.ensure_future(counted.pay())
    await turns()
    await counted.clock.advance(2.0)
    assert (2, 9.0) == (counted.value("active"), counted.value("oldest_age_seconds"))
    gate.opened.set()
    await turns(100)
    await counted.clock.advance(1.0)
    await asyncio.gather(first, second)
    assert (0, 0.0) == (counted.value("active"), counted.value("oldest_age_seconds"))
    await counted.engine.close(WAIT_S)


async def test_truncated_outcomes_are_counted() -> None:
    """As many as went."""
    counted = Counted()
    await counted.engine.start()
    counted.transport.on("prepare", "ledger", Vote.ABORT)
    await counted.pay()
    await counted.engine.close(WAIT_S)
    counted.clock.utc += 10**15
    await LogKeeper(
        counted.log, clock=counted.clock, rng=Random(1), metrics=counted.metrics
    ).sweep()
    assert 1 == counted.value("truncated_total")


async def test_takeovers_and_coordinators_are_counted() -> None:
    """Each that it has taken over from, once; and who may decide, itself among them."""
    store = MemoryStore()
    counted, other = Counted(store=store), Counted(store=store, instance="other")
    await other.engine.start()
    await counted.engine.start()
    assert (2, 0) == (counted.value("coordinators"), counted.value("takeovers_total"))
    (standing,) = counted.engine.others()
    for _ in range(2):
        await counted.engine.take_over(standing.epoch)
        assert (1, 1) == (counted.value("coordinators"), counted.value("takeovers_total"))
    await counted.engine.close(WAIT_S)
    await other.engine.close(0.0)


class Asked:
    """A coordinator that has ended everything and says nothing of what is in doubt."""

    async def inquire(
        self, coordinator: str, keys: Sequence[BranchKey], timeout_s: float
    ) -> Sequence[Outcome]:
        """See CoordinatorTransport."""
        return [Outcome.PENDING for _ in keys]

    async def ended(self, coordinator: str, txn_ids: Sequence[TxnId], timeout_s: float) -> Ended:
        """See EndedTransport."""
        return Ended(frozenset(txn_ids), TxnId("t9"))


async def test_a_participant_counts_batches_alarms_and_what_is_in_doubt() -> None:
    """In doubt is what the last look has found, with the age of the oldest."""
    registry = CollectorRegistry()
    metrics = PrometheusParticipantMetrics(registry)
    clock = FastClock()
    participant: Participant[Tables, str] = Participant(
        store=MemoryStore(),
        branches=MemoryBranchTable(),
        resource=Counting(MemoryEffects()),
        codec=TextCodec(),
        coordinators=COORDINATORS,
        clock=clock,
        metrics=metrics,
    )

    def value(name: str) -> float | None:
        return registry.get_sample_value(f"tallystick_participant_{name}")

    await participant.prepare(prepare("t1"))
    clock.utc += 5_000_000
    await participant.exchange(Batch([prepare("t2"), prepare("t3"), Commit(key("t8"))]))
    assert (2, 4) == (value("batch_messages_count"), value("batch_messages_sum"))
    assert (2, 1) == (value("batch_duration_seconds_count"), value("alarms_total"))
    clock.utc += 1_500_000
    inquirer = Inquirer(participant, Asked(), clock=clock, rng=Random(1), metrics=metrics)
    await inquirer.look()
    assert (3, 6.5) == (value("in_doubt"), value("in_doubt_oldest_age_seconds"))
    for name in ("t1", "t2", "t3"):
        await participant.commit(key(name))
    await inquirer.look()
    assert (0, 0.0) == (value("in_doubt"), value("in_doubt_oldest_age_seconds"))
    clock.utc += 10**9
    await Forgetter(participant, Asked(), clock=clock, rng=Random(1), metrics=metrics).sweep()
    assert 3 == value("forgotten_total")


async def test_a_store_counts_its_forces_and_the_sizes_of_groups(tmp_path: Path) -> None:
    """What is handed over together goes together; what changes nothing is a group all the same."""
    registry = CollectorRegistry()
    path = tmp_path / "s.db"
    store = LoopStore(
        "test",
        writer=lambda: SqliteWriter(path, schema()),
        reader=lambda: SqliteReader(path),
        on_commit_failure=no_commit_may_fail,
        metrics=PrometheusStoreMetrics(registry),
    )
    await store.write(lambda tx: tx.execute("SELECT 1"))
    await store.write_all(lambda tx, inputs: inputs, list(range(20)))
    await store.close()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"tallystick_store_{name}", labels)

    assert (2, 21) == (value("group_size_count"), value("group_size_sum"))
    assert 2 == value("force_duration_seconds_count")
    assert (1, 1, 2) == tuple(
        value("group_size_bucket", le=each) for each in ("1.0", "16.0", "32.0")
    )


async def test_nothing_that_is_private_is_told() -> None:
    """Neither ids nor keys nor operations are in a scrape."""
    counted = Counted()
    await counted.engine.start()
    await counted.pay()
    await counted.engine.close(WAIT_S)
    text = generate_latest(counted.registry).decode()
    assert "ledger" in text
    assert not any(secret in text for secret in ("t1", "k1", CALLER, str(operation().value)))


@pytest.mark.parametrize("protocol", [CoordinatorMetrics, ParticipantMetrics, StoreMetrics])
def test_no_metrics_is_all_of_them(protocol: type) -> None:
    """What counts nothing has every method that is called."""
    methods = {name for name, _ in inspect.getmembers(protocol, inspect.isfunction)}
    told = {name for name in methods if not name.startswith("_")}
    assert told
    assert told <= set(dir(NO_METRICS))


def test_a_registry_takes_each_once() -> None:
    """Two coordinators counted as one would be a mistake that nobody sees."""
    registry = CollectorRegistry()
    for kind in (
        PrometheusCoordinatorMetrics,
        PrometheusParticipantMetrics,
        PrometheusStoreMetrics,
    ):
        kind(registry)
        with pytest.raises(ValueError, match="Duplicated"):
            kind(registry)


def test_the_engine_needs_no_prometheus() -> None:
    """It is an extra: who does not count does not install it."""
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "import txn, txn.rpc, txn.store.loop_store, txn.metrics; print('fine')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert "fine\n" == done.stdout
