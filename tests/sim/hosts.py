"""The programs: a coordinator, and the replicas of the participants. All of it is shipped code.

Only what is handed in is the simulator's: clock, randomness, transports, disks.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, NoReturn, Protocol

from services.coordinator.succession import Succession
from tests.sim.books import Bank, Shop, Step, StepCodec
from tests.sim.disk import Disk, NotedBranchTable, Reader, Writer
from tests.sim.door import Door
from tests.sim.loop import Killed, Process, SimLoop, Thread
from tests.sim.plan import BANKS, COORDINATOR, PARTICIPANTS, Limits
from tests.sim.registry import LEASE_TTL_S, Registry
from tests.sim.transports import Between, ToCoordinator, ToParticipants
from txn.clock import Backoff
from txn.config import CoordinatorConfig
from txn.coordinator import Coordinator
from txn.errors import TxnError
from txn.forgetter import Forgetter, ForgetterConfig
from txn.inquirer import Inquirer, InquiryConfig
from txn.log_keeper import LogKeeper, LogKeeperConfig
from txn.model import Epoch
from txn.participant import Participant
from txn.resource import BatchResource, Resource
from txn.store.loop_store import LoopStore
from txn.testing import MemoryDecisionLog, Tables

# How long a coordinator has to register, and how long to say that it serves.
GRACE_S = 3.0 * LEASE_TTL_S
HEALTH_TIMEOUT_S = 0.5
UTC_US = 1_700_000_000_000_000
DRAIN_S = 1.0


class SimClock:
    """Clock of one machine: its wall clock may be moved, its monotonic clock not."""

    def __init__(self, loop: SimLoop, offset_s: float) -> None:
        self._loop = loop
        self._offset_s = offset_s
        self.wall_offset_s = 0.0

    def monotonic(self) -> float:
        """See Clock.monotonic."""
        return self._loop.now_s + self._offset_s

    def utc_us(self) -> int:
        """See Clock.utc_us."""
        return UTC_US + int((self._loop.now_s + self.wall_offset_s) * 1_000_000)

    async def sleep(self, seconds: float) -> None:
        """See Clock.sleep."""
        await asyncio.sleep(seconds)


class Host:
    """One program at one address, and its lives."""

    def __init__(self, name: str, world: WorldParts, disk: Disk) -> None:
        self.name = name
        self.disk = disk
        self.world = world
        self.process: Process | None = None
        self.lives = 0
        self.clock = SimClock(world.loop, Random(f"clock/{world.seed}/{name}").random() * 1e6)
        self.store: LoopStore[Tables] | None = None
        # How many steps, forces and crash points from now its end is; 0 is never.
        self.dies_at_step = 0
        self.dies_at_force = 0
        self.dies_at_point: dict[str, int] = {}
        # Whether it sees what is on the disk, where others may see it all the same.
        self.readable = True

    def start(self) -> None:
        """A new life over what is on the disk."""
        self.lives += 1
        self.forget()
        self.process = process = Process(self.name)
        self.rng = Random(f"host/{self.world.seed}/{self.name}/{self.lives}")
        life = self.world.loop.create_task(self._live(), context=process.context)
        life.add_done_callback(self.world.ended)

    def opened(self) -> LoopStore[Tables]:
        """The store of this life; to be called by it."""
        process = self.world.loop.current()
        self.store = LoopStore(
            self.name,
            writer=lambda: Writer(self.disk, process, self.world.see),
            reader=lambda: Reader(self.disk, lambda: self.readable),
            on_commit_failure=self._in_doubt,
            threads=lambda name: Thread(self.world.loop),
        )
        return self.store

    def crash_point(self, name: str) -> None:
        """Where the shipped code says that a crash would be hard to survive."""
        left = self.dies_at_point.get(name, 0)
        if left:
            self.dies_at_point[name] = left - 1
            if left == 1:
                self._die(f"at {name}")

    async def drain(self) -> None:
        """Ends in order, as far as that goes."""
        raise NotImplementedError

    def forget(self) -> None:
        """Nothing in memory survives."""
        raise NotImplementedError

    async def _live(self) -> None:
        raise NotImplementedError

    def _in_doubt(self, error: BaseException) -> NoReturn:
        self._die(f"{error!r}")

    def _die(self, why: str) -> NoReturn:
        self.world.killed(self, why)
        raise Killed


class WorldParts(Between, Protocol):
    """What hosts need of the world."""

    loop: SimLoop
    limits: Limits
    registry: Registry
    # Whether the faults are over.
    healed: bool

    def see(self, what: str) -> None:
        """Counts that something worth happening has happened."""

    def killed(self, host: Host, why: str) -> None:
        """The host has come to its end; it starts again later."""

    def ended(self, life: asyncio.Task[None]) -> None:
        """A program has come to its end by itself, or failed."""


class CoordinatorHost(Host):
    """The coordinator's program."""

    engine: Coordinator | None = None
    door: Door | None = None

    def forget(self) -> None:
        """See Host.forget."""
        self.engine = None

    async def _live(self) -> None:
        limits = self.world.limits
        log = MemoryDecisionLog(self.opened())
        engine = Coordinator(
            config=CoordinatorConfig(
                name=COORDINATOR,
                participants=frozenset(PARTICIPANTS),
                prepare_timeout_s=limits.prepare_timeout_s,
                attempt_timeout_s=limits.attempt_timeout_s,
                abort_attempts=limits.abort_attempts,
                max_active=limits.max_active,
                batch_size_max=limits.batch_size_max,
                gather_max_s=limits.gather_max_s,
                instance=self.name,
                retry=Backoff(initial_s=0.05, max_s=2.0),
            ),
            log=log,
            transport=ToParticipants(self.world, self.name),
            clock=self.clock,
            rng=self.rng,
            new_txn_id=self._new_id,
            crash_point=self.crash_point,
        )
        self.engine = engine
        self.door = Door(engine)
        try:
            if await engine.start():
                self.world.see("commits resumed")
        except TxnError as error:
            # It cannot start, and who watches over it starts it again.
            self._die(f"cannot start: {error!r}")
        keeper = LogKeeper(
            log,
            clock=self.clock,
            rng=self.rng,
            config=LogKeeperConfig(
                interval_s=limits.housekeeping_s, rows_per_step=limits.housekeeping_rows
            ),
        )
        await asyncio.gather(keeper.run(), self._renew(), self._look_after_others(engine))

    async def _renew(self) -> None:
        while True:
            self.world.registry.renew(self.name, f"{self.lives}")
            await asyncio.sleep(LEASE_TTL_S / 3)

    async def _look_after_others(self, engine: Coordinator) -> None:
        succession = Succession(engine, self._serves, clock=self.clock, grace_s=GRACE_S)
        while True:
            await asyncio.sleep(succession.wait_s)
            if await succession.look(self.world.registry.read(self.name)):
                self.world.see("taken over")

    async def take_over(self, epoch: Epoch) -> None:
        """Goes on with what another has begun, although that one may live."""
        if self.engine is None:
            return
        try:
            await self.engine.take_over(epoch)
        except TxnError:
            return
        self.world.see("usurped")

    async def _serves(self, name: str) -> bool:
        async def serve(host: Any) -> bool:
            return host.engine is not None

        try:
            return await self.world.network.call(
                self.name, name, serve, HEALTH_TIMEOUT_S, what="health"
            )
        except TxnError:
            return False

    async def drain(self) -> None:
        """See Host.drain."""
        assert self.engine is not None
        assert self.store is not None
        await self.engine.close(DRAIN_S)
        await self.store.close()

    def _new_id(self, after: str) -> str:
        """As txn/ids.py makes it, by the clock and the luck of the simulator."""
        after_ns = int(after[:16], 16) if after else 0
        made_ns = max(self.clock.utc_us() * 1_000, after_ns + 1)
        return f"{made_ns:016x}{self.rng.getrandbits(64):016x}"


