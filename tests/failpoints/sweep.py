"""Every crash point of every scenario, and whoever is killed there.

Each scenario is played in peace first, and who comes to which point is written down. Each of
these moments is then a case for each victim: who has come to the point, and each of the
others at that moment.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Protocol, TypeAlias

from tests.failpoints.checks import COMMITTED, against, at_any_moment, unended
from tests.failpoints.host import COORDINATOR, ROLES
from tests.failpoints.mesh import KILLED, FailMesh
from tests.failpoints.scenarios import SCENARIOS, Play, Scenario
from tests.support.books import CONVERGE_WITHIN_S, check_books
from tests.support.children import Nursery
from txn.lane import PARTICIPANT_UNAVAILABLE

# The coordinator comes to its points for the first and for the second participant.
OCCURRENCES_MAX = {COORDINATOR: 2}
# A scenario that did not come to the point is played again: it may have gone another way.
PLAYS_MAX = 3
# What happens in one of them only is a matter of time, and no case.
PEACEFUL_PLAYS = 2
Passed: TypeAlias = Counter[tuple[str, str]]

NOBODY: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class Case:
    """`victim` is killed when `role` is at `point` for the `occurrence`-th time."""

    scenario: str
    role: str
    point: str
    occurrence: int
    victim: str

    async def run(self, mesh: FailMesh) -> list[Result]:
        """See Job.run."""
        return [await kill(mesh, self)]

    def __str__(self) -> str:
        return f"{self.scenario}: {self.victim} at {self.role}'s {self.point} #{self.occurrence}"


@dataclass
class Result:
    """What came of a case."""

    case: object
    fired: bool = False
    violations: list[str] = field(default_factory=list)


class Job(Protocol):
    """Some cases, one after the other on one mesh."""

    @property
    def scenario(self) -> str:
        """What is played."""

    async def run(self, mesh: FailMesh) -> Sequence[Result]:
        """What came of each."""


async def passed_in_peace(mesh: FailMesh, scenario: Scenario) -> Passed:
    """Who comes to which point how often. Raises AssertionError when anything is wrong."""
    play = Play(mesh, mesh.watch)
    wrong = await played(play, scenario)
    passed = Counter(play.passed or mesh.passed())
    wrong += await wrong_after(play, scenario)
    assert not wrong, wrong
    # The last one is that of a payment which only shows that payments go on.
    if first := play.heard[play.prelude : -1]:
        assert scenario.outcomes[0] == first[0].outcome
    return passed


def cases_of(scenario: Scenario, plays: Sequence[Passed]) -> list[Case]:
    """A case for each victim, and each moment that came in all of these plays."""
    return [
        Case(scenario.name, role, point, occurrence, victim)
        for (role, point), times in reduce(and_, plays).items()
        if point not in scenario.by_chance
        for occurrence in range(1, min(times, OCCURRENCES_MAX.get(role, 1)) + 1)
        for victim in ROLES
    ]


async def kill(mesh: FailMesh, case: Case) -> Result:
    """Plays the scenario until somebody is killed in it, then checks everything."""
    result = Result(case)
    scenario = SCENARIOS[case.scenario]
    for _ in range(PLAYS_MAX):
        play = Play(mesh, lambda: mesh.arm(case.role, case.point, case.occurrence, case.victim))
        result.violations += await played(play, scenario)
        result.fired = not mesh.disarm()
        result.violations += await wrong_after(play, scenario)
        if result.fired or result.violations:
            break
    else:
        result.violations.append("nobody came to the point")
    return result


async def played(play: Play, scenario: Scenario) -> list[str]:
    """Plays it; what is wrong with the books whenever somebody dies, or takes too long."""
    mesh = play.mesh
    wrong: list[str] = []
    for host in mesh.hosts.values():
        await host.up()
        host.forget()

    def look(role: str) -> None:
        try:
            wrong.extend(at_any_moment(mesh))
        except sqlite3.Error as error:
            wrong.append(f"after the death of {role}: {error!r}")

    mesh.on_death = look
    try:
        await scenario.play(play)
    except (AssertionError, TimeoutError) as error:
        wrong.append(f"I5: {error!r}")
    return wrong


async def wrong_after(
    play: Play, scenario: Scenario, *, may_exit: Mapping[str, int] = NOBODY
) -> list[str]:
    """What is wrong when all is over: the invariants, and that payments go on.

    Who `may_exit` may have ended with that code, and say why.
    """
    mesh = play.mesh
    try:
        for host in mesh.hosts.values():
            await host.up()
        answers = play.heard[play.prelude :]
        for request in tuple(play.asked) if scenario.keys_are_kept else ():
            await play.ask(request)
        await _goes_on(play)
        await play.settled()
        check_books(mesh)
    except (AssertionError, TimeoutError) as error:
        return [f"I5: {error!r}"]
    wrong = [*at_any_moment(mesh), *against(mesh, play.heard)]
    if answers and answers[0].outcome not in scenario.outcomes:
        wrong.append(f"the outcome is {answers[0]}")
    for host in mesh.hosts.values():
        if host.role not in may_exit:
            wrong += host.alarms()
        if unforeseen := set(host.codes) - {KILLED, may_exit.get(host.role)}:
            wrong.append(f"{host.role} has ended by itself: {unforeseen}")
    return wrong


async def _goes_on(play: Play) -> None:
    """Payments go through, and what was committed before has its end, which rides with them."""
    async with asyncio.timeout(CONVERGE_WITHIN_S):
        while True:
            answer = await play.pay()
            if answer.outcome == COMMITTED and unended(play.mesh) == [(answer.txn_id,)]:
                return
            # On a slow machine a participant may not have voted in time.
            assert answer.outcome == COMMITTED or answer.reason == PARTICIPANT_UNAVAILABLE, answer


class Meshes:
    """Some meshes at once, each with one case at a time; those with other settings come later."""

    def __init__(self, home: Path, nursery: Nursery, at_once: int) -> None:
        self._home = home
        self._nursery = nursery
        self._at_once = at_once
        self._made = 0

    async def passed(self, scenario: Scenario) -> list[Passed]:
        """Who comes to which point how often, in some plays of the scenario."""
        async with self.mesh(scenario) as mesh:
            return [await passed_in_peace(mesh, scenario) for _ in range(PEACEFUL_PLAYS)]

    async def run(self, jobs: Sequence[Job]) -> AsyncIterator[Result]:
        """Results as they come."""
        results: asyncio.Queue[Result | None] = asyncio.Queue()
        waiting = list(reversed(jobs))

        async def work() -> None:
            async with AsyncExitStack() as stack:
                mesh: FailMesh | None = None
                while waiting:
                    job = waiting.pop()
                    scenario = SCENARIOS[job.scenario]
                    if mesh is None or mesh.settings != scenario.settings:
                        await stack.aclose()
                        mesh = await stack.enter_async_context(self.mesh(scenario))
                    for result in await job.run(mesh):
                        results.put_nowait(result)
                        if result.violations:
                            # What it has left behind is not the next one's.
                            await stack.aclose()
                            mesh = None

        workers = asyncio.gather(*(work() for _ in range(self._at_once)))
        workers.add_done_callback(lambda _: results.put_nowait(None))
        while (result := await results.get()) is not None:
            yield result
        await workers

    def mesh(self, scenario: Scenario) -> FailMesh:
        """A new one, for who enters it."""
        self._made += 1
        return FailMesh(self._home / str(self._made), self._nursery, scenario.settings)
