"""Opens a store on SQLite: one file, what writes to it, what reads it."""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

from txn.errors import Fenced
from txn.metrics import NO_METRICS, StoreMetrics
from txn.store.loop_store import LoopStore
from txn.store.migrate import Migration
from txn.store.sqlite import SqliteReader, SqliteWriter

EXIT_STORE_IN_DOUBT = 4
EXIT_FENCED = 6

Schema: TypeAlias = Mapping[str, tuple[Migration, ...]]
SqliteStore: TypeAlias = LoopStore[sqlite3.Connection]

_log = logging.getLogger(__name__)


def die_in_doubt(error: BaseException) -> NoReturn:
    """Ends the process at once after a failed COMMIT, or when it may not write any more.

    Whether the group is in the file is not known, so nothing may be answered any more:
    the next start reads what is there.
    """
    if isinstance(error, Fenced):
        _log.critical("another coordinator has taken over: ending: %s", error)
        sys.stderr.flush()
        os._exit(EXIT_FENCED)
    _log.critical("a commit failed: in doubt, restarting: %r", error)
    sys.stderr.flush()
    os._exit(EXIT_STORE_IN_DOUBT)


def schema_of(component: str, scripts: Sequence[str]) -> Schema:
    """A schema from SQL scripts, each one version: add new ones at the end, change none."""
    return {component: tuple(Migration(at + 1, script) for at, script in enumerate(scripts))}


def open_store(
    path: Path,
    schema: Schema,
    *,
    on_commit_failure: Callable[[BaseException], NoReturn] = die_in_doubt,
    metrics: StoreMetrics = NO_METRICS,
) -> SqliteStore:
    """Opens or creates the store at `path` and brings each component of `schema` up to date.

    Must be called on the loop that uses it. Raises MigrationError when the file is newer
    than this program, StoreError, OSError or sqlite3.Error when it cannot be opened.
    """
    return LoopStore(
        path.stem,
        writer=lambda: SqliteWriter(path, schema),
        reader=lambda: SqliteReader(path),
        on_commit_failure=on_commit_failure,
        metrics=metrics,
    )
