"""A campaign of takeovers: coordinators are stopped past their leases, and come back too late.

A kill alone is none: the supervisor starts the next one at once, which inherits at its own
address. So one or two of three are stopped until another has taken over. Then each is told to
go on, and is fenced, or is killed where it stands.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from services.launcher import processes
from tests.chaos.faults import COORDINATOR, Fault, Kind, Victim
from tests.chaos.nemesis import Nemesis
from tests.chaos.rig import Rig
from tests.chaos.waiting import until
from tests.support.books import rows_of
from tests.support.faults import stop_between_turns

SEATS = 3
AT_ONCE_MAX = 2
KILL_SHARE = 0.3
# Without a takeover by then something is wrong.
TAKEN_OVER_TIMEOUT_S = 60.0
BACK_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Round:
    """Who is stopped, and who of them is killed in the end."""

    victims: tuple[Victim, ...]
    killed: frozenset[Victim]


def rounds(seed: int, takeovers: int) -> Iterator[Round]:
    """Until there were so many."""
    rng = random.Random(seed)
    everyone = [Victim(COORDINATOR, number) for number in range(SEATS)]
    left = takeovers
    while left > 0:
        victims = tuple(rng.sample(everyone, min(left, rng.randint(1, AT_ONCE_MAX))))
        left -= len(victims)
        yield Round(victims, frozenset(v for v in victims if rng.random() < KILL_SHARE))


class Takeovers:
    """Carries out rounds, one after the other."""

    def __init__(self, rig: Rig, nemesis: Nemesis) -> None:
        self._rig = rig
        self._record = nemesis.record
        self.count = 0
        """Takeovers that were seen in the log."""

    async def carry_out(self, each: Round, at_s: float) -> bool:
        """Whether everybody was taken over from, and is back."""
        if not await until(lambda: self._ready(each.victims), BACK_TIMEOUT_S):
            return False
        identities = {victim: self._rig.identity(victim) for victim in each.victims}
        stopped = {victim: identity for victim, identity in identities.items() if identity}
        done = self._record.begun(Fault(Kind.STOP, each.victims, at_s))
        for identity in stopped.values():
            await stop_between_turns(
                partial(processes.send, identity, signal.SIGSTOP),
                partial(processes.send, identity, signal.SIGCONT),
                self._log,
            )
        over = await until(
            lambda: not self._standing() & self._instances(each.victims), TAKEN_OVER_TIMEOUT_S
        )
        left = self._standing() & self._instances(each.victims)
        self.count += len(each.victims) - len(left)
        for victim, identity in stopped.items():
            if victim in each.killed:
                self._record.kills[COORDINATOR] += self._rig.kill(victim) is not None
            else:
                processes.send(identity, signal.SIGCONT)
        back = await until(
            lambda: all(self._rig.back(victim, stopped[victim]) for victim in stopped),
            BACK_TIMEOUT_S,
        )
        done.ended_s = time.monotonic()
        return over and back

    @property
    def _log(self) -> Path:
        return self._rig.data / f"{COORDINATOR}.db"

    def _ready(self, victims: tuple[Victim, ...]) -> bool:
        there = all(self._rig.identity(victim) for victim in victims)
        return there and self._rig.serving() and self._instances(victims) <= self._standing()

    def _instances(self, victims: tuple[Victim, ...]) -> frozenset[str]:
        return frozenset(self._rig.advertised(victim) for victim in victims)

    def _standing(self) -> frozenset[str]:
        rows = rows_of(self._log, "SELECT instance FROM epoch WHERE successor IS NULL")
        return frozenset(instance for (instance,) in rows)
