"""`python -m services.backup take|verify|restore|check`; see docs/operations.md.

The code is 0, 1 where something contradicts itself, 2 where it could not be done.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from services import VERSION
from services.backup import sqlite
from services.backup.comparing import LOG, Comparison, compare, has_branches
from services.backup.errors import BackupError, NothingToBackUp, NotTaken
from services.backup.manifest import Manifest
from services.backup.report import lines, public
from txn.errors import StoreError
from txn.store.sqlite_backup import one_instant

EXIT_CONTRADICTION = 1
EXIT_FAILED = 2


def take(options: argparse.Namespace) -> int:
    """Takes a backup, and says what was open at that instant."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    into: Path = options.directory or options.home / "backups" / now
    manifest = sqlite.take(options.home, into, VERSION)
    return _tell(options, f"taken: {into}", manifest, _look(sqlite.files_of(into, manifest)))


def verify(options: argparse.Namespace) -> int:
    """Says whether a backup is as it was written."""
    manifest = sqlite.verify(options.directory)
    files = sqlite.files_of(options.directory, manifest)
    return _tell(options, f"whole: {options.directory}", manifest, _look(files))


def restore(options: argparse.Namespace) -> int:
    """Puts a backup into a home without books."""
    manifest = sqlite.restore(options.directory, options.home)
    found = _look(sqlite.stores_of(options.home))
    return _tell(options, f"restored: {options.home}", manifest, found)


def check(options: argparse.Namespace) -> int:
    """Compares the books of a home, whether a mesh runs on them or not."""
    return _tell(options, f"looked at: {options.home}", None, _look(sqlite.stores_of(options.home)))


def _look(stores: dict[str, Path]) -> Comparison:
    try:
        with ExitStack() as stack:
            connections = stack.enter_context(one_instant(list(stores.values())))
            books = dict(zip(stores, connections, strict=True))
            if LOG not in books:
                raise NothingToBackUp(f"there is no decision log {LOG}.db among the books")
            query = "SELECT component FROM schema_version"
            participants = {
                name: book
                for name, book in books.items()
                if has_branches(component for (component,) in book.execute(query))
            }
            return compare(books[LOG], participants)
    except (OSError, sqlite3.Error, StoreError) as error:
        raise NotTaken(f"the books could not be read: {error}") from error


def _tell(
    options: argparse.Namespace, what: str, manifest: Manifest | None, found: Comparison
) -> int:
    if options.json:
        sys.stdout.write(json.dumps(public(manifest, found)) + "\n")
    else:
        sys.stdout.write("\n".join([what, *lines(manifest, found)]) + "\n")
    return EXIT_CONTRADICTION if found.contradictions else 0


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
    for run, nargs in ((take, "?"), (verify, None), (restore, None), (check, 0)):
        sub = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        if nargs != 0:
            sub.add_argument("directory", type=Path, nargs=nargs, help="of the backup")
        sub.add_argument(
            "--home",
            type=Path,
            default=Path(os.environ.get("TALLYSTICK_HOME", ".tallystick")),
            help="where the books are kept",
        )
        sub.add_argument("--json", action="store_true", help="one line of JSON")
        sub.set_defaults(command=run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
