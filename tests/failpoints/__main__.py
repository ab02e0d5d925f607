"""`python -m tests.failpoints`: kills real processes at every crash point, and from outside."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.failpoints.mesh import Nursery, scratch
from tests.failpoints.outside import FORCES, WRITES, all_calls
from tests.failpoints.scenarios import SCENARIOS
from tests.failpoints.sweep import Case, Job, Meshes, cases_of
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


async def _run(home: Path, options: argparse.Namespace) -> int:
    async with Nursery() as nursery:
        meshes = Meshes(home, nursery, options.at_once)
        cases = await _points(meshes, options.scenarios)
        points = {case.point for case in cases}
        never = sorted(all_points() - points) if len(options.scenarios) == len(SCENARIOS) else []
        counted = await _run_all(meshes, "crash points", cases)
        if options.outside and shutil.which("strace"):
            counted += await _run_all(meshes, "from outside", all_calls([*FORCES, *WRITES]))
        elif options.outside:
            print("from outside: left out, since there is no strace")
    for name in never:
        print(f"nobody comes to {name}")
    violations = counted["violations"] + len(never)
    print(f"points={len(points)} cases={counted['cases']} violations={violations}")
    return 1 if violations else 0


def main() -> int:
    """Parses and runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.failpoints")
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS), help="all by default")
    parser.add_argument("--at-once", type=int, default=4, help="meshes that run at the same time")
    parser.add_argument("--no-outside", dest="outside", action="store_false")
    options = parser.parse_args()
    with scratch() as home:
        return asyncio.run(_run(Path(home), options))


if __name__ == "__main__":
    sys.exit(main())
