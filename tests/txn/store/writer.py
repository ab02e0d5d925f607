"""A process that writes: `python -m tests.txn.store.writer PATH NAME COUNT`.

It prints each number once that is durable; COUNT 0 means until it is killed.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from txn.store.group_commit import Done, Failed, GroupCommit
from txn.store.migrate import Migration
from txn.store.sqlite import SqliteWriter

SCHEMA = {"test": (Migration(1, "CREATE TABLE line (name TEXT, number INTEGER);"),)}


def die(error: BaseException) -> NoReturn:
    """As in production."""
    sys.stderr.write(repr(error))
    os._exit(4)


def insert(name: str, number: int) -> Callable[[sqlite3.Connection], int]:
    """Work that inserts one row."""

    def work(tx: sqlite3.Connection) -> int:
        tx.execute("INSERT INTO line VALUES (?, ?)", (name, number))
        return number

    return work


def report(result: Done[Any] | Failed) -> None:
    """Says that a number is durable."""
    assert isinstance(result, Done), result
    sys.stdout.write(f"{result.value}\n")
    sys.stdout.flush()


def main(path: str, name: str, count: int) -> None:
    """One write for each group, as fast as it goes."""
    group = GroupCommit(SqliteWriter(Path(path), SCHEMA), on_commit_failure=die)
    for number in range(count) if count else itertools.count():
        group.submit(insert(name, number), report)
        for told, result in group.drain():
            told(result)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
