"""Stores for tests: opened in a directory or a schema of the test's, closed whatever happens."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

from tests.support.postgres import PostgresServer
from txn.store import postgres, sql_branches, sql_log
from txn.store.loop_store import LoopStore
from txn.store.migrate import Dialect, Migration
from txn.store.sqlite import SqliteReader, SqliteWriter

SqliteStore = LoopStore[sqlite3.Connection]
Schema = Mapping[str, tuple[Migration, ...]]


def schema(extra: str = "", dialect: Dialect = "sqlite") -> Schema:
    """The tables of a coordinator and of a participant, and those of the test."""
    own = {"test": (Migration(1, extra),)} if extra else {}
    return {**sql_log.schema(dialect), **sql_branches.schema(dialect), **own}


def no_commit_may_fail(error: BaseException) -> NoReturn:
    """For stores that nobody harms."""
    raise AssertionError("a commit failed") from error


@asynccontextmanager
async def open_sqlite(
    path: Path,
    extra: str = "",
    *,
    on_commit_failure: Callable[[BaseException], NoReturn] = no_commit_may_fail,
) -> AsyncIterator[SqliteStore]:
    """A store at `path`, with the statements of `extra` as its own schema."""
    store: SqliteStore = LoopStore(
        "test",
        writer=lambda: SqliteWriter(path, schema(extra)),
        reader=lambda: SqliteReader(path),
        on_commit_failure=on_commit_failure,
    )
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def open_postgres(
    server: PostgresServer,
    name: str = "",
    extra: str = "",
    *,
    on_commit_failure: Callable[[BaseException], NoReturn] = no_commit_may_fail,
) -> AsyncIterator[postgres.PostgresStore]:
    """The same in a schema of `server`: a new one, unless it is named."""
    store = postgres.open_store(
        server.dsn,
        name or server.schema(),
        schema(extra, "postgres"),
        on_commit_failure=on_commit_failure,
    )
    try:
        yield store
    finally:
        await store.close()
