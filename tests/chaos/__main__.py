"""`python -m tests.chaos`: a bank under fire, and whether its books are right.

Clients move money through a real mesh while processes are killed, stopped, cut off and
slowed down, and their wall clocks are moved. Ends with a verdict on the invariants
(docs/correctness.md), a picture of throughput and faults, and with 0 only if that was a
test and nothing was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop

from services.launcher.errors import LauncherError
from tests.chaos.picture import Story, draw
from tests.chaos.run import Bank, Options
from tests.chaos.verdict import (
    VIOLATIONS_SHOWN,
    Run,
    as_json,
    complaints,
    figures,
    last_line,
    table,
)
from tests.sim import mutants

INTERRUPTED_CODE = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.clients < 1:
        parser.error("--clients: there has to be one at least")
    home = options.home or Path(tempfile.mkdtemp(prefix="tallystick-chaos-"))
    home = home.absolute()
    print(f"seed {options.seed}, state in {home}", flush=True)
    try:
        run, story = uvloop.run(_run(_options(options, home)))
    except (LauncherError, RuntimeError) as error:
        print(f"it could not begin: {error}; logs: {home}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        print("interrupted: the mesh is down, and nothing is proved", file=sys.stderr)
        if not options.home:
            shutil.rmtree(home)
        return INTERRUPTED_CODE
    if sys.stdout.isatty():
        print()
    options.picture.write_text(draw(story), encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps(as_json(run), indent=1), encoding="utf-8")
    good = _say(run, options.picture, home)
    if good and not options.home:
        shutil.rmtree(home)
    return 0 if good else 1


async def _run(options: Options) -> tuple[Run, Story]:
    """Takes everything down when it is told to end, also where a shell has it ignore SIGINT."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await Bank(options, _tell).run()


def _say(run: Run, picture: Path, home: Path) -> bool:
    for line in [*figures(run), *table(run)]:
        print(line)
    for violation in run.findings.violations[:VIOLATIONS_SHOWN]:
        print(f"VIOLATION {violation.invariant}: {violation.what}")
    for complaint in complaints(run):
        print(f"too tame: {complaint}")
    good = not run.findings.total and not complaints(run)
    print(f"picture: {picture}" + ("" if good else f"; logs and books: {home}"))
    print(last_line(run), flush=True)
    return good


def _tell(line: str) -> None:
    """One line that is written over in a terminal, and lines in a file."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{line[:width]:<{width}}", end="", flush=True)
    else:
        print(line, flush=True)


def _options(options: argparse.Namespace, home: Path) -> Options:
    return Options(
        home=home,
        seed=options.seed,
        duration_s=options.duration,
        clients=options.clients,
        think_s=options.think_s,
        kills=options.campaign,
        takeovers=options.takeovers,
        mutant=options.mutant,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--duration", type=float, default=300.0, help="seconds under fire")
    parser.add_argument("--seed", type=int, default=1, help="draws faults and payments")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--think-s", type=float, default=0.5, help="between payments of a client")
    parser.add_argument(
        "--campaign", type=int, default=0, metavar="KILLS", help="rounds of kills, so many in all"
    )
    parser.add_argument(
        "--takeovers", type=int, default=0, metavar="N", help="three coordinators, taken over from"
    )
    parser.add_argument(
        "--mutant",
        choices=mutants.names_for_processes(),
        metavar="NAME",
        default="",
        help="with a bug that has to be found",
    )
    parser.add_argument("--home", type=Path, help="where to keep everything; new, and kept")
    parser.add_argument("--picture", type=Path, default=Path("chaos.svg"))
    parser.add_argument("--json", type=Path, help="a report for programs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
