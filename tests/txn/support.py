"""SQLite stores for tests: opened in a directory of the test's, closed whatever happens."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

from txn.store import sqlite_branches, sqlite_log
from txn.store.loop_store import LoopStore
from txn.store.migrate import Migration
from txn.store.sqlite import SqliteReader, SqliteWriter

SqliteStore = LoopStore[sqlite3.Connection]
Schema = Mapping[str, tuple[Migration, ...]]


def schema(extra: str = "") -> Schema:
    """The tables of a coordinator and of a participant, and those of the test."""
    own = {"test": (Migration(1, extra),)} if extra else {}
    return {**sqlite_log.schema(), **sqlite_branches.schema(), **own}


def no_commit_may_fail(error: BaseException) -> NoReturn:
    """For stores that nobody harms."""
    raise AssertionError("a commit failed") from error


@asynccontextmanager
async def open_sqlite(path: Path, extra: str = "") -> AsyncIterator[SqliteStore]:
    """A store at `path`, with the statements of `extra` as its own schema."""
    store: SqliteStore = LoopStore(
        "test",
        writer=lambda: SqliteWriter(path, schema(extra)),
        reader=lambda: SqliteReader(path),
        on_commit_failure=no_commit_may_fail,
    )
    try:
        yield store
    finally:
        await store.close()
