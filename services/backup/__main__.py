"""`python -m services.backup take|verify|restore|check|reconcile`; see docs/operations.md.

The code is 0, 1 where something contradicts itself, 2 where it could not be done.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from services import VERSION, books_place
from services.backup import reconciling, working
from services.backup.books import Books
from services.backup.comparing import Comparison
from services.backup.errors import BackupError, NothingToBackUp
from services.backup.manifest import Manifest, verified
from services.backup.report import lines, public
from services.backup.sqlite import SqliteBooks

EXIT_CONTRADICTION = 1
EXIT_FAILED = 2
_DATABASE = "TALLYSTICK_POSTGRES"


def take(options: argparse.Namespace) -> int:
    """Takes a backup, and says what was open at that instant."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    into: Path = options.directory or options.home / "backups" / now
    manifest, found = working.take(_books(options), into, VERSION)
    return _tell(options, f"taken: {into}", manifest, found)


def verify(options: argparse.Namespace) -> int:
    """Says whether a backup is as it was written."""
    return _tell(options, f"whole: {options.directory}", verified(options.directory), None)


def restore(options: argparse.Namespace) -> int:
    """Puts a backup where there are no books yet, and looks through them."""
    manifest, found = working.restore(_place(options), options.directory)
    return _tell(options, f"restored: {options.directory}", manifest, found)


def check(options: argparse.Namespace) -> int:
    """Compares the log with the other books, whether a mesh runs on them or not."""
    return _tell(options, "compared", None, working.look(_books(options)))


def reconcile(options: argparse.Namespace) -> int:
    """Writes into a log that is older than the books what they prove; no coordinator may run."""
    books = _books(options)
    found = asyncio.run(reconciling.reconcile(books))
    return _tell(options, f"{len(found)} commits written into the log", None, working.look(books))


def _books(options: argparse.Namespace) -> Books:
    """Those that are there. Raises NothingToBackUp where they are somewhere else."""
    try:
        store = books_place.noted(options.home)
    except (OSError, ValueError) as error:
        raise NothingToBackUp(f"which books are those of this home? {error}") from error
    if store != books_place.SQLITE and not os.environ.get(_DATABASE):
        raise NothingToBackUp(
            f"the books of {options.home} are on {store}: {_DATABASE} has to name it,"
            f" or its mesh be started on {books_place.SQLITE} again"
        )
    return _place(options)


def _place(options: argparse.Namespace) -> Books:
    if dsn := os.environ.get(_DATABASE):
        from services.backup.postgres import PostgresBooks

        return PostgresBooks(dsn)
    return SqliteBooks(options.home)


def _tell(
    options: argparse.Namespace, what: str, manifest: Manifest | None, found: Comparison | None
) -> int:
    if options.json:
        sys.stdout.write(json.dumps(public(manifest, found)) + "\n")
    else:
        sys.stdout.write("\n".join([what, *lines(manifest, found)]) + "\n")
    return EXIT_CONTRADICTION if found and found.contradictions else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; whatever goes wrong is told in one line."""
    # The books, and the password hashes in them, are the owner's alone.
    os.umask(0o077)
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except BackupError as error:
        sys.stderr.write(f"backup: {error}\n")
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.backup", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for run, nargs in ((take, "?"), (verify, None), (restore, None), (check, 0), (reconcile, 0)):
        sub = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        if nargs != 0:
            sub.add_argument("directory", type=Path, nargs=nargs, help="of the backup")
        sub.add_argument(
            "--home",
            type=Path,
            default=Path(os.environ.get("TALLYSTICK_HOME", ".tallystick")),
            help="where the books are kept, unless TALLYSTICK_POSTGRES names a database",
        )
        sub.add_argument("--json", action="store_true", help="one line of JSON")
        sub.set_defaults(command=run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
