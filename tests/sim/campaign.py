"""Many histories, on several processes."""

from __future__ import annotations

import gc
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from tests.sim import mutants
from tests.sim.plan import plan_of
from tests.sim.world import run

CHUNK = 25
SHARE_MIN = 0.1
# With fewer histories a share, or a rarity, says nothing.
SHARES_FROM = 100
RARE_FROM = 2_000
# What has to happen in some history, or else the simulator has become too tame.
RARE = (
    "empty abort",
    "late prepare",
    "performed",
    "Perform answered ABORT",
    "Perform answered READ_ONLY",
    "Resolve answered COMMIT",
    "Resolve answered ABORT",
    "branch forgotten",
    "branch of a truncated outcome forgotten",
    "outcome truncated",
    "inquiry answered COMMITTED",
    "inquiry answered ABORTED",
    "inquiry wrote the abort",
    "told PENDING",
    "told COMMITTED, not yet applied",
    "key lost to another",
    "told IdempotencyConflict",
    "told Overloaded",
    "told ShuttingDown",
    "commits resumed",
    "new work shed",
    "drained",
    "force refused",
    "forced ABORTED_ENDED",
    "forced ABORTED",
    "forced COMMITTED",
    "stray commit",
    "defect in a resource",
    "dies in",
    "dies between",
    "dies at",
    "dies OSError('the",
)
# The same, where there are several coordinators.
RARE_OF_SEVERAL = ("taken over", "dies Fenced('epoch")


@dataclass
class Summary:
    """What came of many histories."""

    histories: int = 0
    violations: list[tuple[int, str, str]] = field(default_factory=list)
    committed: int = 0
    aborted: int = 0
    crashed: int = 0
    # Histories with more than one coordinator.
    several: int = 0
    steps: int = 0
    transactions: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)

    def add(self, other: Summary) -> None:
        """Both together."""
        self.histories += other.histories
        self.violations += other.violations
        self.committed += other.committed
        self.aborted += other.aborted
        self.crashed += other.crashed
        self.several += other.several
        self.steps += other.steps
        self.transactions.update(other.transactions)
        self.seen.update(other.seen)

    def shares(self) -> dict[str, float]:
        """The shares of histories in which something committed, aborted, crashed."""
        of = max(1, self.histories)
        return {
            "committed": self.committed / of,
            "aborted": self.aborted / of,
            "crashed": self.crashed / of,
        }

    def complaints(self) -> list[str]:
        """Why these histories prove less than they should."""
        found = [] if self.histories else ["there was no history"]
        if self.histories >= SHARES_FROM:
            found += [
                f"only {share:.1%} of the histories {what}"
                for what, share in self.shares().items()
                if share < SHARE_MIN
            ]
        wanted: tuple[str, ...] = RARE if self.histories >= RARE_FROM else ()
        wanted += RARE_OF_SEVERAL if self.several >= RARE_FROM // 2 else ()
        found += [f"never seen: {what}" for what in wanted if not self.seen[what]]
        return found


def run_seeds(seeds: Sequence[int], several: int = 0) -> Summary:
    """Runs them here, one after the other; see `plan_of` for `several`."""
    summary = Summary()
    # Histories leave cycles behind; when they are collected must not be left to chance,
    # and need not be often.
    gc.collect()
    gc.disable()
    try:
        for seed in seeds:
            plan = plan_of(seed, several)
            report = run(plan)
            summary.histories += 1
            summary.committed += report.committed > 0
            summary.aborted += report.aborted > 0
            summary.crashed += report.crashes > 0
            summary.several += len(plan.coordinators) > 1
            summary.steps += report.steps
            summary.transactions.update(committed=report.committed, aborted=report.aborted)
            summary.seen.update(list(report.seen))
            if (violation := report.violation) is not None:
                summary.violations.append((seed, violation.invariant, violation.what))
    finally:
        gc.enable()
    return summary


def run_all(first: int, count: int, workers: int, *, several: int = 0) -> Iterator[Summary]:
    """Yields the summary of each part, in any order."""
    chunks = [
        range(at, min(at + CHUNK, first + count)) for at in range(first, first + count, CHUNK)
    ]
    running = partial(run_seeds, several=several)
    if workers == 1:
        yield from map(running, chunks)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(running, chunks)


@dataclass(frozen=True, slots=True)
class Caught:
    """How a mutant was found: the seed, the invariant, what was wrong. None when it was not."""

    name: str
    seeds: int
    invariant: str | None
    what: str


def hunt(name: str, first: int, count: int, *, outside: bool, several: int = 0) -> Caught:
    """Looks for the first seed that shows a mutant; see `run` for `outside`."""
    gc.disable()
    try:
        with mutants.planted(name):
            for number in range(count):
                if number % CHUNK == 0:
                    gc.collect()
                    _end_with_parent()
                violation = run(plan_of(first + number, several), outside=outside).violation
                if violation is not None:
                    return Caught(name, number + 1, violation.invariant, violation.what)
    finally:
        gc.enable()
    return Caught(name, count, None, "")


def _end_with_parent() -> None:
    """Whoever looks for minutes notices that nobody wants to know any more."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        sys.exit("whoever looked for planted bugs is gone")


def hunt_all(
    names: Iterable[str],
    first: int,
    count: int,
    workers: int,
    *,
    outside: bool,
    several: int = 0,
) -> Iterator[Caught]:
    """The same for many, in their order."""
    looking = partial(hunt, first=first, count=count, outside=outside, several=several)
    if workers == 1:
        yield from map(looking, names)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(looking, names)
