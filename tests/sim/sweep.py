"""Every crash point of one transaction: each process is killed at each step that it takes.

Where chance draws a few of all moments, this takes them all: one payment in good weather, and
of whatever a thread of the killed process had begun, once all is done and once nothing is. The
coordinator is also killed again at each of its first steps after that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from tests.sim.books import Step
from tests.sim.loop import Process
from tests.sim.plan import (
    ALONE,
    BANKS,
    PARTICIPANTS,
    Fault,
    Limits,
    Part,
    Plan,
    Weather,
    Wish,
    coordinators,
)
from tests.sim.world import LANDED, LOST, World

_COORDINATORS = coordinators(1)
# Longer than a payment takes, and shorter than it takes anybody to ask about one.
_SAFETY_S = 1.0
_DOWN_S = 0.1
# What a coordinator takes from its start until phase two is under way again.
RECOVERY_STEPS = 16


def _plan(amount_minor: int, *, alone: bool = False) -> Plan:
    effect = "ann/k0#0"
    source, target = BANKS
    parts: tuple[Part, ...] = (
        Part("from", source, Step("debit", f"{source}.1", amount_minor, effect)),
        Part("to", target, Step("credit", f"{target}.1", amount_minor, effect)),
        Part("trade", "shop", Step("pay", "trade0", 0, effect)),
    )
    if alone:
        parts = (Part("only", source, Step("debit", f"{source}.1", amount_minor, effect + ALONE)),)
    wish = Wish(0.0, "client-0", "ann", "k0", parts, wait_s=0.4)
    return Plan(0, _SAFETY_S, 1, _COORDINATORS, Limits(), Weather(), (wish,), ())


# One that is committed, and one that is refused by the bank that has to pay; and each in one
# phase.
PLANS = {
    "committed": _plan(40),
    "refused": _plan(140),
    "performed": _plan(40, alone=True),
    "refused alone": _plan(140, alone=True),
}


def hosts() -> list[str]:
    """Whom to kill."""
    return [*_COORDINATORS, *(f"{name}-0" for name in PARTICIPANTS)]


def steps(plan: Plan) -> Counter[str]:
    """How many steps each process takes before all faults would end."""
    counted: Counter[str] = Counter()
    world = World(plan, outside=False)

    def count(process: Process) -> None:
        counted[process.name] += 1

    world.loop.before_step = count
    world.run()
    return counted


def crashes(plan: Plan, host: str) -> Iterator[Plan]:
    """The plan, with the process killed at each of its steps."""
    for number in range(1, steps(plan)[host] + 1):
        for threads in (LANDED, LOST):
            yield replace(plan, faults=(_death(host, number, threads),))


def crashes_in_recovery(plan: Plan) -> Iterator[Plan]:
    """The plan, with the coordinator killed at each of its steps, and twice more after that."""
    (coordinator,) = _COORDINATORS
    for number in range(1, steps(plan)[coordinator] + 1):
        for again in range(1, RECOVERY_STEPS + 1):
            for threads in (LANDED, LOST):
                first = _death(coordinator, number, threads)
                more = _death(coordinator, again, threads)
                yield replace(plan, faults=(first, more, more))


def all_plans(name: str, *, recovery: bool) -> Iterator[Plan]:
    """Every crash of one of PLANS; those in recovery are many."""
    for host in hosts():
        yield from crashes(PLANS[name], host)
    if recovery:
        yield from crashes_in_recovery(PLANS[name])


def _death(host: str, number: int, threads: str) -> Fault:
    return Fault("kill-step", 0.0, host, _DOWN_S, number, threads)
