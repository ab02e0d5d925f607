"""`python -m tests.failpoints`: kills real processes at every crash point, and from outside."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path

from tests.failpoints.mesh import HOST, scratch
from tests.failpoints.outside import FORCES, WRITES, all_calls
from tests.failpoints.scenarios import SCENARIOS
from tests.failpoints.sweep import Case, Job, Meshes, cases_of
from tests.support.children import Nursery
from tests.support.faults import untraceable
from txn.crash_point import all_points


async def _points(meshes: Meshes, names: Sequence[str]) -> list[Case]:
    """Every case of these scenarios."""
    cases: list[Case] = []
    for name in names:
        found = cases_of(SCENARIOS[name], await meshes.passed(SCENARIOS[name]))
        cases += found
        print(f"{name}: {len(found)} cases", flush=True)
    return cases


async def _run_all(meshes: Meshes, what: str, jobs: Sequence[Job]) -> Counter[str]:
    """Counts cases and violations, and says what came of them."""
    began_s = time.monotonic()
    counted = Counter(cases=0, violations=0)
    async for result in meshes.run(jobs):
        counted["cases"] += 1
        if result.violations:
            counted["violations"] += 1
            print(f"{result.case}: {result.violations}", flush=True)
    print(f"{what}: {counted['cases']} cases, {time.monotonic() - began_s:.0f} s", flush=True)
    return counted


async def _outside(meshes: Meshes, scenarios: Collection[str]) -> Counter[str]:
    """The same for kills from outside, where the machine allows them."""
    if refusal := await untraceable():
        print(f"from outside: left out, since {refusal}", flush=True)
        return Counter()
    return await _run_all(meshes, "from outside", all_calls([*FORCES, *WRITES], scenarios))


async def _run(home: Path, options: argparse.Namespace) -> int:
    with closing(Nursery(HOST)) as nursery:
        meshes = Meshes(home, nursery, options.at_once)
        cases = await _points(meshes, options.scenarios)
        counted = await _run_all(meshes, "crash points", cases)
        if options.outside:
            counted += await _outside(meshes, options.scenarios)
    points = {case.point for case in cases}
    wanted = all_points() if set(options.scenarios) == set(SCENARIOS) else points
    return verdict(counted, points, wanted)


def verdict(counted: Counter[str], points: Collection[str], wanted: Collection[str]) -> int:
    """Says what came of it all; the exit status, which is 0 when there was something to find."""
    never = sorted(set(wanted) - set(points))
    for name in never:
        print(f"nobody comes to {name}")
    violations = counted["violations"] + len(never)
    print(f"points={len(points)} cases={counted['cases']} violations={violations}")
    return 0 if counted["cases"] and not violations else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses and runs; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.failpoints")
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS), help="all by default")
    parser.add_argument("--at-once", type=int, default=4, help="meshes that run at the same time")
    parser.add_argument("--no-outside", dest="outside", action="store_false")
    options = parser.parse_args(arguments)
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    with scratch() as home:
        return asyncio.run(_run(Path(home), options))


if __name__ == "__main__":
    sys.exit(main())
