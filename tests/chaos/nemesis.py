"""Carries out faults, and knows what is broken at any moment."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from services.launcher import processes
from services.launcher.processes import Identity
from tests.chaos.clocks import Clocks
from tests.chaos.faults import CLIENT, Fault, Kind, Victim
from tests.chaos.network import Network
from tests.chaos.rig import Rig
from tests.chaos.waiting import until

# Who is not back by then stays broken for whoever judges.
BACK_TIMEOUT_S = 180.0
# How long a victim that is just being started is waited for.
THERE_TIMEOUT_S = 0.7


class Victims(Protocol):
    """Whoever keeps the processes of some roles running."""

    def identity(self, victim: Victim) -> Identity | None:
        """The process that runs now."""

    def kill(self, victim: Victim) -> Identity | None:
        """SIGKILL; the process that it hit, None when there is none."""

    def back(self, victim: Victim, killed: Identity) -> bool:
        """Whether another process has taken its place."""


@dataclass(slots=True)
class Done:
    """A fault that was carried out; times on the machine's monotonic clock."""

    fault: Fault
    began_s: float
    ended_s: float | None = None
    """When it was healed; None while it lasts."""


@dataclass(slots=True)
class Record:
    """What was done so far."""

    done: list[Done] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    """Kills that hit another process, since theirs was being started."""
    idle: int = 0
    """Faults that hit nobody."""

    def begun(self, fault: Fault) -> Done:
        """Notes a beginning."""
        done = Done(fault, time.monotonic())
        self.done.append(done)
        return done

    def first_s(self) -> float:
        """When the first fault began; infinite before there is one."""
        return min((done.began_s for done in self.done), default=math.inf)

    def last_s(self) -> float:
        """When the last fault was over; that a killed one comes back is part of converging."""
        return max(
            (
                done.began_s if done.fault.kind is Kind.KILL else done.ended_s or done.began_s
                for done in self.done
            ),
            default=time.monotonic(),
        )

    @property
    def active(self) -> list[Fault]:
        """What is broken now."""
        return [done.fault for done in self.done if done.ended_s is None]


class Nemesis:
    """Breaks and heals. A kill is healed when the process serves again."""

    def __init__(self, rig: Rig, crowd: Victims) -> None:
        self._rig = rig
        self._crowd = crowd
        self.record = Record()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, faults: Iterable[Fault]) -> None:
        """Carries out a schedule; returns when everything is healed."""
        started_s = time.monotonic()
        for fault in faults:
            await asyncio.sleep(max(0.0, started_s + fault.at_s - time.monotonic()))
            self.begin(fault)
        await self.healed()

    def begin(self, fault: Fault) -> None:
        """Carries it out beside others."""
        task = asyncio.ensure_future(self._carry_out(fault))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def healed(self) -> None:
        """Waits until everything that has begun is healed. Raises what one of them raised."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def _carry_out(self, fault: Fault) -> None:
        if fault.kind is Kind.KILL:
            await asyncio.gather(*(self._kill(fault, victim) for victim in fault.victims))
            return
        if fault.kind is Kind.STOP:
            await self._stop(fault)
            return
        done = self.record.begun(fault)
        for victim in fault.victims:
            await self._break(fault, victim)
        await asyncio.sleep(fault.lasts_s)
        for victim in fault.victims:
            await self._heal(fault, victim)
        done.ended_s = time.monotonic()

    async def _stop(self, fault: Fault) -> None:
        """A link and a clock file can be broken for whoever comes; only who is there can stop."""
        stopped: dict[Victim, Identity] = {}
        for victim in fault.victims:
            identity = self._keeper(victim).identity(victim)
            if identity is not None and processes.send(identity, signal.SIGSTOP):
                stopped[victim] = identity
        if not stopped:
            self.record.idle += 1
            return
        done = self.record.begun(replace(fault, victims=tuple(stopped)))
        await asyncio.sleep(fault.lasts_s)
        for identity in stopped.values():
            processes.send(identity, signal.SIGCONT)
        done.ended_s = time.monotonic()

    async def _kill(self, fault: Fault, victim: Victim) -> None:
        there = await until(lambda: self._keeper(victim).identity(victim), THERE_TIMEOUT_S)
        keeper, killed = self._keeper(victim), None
        if not there or (killed := keeper.kill(victim)) is None:
            self.record.missed += 1
            victim = self._somebody()
            keeper = self._keeper(victim)
            killed = keeper.kill(victim)
        if killed is None:
            self.record.idle += 1
            return
        self.record.kills[victim.role] += 1
        done = self.record.begun(Fault(Kind.KILL, (victim,), fault.at_s))
        if await until(lambda: keeper.back(victim, killed), BACK_TIMEOUT_S):
            done.ended_s = time.monotonic()

    def _somebody(self) -> Victim:
        """Instead of one that is being started: who runs, of the role that was killed least."""
        everyone = [Victim(role, n) for role, count in self._rig.cast.items() for n in range(count)]
        there = [each for each in everyone if self._keeper(each).identity(each) is not None]
        return min(there or everyone, key=lambda each: self.record.kills[each.role])

    async def _break(self, fault: Fault, victim: Victim) -> None:
        if fault.kind is Kind.CLOCK:
            self._clocks.move(victim.name, fault.amount)
        else:
            await self._network.impair(fault, victim)

    async def _heal(self, fault: Fault, victim: Victim) -> None:
        if fault.kind is Kind.CLOCK:
            self._clocks.move(victim.name, 0.0)
        else:
            await self._network.repair(fault, victim)

    @property
    def _network(self) -> Network:
        return self._rig.network

    @property
    def _clocks(self) -> Clocks:
        assert self._rig.clocks is not None
        return self._rig.clocks

    def _keeper(self, victim: Victim) -> Victims:
        return self._crowd if victim.role == CLIENT else self._rig
