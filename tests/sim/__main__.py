"""`python -m tests.sim`: runs histories, replays one, looks for planted bugs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from tests.sim import mutants, sweep
from tests.sim.campaign import Caught, Summary, hunt_all, run_all
from tests.sim.plan import plan_of
from tests.sim.shrink import Left, shrink
from tests.sim.trace import lines, plan_lines
from tests.sim.world import Report, run

SEEDS = 500
SHRUNK_MAX = 3
_PROGRESS_S = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 when nothing is wrong."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := {*(options.mutants or ())} - {*mutants.names()}:
        parser.error(f"--mutants: there is no {', '.join(sorted(unknown))}")
    sweeps_only = options.sweep and options.seeds is None
    if options.seeds is None:
        options.seeds = SEEDS
    if options.mutants is not None:
        return _mutants(options)
    if options.sweep:
        status = _sweep()
        if status or sweeps_only:
            return status
    if options.seed is not None:
        return _one(options)
    return _many(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, help=f"how many histories, {SEEDS} if it is not said")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument(
        "--coordinators", type=int, default=0, help="how many there are; by default the seed says"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="every crash of one transaction, and then the histories if --seeds says how many",
    )
    parser.add_argument("--seed", type=int, help="replays one history")
    parser.add_argument("--trace", action="store_true", help="with everything that happens")
    parser.add_argument("--without-wishes", default="", metavar="N,N", help="leaves requests out")
    parser.add_argument("--without-faults", default="", metavar="N,N", help="leaves faults out")
    parser.add_argument("--calm", default="", metavar="NAME,NAME", help="less bad weather")
    parser.add_argument(
        "--mutant", choices=mutants.names(), metavar="NAME", help="replays with a planted bug"
    )
    parser.add_argument(
        "--mutants", nargs="*", metavar="NAME", help="looks for planted bugs, or for all of them"
    )
    parser.add_argument(
        "--outside", action="store_true", help="looks for them without looking inside"
    )
    return parser


def _many(options: argparse.Namespace) -> int:
    total = Summary()
    began_s = said_s = time.monotonic()
    for part in run_all(
        options.first, options.seeds, options.workers, several=options.coordinators
    ):
        total.add(part)
        for seed, invariant, what in part.violations:
            print(f"seed {seed}: {invariant}: {what}", flush=True)
        if time.monotonic() - said_s >= _PROGRESS_S:
            said_s = time.monotonic()
            print(f"{total.histories} histories, {len(total.violations)} violations", flush=True)
    took_s = time.monotonic() - began_s
    for seed, invariant, what in sorted(total.violations)[:SHRUNK_MAX]:
        print(f"\nseed {seed}: {invariant}: {what}")
        _show(options, seed, Left())
    shares = "  ".join(f"{what} {share:.1%}" for what, share in total.shares().items())
    print(f"histories in which something: {shares}")
    print(f"transactions: {dict(total.transactions)}  steps: {total.steps}")
    print(f"seen in histories: {dict(sorted(total.seen.items()))}")
    print(f"{took_s:.0f} s, {total.histories / took_s:.0f} histories/s")
    complaints = total.complaints()
    for complaint in complaints:
        print(f"too tame: {complaint}")
    print(f"histories={total.histories} violations={len(total.violations)}")
    return 1 if total.violations or complaints else 0


def _sweep() -> int:
    points = violations = 0
    for name in sweep.PLANS:
        for plan in sweep.all_plans(name, recovery=True):
            points += 1
            violation = run(plan).violation
            if violation is not None:
                violations += 1
                print(f"{name}, {plan.faults}: {violation}")
    print(f"crash_points={points} violations={violations}")
    return 0 if points and not violations else 1


def _one(options: argparse.Namespace) -> int:
    left = Left(
        frozenset(int(number) for number in options.without_wishes.split(",") if number),
        frozenset(int(number) for number in options.without_faults.split(",") if number),
        frozenset(name for name in options.calm.split(",") if name),
    )
    if options.mutant is None:
        report = _show(options, options.seed, left)
    else:
        with mutants.planted(options.mutant):
            report = _show(options, options.seed, left)
    return 0 if report.violation is None else 1


def _show(options: argparse.Namespace, seed: int, left: Left) -> Report:
    plan = plan_of(seed, options.coordinators)
    report = run(left.of(plan))
    if report.violation is not None and left == Left():
        left, report = shrink(plan, report)
    for line in plan_lines(report.plan):
        print(f"  {line}")
    if options.trace or report.violation is not None:
        for line in lines(report, network=options.trace):
            print(f"  {line}")
    print(f"seed {seed}: {report.violation or 'nothing is wrong'}")
    print(f"digest {report.digest()}")
    bug = f" --mutant {options.mutant}" if options.mutant else ""
    if options.coordinators:
        bug += f" --coordinators {options.coordinators}"
    print(f"replay: python -m tests.sim --seed {seed}{left.options()}{bug} --trace")
    return report


def _mutants(options: argparse.Namespace) -> int:
    chosen = options.mutants or mutants.names()
    caught = 0
    found: Caught
    for found in hunt_all(
        chosen,
        options.first,
        options.seeds,
        options.workers,
        several=options.coordinators,
        outside=options.outside,
    ):
        caught += found.invariant is not None
        result = f"{found.invariant} at seed {options.first + found.seeds - 1}"
        if found.invariant is None:
            result = f"NOT CAUGHT in {found.seeds} histories"
        print(f"{found.name:<30} {result:<22} {mutants.says(found.name)}", flush=True)
        if found.what:
            print(f"{'':<30} {found.what}")
    print(f"mutants={len(chosen)} caught={caught}")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
