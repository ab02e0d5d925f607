"""A process that takes its turn and keeps it: `python -m tests.txn.store.holder PATH`.

It prints a line once it has the turn, and gives it back when its input ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.txn.store.writer import SCHEMA
from txn.store.sqlite import SqliteWriter


def main(path: str) -> None:
    """One turn."""
    writer = SqliteWriter(Path(path), SCHEMA)
    tx = writer.begin()
    sys.stdout.write("mine\n")
    sys.stdout.flush()
    sys.stdin.read()
    writer.rollback(tx)
    writer.close()


if __name__ == "__main__":
    main(sys.argv[1])
