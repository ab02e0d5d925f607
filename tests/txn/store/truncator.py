"""A process that truncates a log and is killed: `python -m tests.txn.store.truncator PATH WHEN`.

WHEN is `before` or `after`: on which side of the COMMIT of its second step it ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from pathlib import Path
from random import Random

from tests.txn.support import SqliteStore, no_commit_may_fail, schema
from txn.clock import SystemClock
from txn.log_keeper import LogKeeper, LogKeeperConfig
from txn.store.loop_store import LoopStore
from txn.store.sql_log import SqlDecisionLog
from txn.store.sqlite import SqliteReader, SqliteWriter

STEP = 8


class Dying(SqliteWriter):
    """Ends its process at the COMMIT of a step, the second one that deletes."""

    when = ""
    steps = 0

    def commit(self, tx: sqlite3.Connection) -> None:
        """See Backend.commit."""
        gone = tx.execute("SELECT COUNT(*) FROM truncation").fetchone()[0]
        Dying.steps += gone
        if self.steps == 2 and self.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        super().commit(tx)
        if self.steps == 2:
            os.kill(os.getpid(), signal.SIGKILL)


async def main(path: Path) -> None:
    """Truncates all there is."""
    store: SqliteStore = LoopStore(
        "dying",
        writer=lambda: Dying(path, schema()),
        reader=lambda: SqliteReader(path),
        on_commit_failure=no_commit_may_fail,
    )
    clock = SystemClock()
    config = LogKeeperConfig(rows_per_step=STEP, pause_s=0.001)
    await LogKeeper(SqlDecisionLog(store, clock), clock=clock, rng=Random(1), config=config).sweep()


if __name__ == "__main__":
    Dying.when = sys.argv[2]
    asyncio.run(main(Path(sys.argv[1])))