class ParticipantHost(Host):
    """A replica of a participant."""

    participant: Participant[Tables, Step] | None = None

    def forget(self) -> None:
        """See Host.forget."""
        self.participant = None

    async def _live(self) -> None:
        of = self.name.partition("-")[0]
        resource: Resource[Tables, Step] | BatchResource[Tables, Step]
        resource = Bank() if of in BANKS else Shop()
        self.participant = Participant(
            store=self.opened(),
            branches=NotedBranchTable(),
            resource=resource,
            codec=StepCodec(),
            coordinators=frozenset({COORDINATOR}),
            clock=self.clock,
            crash_point=self.crash_point,
        )
        limits = self.world.limits
        to_coordinator = ToCoordinator(self.world, of, self.name)
        forgetter = Forgetter(
            self.participant,
            to_coordinator,
            clock=self.clock,
            rng=self.rng,
            config=ForgetterConfig(
                interval_s=limits.housekeeping_s,
                age_min_s=limits.housekeeping_s,
                rows_per_step=limits.housekeeping_rows,
                timeout_s=limits.attempt_timeout_s,
            ),
        )
        inquirer = Inquirer(
            self.participant,
            to_coordinator,
            clock=self.clock,
            rng=self.rng,
            config=InquiryConfig(
                interval_s=self.world.limits.inquiry_s,
                timeout_s=self.world.limits.attempt_timeout_s,
                batch_size_max=self.world.limits.inquiry_batch_max,
            ),
            crash_point=self.crash_point,
        )
        await asyncio.gather(inquirer.run(), forgetter.run())

    async def drain(self) -> None:
        """See Host.drain."""
        assert self.store is not None
        await self.store.close()
