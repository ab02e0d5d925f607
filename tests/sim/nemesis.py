"""What goes wrong on purpose: carries out the faults of a plan, and takes them back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from tests.sim.disk import Disk
from tests.sim.hosts import CoordinatorHost, Host
from tests.sim.loop import STEP_S, Process, SimLoop
from tests.sim.network import Network
from tests.sim.operators import force_something
from tests.sim.oracle import Oracle
from tests.sim.plan import BLIND, OPERATOR, PARTICIPANTS, Fault
from tests.sim.registry import Registry
from txn.errors import TxnError
from txn.model import Batch, BranchId, BranchKey, Commit, Reply, TxnId

_SLOW_STEP_S = 0.002


class Stage(Protocol):
    """What of a world the nemesis touches."""

    loop: SimLoop
    network: Network
    oracle: Oracle
    hosts: dict[str, Host]
    disks: dict[str, Disk]
    slow_s: dict[str, float]
    registry: Registry
    healed: bool

    def note(self, *what: Any) -> None:
        """One line of the trace."""

    def see(self, what: str) -> None:
        """Counts."""

    def killed(self, host: Host, why: str, down_s: float = ..., threads: str = ...) -> None:
        """Ends a process, and starts it again later."""

    def starts(self, host: Host) -> None:
        """Starts it."""

    def ended(self, task: asyncio.Task[None]) -> None:
        """A program has come to its end by itself, or failed."""


class Nemesis:
    """See the module's docstring."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._paused: list[Process] = []
        self._slowed: list[Process] = []
        self._strays = 0
        # Those that are to come, of each host: one death after the other.
        self._dying: dict[str, list[Fault]] = {}
        self._kinds: dict[str, Callable[[Fault, Host], None]] = {
            "kill": self._kill,
            "kill-step": self._kill_step,
            "kill-force": self._kill_force,
            "kill-point": self._kill_point,
            "kill-all": self._kill_all,
            "drain": self._drain,
            "pause": self._pause,
            "slow": self._slow,
            "cut": self._cut,
            "full": self._full,
            "force-fails": self._force_fails,
            "group-lost": self._group_lost,
            "no-turn": self._no_turn,
            "slow-disk": self._slow_disk,
            "clock": self._clock,
            "storm": self._storm,
            "stray": self._stray,
            "usurp": self._usurp,
            "etcd": self._etcd,
            BLIND: self._blind,
            OPERATOR: self._operator,
        }

    def start(self, faults: Sequence[Fault]) -> None:
        """Carries out each at its time."""
        for fault in faults:
            self._later(fault.at_s, partial(self._carry_out, fault))

    def stop(self) -> None:
        """Takes back what still goes on."""
        stage = self._stage
        for process in self._paused:
            stage.loop.go_on(process)
        for process in self._slowed:
            process.step_s = STEP_S
        stage.loop.before_step = None
        stage.registry.comes_back()
        for host in stage.hosts.values():
            host.dies_at_step = host.dies_at_force = 0
            host.dies_at_point.clear()
            host.readable = True

    def _carry_out(self, fault: Fault) -> None:
        stage = self._stage
        if stage.healed:
            return
        stage.note("fault", fault)
        stage.see(f"fault {fault.kind}")
        self._kinds[fault.kind](fault, stage.hosts[fault.target])

    def _later(self, after_s: float, what: Callable[[], object]) -> None:
        self._stage.loop.call_later(after_s, what, context=self._stage.loop.world.context)

    def _back(self, fault: Fault, what: Callable[[], object]) -> None:
        """Takes a fault back when its time is over, unless all faults are over by then."""
        self._later(fault.for_s, lambda: None if self._stage.healed else what())

    def _kill(self, fault: Fault, host: Host) -> None:
        self._stage.killed(host, "killed", fault.for_s)

    def _kill_step(self, fault: Fault, host: Host) -> None:
        waiting = self._dying.setdefault(host.name, [])
        waiting.append(fault)
        if not host.dies_at_step:
            host.dies_at_step = fault.number
        self._stage.loop.before_step = self._before_step

    def _before_step(self, process: Process) -> None:
        host = self._stage.hosts.get(process.name)
        if host is not None and host.dies_at_step and host.process is process:
            host.dies_at_step -= 1
            if not host.dies_at_step:
                waiting = self._dying[host.name]
                fault = waiting.pop(0)
                host.dies_at_step = waiting[0].number if waiting else 0
                self._stage.killed(host, "between steps", fault.for_s, fault.other)

    def _kill_force(self, fault: Fault, host: Host) -> None:
        host.dies_at_force = fault.number

    def _kill_point(self, fault: Fault, host: Host) -> None:
        host.dies_at_point[fault.other] = fault.number

    def _kill_all(self, fault: Fault, host: Host) -> None:
        for each in self._stage.hosts.values():
            self._stage.killed(each, "with all", fault.for_s)

    def _drain(self, fault: Fault, host: Host) -> None:
        stage, process = self._stage, host.process
        if process is None:
            return

        async def drain() -> None:
            await host.drain()
            if host.process is process:
                stage.see("drained")
                stage.killed(host, "drained", fault.for_s)

        stage.loop.create_task(drain(), context=process.context)

    def _pause(self, fault: Fault, host: Host) -> None:
        process = host.process
        if process is None:
            return
        self._stage.loop.pause(process)
        self._paused.append(process)
        self._back(fault, lambda: self._stage.loop.go_on(process))

    def _slow(self, fault: Fault, host: Host) -> None:
        process = host.process
        if process is None:
            return
        process.step_s = _SLOW_STEP_S
        self._slowed.append(process)
        self._back(fault, lambda: setattr(process, "step_s", STEP_S))

    def _cut(self, fault: Fault, host: Host) -> None:
        network = self._stage.network
        pairs = [(fault.target, fault.other)]
        if fault.number % 3:
            pairs.append((fault.other, fault.target))
        if fault.number % 2:
            # From all the world.
            others = [name for name in network.hosts if name != fault.target]
            pairs = [(fault.target, name) for name in others]
            pairs += [(name, fault.target) for name in others]
        for source, target in pairs:
            network.cut(source, target)
            self._back(fault, partial(network.heal, source, target))

    def _full(self, fault: Fault, host: Host) -> None:
        host.disk.full = True
        self._back(fault, lambda: setattr(host.disk, "full", False))

    def _force_fails(self, fault: Fault, host: Host) -> None:
        host.disk.failing = fault.number

    def _group_lost(self, fault: Fault, host: Host) -> None:
        host.disk.losing = fault.number

    def _blind(self, fault: Fault, host: Host) -> None:
        host.readable = False
        self._back(fault, lambda: setattr(host, "readable", True))

    def _no_turn(self, fault: Fault, host: Host) -> None:
        host.disk.refusing = fault.number

    def _slow_disk(self, fault: Fault, host: Host) -> None:
        slow_s = self._stage.slow_s
        slow_s[host.disk.name] = 0.2 + 0.07 * fault.number
        self._back(fault, lambda: slow_s.pop(host.disk.name, None))

    def _clock(self, fault: Fault, host: Host) -> None:
        host.clock.wall_offset_s += fault.number

    def _storm(self, fault: Fault, host: Host) -> None:
        network = self._stage.network
        before = network.weather
        network.weather = replace(before, loss=0.5, twice=0.3, late=0.1)
        self._back(fault, lambda: setattr(network, "weather", before))

    def _stray(self, fault: Fault, host: Host) -> None:
        """A commit of what was never prepared there: an alarm, and never success."""
        stage = self._stage
        if isinstance(host, CoordinatorHost):
            host = stage.hosts[f"{PARTICIPANTS[fault.number % len(PARTICIPANTS)]}-0"]
        self._strays += 1
        key = BranchKey(TxnId(f"stray{self._strays}"), BranchId("from"))

        async def serve(at: Any) -> list[Reply]:
            return list(await at.participant.exchange(Batch([Commit(key)])))

        def left(replies: list[Reply]) -> None:
            (reply,) = replies
            stage.see("stray commit")
            if not isinstance(reply, TxnError):
                stage.oracle.fail("I2", f"a commit of {key}, never prepared, gets {reply}")

        async def send() -> None:
            try:
                await stage.network.call(
                    "stranger", host.name, serve, 1.0, what="stray commit", left=left
                )
            except (TxnError, AttributeError):
                return

        stage.loop.create_task(send(), context=stage.loop.world.context)

    def _usurp(self, fault: Fault, host: Host) -> None:
        """A coordinator believes that another one is dead, which may not be so at all."""
        for each in self._stage.hosts.values():
            if not isinstance(each, CoordinatorHost) or each is host:
                continue
            if each.engine is not None and each.process is not None:
                for other in each.engine.others():
                    if other.instance == host.name:
                        work = each.take_over(other.epoch)
                        task = self._stage.loop.create_task(work, context=each.process.context)
                        task.add_done_callback(self._stage.ended)

    def _etcd(self, fault: Fault, host: Host) -> None:
        self._stage.registry.goes_away()
        self._back(fault, self._stage.registry.comes_back)

    def _operator(self, fault: Fault, host: Host) -> None:
        stage = self._stage
        if isinstance(host, CoordinatorHost) and host.process is not None:
            work = force_something(stage, host, fault.number)
            task = stage.loop.create_task(work, context=host.process.context)
            task.add_done_callback(stage.ended)
