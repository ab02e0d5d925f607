"""Outcomes that are older than they are, for tests that cannot wait for a week."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from txn.clock import US_PER_S
from txn.log_keeper import LogKeeperConfig
from txn.store.sql_log import COLUMNS, _decoded, _encoded

AGE_US = int(2 * LogKeeperConfig().idempotency_retention_s * US_PER_S)


def age_log(path: Path, below: str = "~") -> None:
    """Makes outcomes of a log that nobody has open older than the usual retention.

    All of them, or those with a txn_id below one.
    """
    with closing(sqlite3.connect(path)) as log, log:
        query = f"SELECT {COLUMNS} FROM decision WHERE txn_id < ?"
        rows = log.execute(query, (below,)).fetchall()
        for row in (_decoded(each, frozenset()) for each in rows):
            aged = replace(row, decided_at_us=row.decided_at_us - AGE_US)
            marks = ", ".join("?" * len(COLUMNS.split(",")))
            log.execute(f"REPLACE INTO decision ({COLUMNS}) VALUES ({marks})", _encoded(aged))
