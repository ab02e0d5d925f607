"""The launcher's command line: `python -m services.launcher up|down|ps|logs|demo`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from services.launcher import mesh, settings, status
from services.launcher.catalogue import check_store
from services.launcher.errors import LauncherError
from services.launcher.settings import Settings
from services.launcher.status import MeshStatus

INTERRUPTED_CODE = 130
WIDTH = 100
HINTS = """
  make ps      what runs                       make logs    what it says
  make demo    a payment, step by step         make down    take it down
"""


def tell(line: str) -> None:
    """Prints at once, also into a pipe."""
    print(line, flush=True)


def up(options: argparse.Namespace, known: Settings) -> int:
    """Brings the mesh up."""
    known = _with_store(known, options.store)
    found = mesh.up(known, options.replicas, tell)
    tell(f"the mesh is up; etcd {','.join(found.etcd)}, state in {known.home.path}")
    tell(HINTS.rstrip())
    return 0


def down(_: argparse.Namespace, known: Settings) -> int:
    """Takes the mesh down."""
    mesh.down(known, tell)
    return 0


def ps(options: argparse.Namespace, known: Settings) -> int:
    """Shows what runs."""
    found = status.read(known.home)
    if options.json:
        tell(json.dumps(found.public()))
    elif not found.processes:
        tell("nothing is up: run `make up`")
    else:
        _print_table(found)
    return 0


def logs(options: argparse.Namespace, known: Settings) -> int:
    """Shows logs."""
    from services.launcher import logs as files

    chosen = files.choose(known.home, options.name)
    files.show(chosen, tell)
    if options.follow:
        files.follow(chosen, tell)
    return 0


def demo(options: argparse.Namespace, known: Settings) -> int:
    """Brings the mesh up and pays over it."""
    known = _with_store(known, options.store)
    from services.launcher.demo import run

    return run(known, options.replicas)


def _with_store(known: Settings, store: str | None) -> Settings:
    """As asked on the command line, where something is."""
    if store is None:
        return known
    check_store(store)
    return replace(known, store=store)


def main(arguments: Sequence[str] | None = None, known: Settings | None = None) -> int:
    """Runs one command; returns its exit code. Whatever goes wrong is told in one line."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace, Settings], int] = options.command
    try:
        return command(options, known or settings.from_environment())
    except LauncherError as error:
        print(f"tallystick: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED_CODE
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m services.launcher", description="Runs the mesh on this machine."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, run, text in (
        ("up", up, "bring the mesh up; returns when every process serves"),
        ("demo", demo, "bring the mesh up and pay over it, step by step"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--replicas", help='for example "order=2 ledger=3"')
        sub.add_argument(
            "--store",
            help="where the books are kept: sqlite, or postgres, which is the default where"
            " TALLYSTICK_POSTGRES names a database",
        )
        sub.set_defaults(command=run)
    text = "take the mesh down: services drain, etcd goes last"
    commands.add_parser("down", help=text, description=text).set_defaults(command=down)
    _add_ps(commands)
    _add_logs(commands)
    return parser


def _add_ps(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = (
        "Shows what runs. The exit code is 0 also when nothing does: then `supervisor` is null"
        " and `processes` is empty. With `supervisor` null and processes ORPHANED, the"
        " supervisor was killed and the mesh works on; `up` and `down` know what to do."
    )
    sub = commands.add_parser("ps", help="show what runs", description=text)
    sub.add_argument("--json", action="store_true", help="one line of JSON")
    sub.set_defaults(command=ps)


def _add_logs(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("logs", help="show logs", description="Shows the end of logs.")
    sub.add_argument("name", nargs="?", help="a process (ledger-0) or a service (ledger)")
    sub.add_argument("--follow", "-f", action="store_true", help="go on until interrupted")
    sub.set_defaults(command=logs)


def _print_table(found: MeshStatus) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("PROCESS", "STATE", "ADDRESS", "PID", "RESTARTS"):
        table.add_column(heading, justify="right" if heading in ("PID", "RESTARTS") else "left")
    for process in found.processes:
        pid = str(process.identity.pid) if process.identity else "-"
        table.add_row(process.name, process.state, process.address, pid, str(process.restarts))
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(table)
    if found.supervisor:
        tell(f"supervisor {found.supervisor.pid}")
    else:
        tell("the supervisor is gone and nothing is restarted: `make up` or `make down`")
