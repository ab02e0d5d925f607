"""Services over SQLite files and real servers, without registry and launcher."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

from services.store import own_schema
from txn.store import sqlite_branches
from txn.store.loop_store import LoopStore
from txn.store.sqlite import SqliteReader, SqliteWriter

SqliteStore = LoopStore[sqlite3.Connection]


def no_commit_may_fail(error: BaseException) -> NoReturn:
    """For stores that nobody harms."""
    raise AssertionError("a commit failed") from error


@asynccontextmanager
async def open_store(service: str, directory: Path) -> AsyncIterator[SqliteStore]:
    """The store of a service, with a barrier in it."""
    path = directory / f"{service}.db"
    schema = {**own_schema(service), **sqlite_branches.schema()}
    store: SqliteStore = LoopStore(
        service,
        writer=lambda: SqliteWriter(path, schema),
        reader=lambda: SqliteReader(path),
        on_commit_failure=no_commit_may_fail,
    )
    try:
        yield store
    finally:
        await store.close()
