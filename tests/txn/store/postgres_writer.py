"""A process that writes: `python -m tests.txn.store.postgres_writer DSN SCHEMA NAME FIRST`.

It prints each number from FIRST once that is durable, and goes on until the server is gone.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from tests.txn.store.writer import report
from txn.store.group_commit import Failed, GroupCommit
from txn.store.postgres import PostgresTx, PostgresWriter


def ended(error: BaseException) -> NoReturn:
    """As in production: a commit that failed is in doubt, and nothing is said any more."""
    sys.stdout.flush()
    os._exit(4)


def insert(name: str, number: int) -> Callable[[PostgresTx], int]:
    """Work that inserts one row."""

    def work(tx: PostgresTx) -> int:
        tx.execute("INSERT INTO line VALUES (?, ?)", (name, number))
        return number

    return work


def main(dsn: str, schema: str, name: str, first: int) -> None:
    """One write for each group, as fast as it goes."""
    group = GroupCommit(PostgresWriter(dsn, schema, {}), on_commit_failure=ended)
    for number in itertools.count(first):
        group.submit(insert(name, number), report)
        for told, result in group.drain():
            if isinstance(result, Failed):
                return
            told(result)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
