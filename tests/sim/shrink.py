"""Leaves things out of a plan for as long as it still breaks the same invariant.

Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input",
2002) over requests, faults and kinds of bad weather. Every stream of chance in a history is
its own, so that most of what is left still happens when something else is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TypeVar

from tests.sim.plan import Plan, Weather
from tests.sim.world import Report, run

T = TypeVar("T")

RUNS_MAX = 400


@dataclass(frozen=True, slots=True)
class Left:
    """What is left out of a plan: numbers of wishes and of faults, and names of `Weather`."""

    wishes: frozenset[int] = field(default_factory=frozenset)
    faults: frozenset[int] = field(default_factory=frozenset)
    calm: frozenset[str] = field(default_factory=frozenset)

    def of(self, plan: Plan) -> Plan:
        """What remains."""
        return plan.without(self.wishes, self.faults, self.calm)

    def options(self) -> str:
        """The same for the command line."""
        parts = [
            ("--without-wishes", ",".join(map(str, sorted(self.wishes)))),
            ("--without-faults", ",".join(map(str, sorted(self.faults)))),
            ("--calm", ",".join(sorted(self.calm))),
        ]
        return "".join(f" {option} {value}" for option, value in parts if value)


def shrink(plan: Plan, report: Report) -> tuple[Left, Report]:
    """The smallest that was found of what `plan` shows, and what it shows."""
    assert report.violation is not None
    invariant = report.violation.invariant
    runs = 0
    best = report

    def fails(left: Left) -> bool:
        nonlocal runs, best
        runs += 1
        if runs > RUNS_MAX:
            return False
        found = run(left.of(plan))
        if found.violation is None or found.violation.invariant != invariant:
            return False
        best = found
        return True

    left = Left()
    before: Left | None = None
    while left != before and runs < RUNS_MAX:
        before = left
        left = _without(
            left,
            [name.name for name in fields(Weather)],
            lambda left, names: Left(left.wishes, left.faults, left.calm | names),
            fails,
        )
        left = _without(
            left,
            range(len(plan.faults)),
            lambda left, numbers: Left(left.wishes, left.faults | numbers, left.calm),
            fails,
        )
        left = _without(
            left,
            range(len(plan.wishes)),
            lambda left, numbers: Left(left.wishes | numbers, left.faults, left.calm),
            fails,
        )
    return left, best


def _without(
    left: Left,
    all_: Sequence[T],
    take: Callable[[Left, frozenset[T]], Left],
    fails: Callable[[Left], bool],
) -> Left:
    """Leaves out big pieces first, then smaller ones."""
    size = len(all_)
    while size:
        for at in range(0, len(all_), size):
            candidate = take(left, frozenset(all_[at : at + size]))
            if candidate != left and fails(candidate):
                left = candidate
        size //= 2
    return left
