"""Kills from outside, which need no hook: at the n-th system call of a process on its log file.

strace kills it as it enters that call, or has the call fail. A payment is played again with
n = 1, 2, ... until the process comes through it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tests.failpoints.host import ROLES
from tests.failpoints.mesh import KILLED, FailMesh
from tests.failpoints.scenarios import SCENARIOS, Play
from tests.failpoints.sweep import Result, played, wrong_after
from tests.support.faults import injected
from txn.store.opening import EXIT_STORE_IN_DOUBT

# What may happen to a call: the process is killed when it enters it, or the disk fails.
KILL = "signal=KILL"
FAIL = "error=EIO"
# A file that is written to in parts may be left half-written; a force may be missing or fail.
FORCES = (("fdatasync", KILL), ("fdatasync", FAIL))
WRITES = (("pwrite64", KILL),)
SCENARIOS_PLAYED = ("commit", "refused-by-ledger", "refused-by-order", "one-phase")
# In it every process forces, and writes; in others somebody may have nothing to write.
HITS_EVERYBODY = "commit"


@dataclass(frozen=True, slots=True)
class Calls:
    """Every such call that `role` makes in a scenario, one after the other."""

    scenario: str
    role: str
    call: str
    fault: str

    async def run(self, mesh: FailMesh) -> Sequence[Result]:
        """See Job.run. The last one is that in which nothing was left to hit."""
        results: list[Result] = []
        while not results or (results[-1].fired and not results[-1].violations):
            results.append(await self._nth(mesh, len(results) + 1))
        return results if results[-1].violations else results[:-1]

    async def _nth(self, mesh: FailMesh, number: int) -> Result:
        scenario, host = SCENARIOS[self.scenario], mesh.hosts[self.role]
        result = Result(f"{self} #{number}")
        play = Play(mesh, mesh.watch)
        await host.up()
        async with injected(host, self.call, f"{self.fault}:when={number}") as injection:
            result.violations += await played(play, scenario)
        result.fired = injection.fired
        may_exit = {self.role: EXIT_STORE_IN_DOUBT} if self.fault == FAIL else {}
        result.violations += await wrong_after(play, scenario, may_exit=may_exit)
        ends = may_exit.get(self.role, KILLED)
        if result.fired and ends not in host.codes:
            result.violations.append(f"{self.role} has survived it: {host.codes}")
        if number == 1 and not result.fired and self.scenario == HITS_EVERYBODY:
            result.violations.append("strace has hit nothing")
        return result

    def __str__(self) -> str:
        return f"{self.scenario}: {self.fault} at {self.role}'s {self.call}"


def all_calls(kinds: Sequence[tuple[str, str]], scenarios: Collection[str]) -> list[Calls]:
    """Those of every process, of these kinds, in those of these scenarios that are played."""
    return [
        Calls(scenario, role, call, fault)
        for call, fault in kinds
        for scenario in SCENARIOS_PLAYED
        if scenario in scenarios
        for role in ROLES
    ]
