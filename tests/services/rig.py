"""Services over both kinds of stores and real servers, without registry and launcher."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

from services.store import participant_schema
from tests.support.postgres import PostgresServer
from txn.store import postgres
from txn.store.group_commit import Store
from txn.store.loop_store import LoopStore
from txn.store.sql import Sql
from txn.store.sqlite import SqliteReader, SqliteWriter

SqliteStore = LoopStore[sqlite3.Connection]


def no_commit_may_fail(error: BaseException) -> NoReturn:
    """For stores that nobody harms."""
    raise AssertionError("a commit failed") from error


@asynccontextmanager
async def open_store(
    service: str, directory: Path, server: PostgresServer | None = None
) -> AsyncIterator[Store[Sql]]:
    """The store of a service, with a barrier in it: a file in `directory`, unless on `server`."""
    in_file = open_sqlite_store(service, directory)
    async with in_file if server is None else _on_postgres(service, server) as store:
        yield store


@asynccontextmanager
async def _on_postgres(service: str, server: PostgresServer) -> AsyncIterator[Store[Sql]]:
    schema = participant_schema(service, "postgres")
    store = postgres.open_store(
        server.dsn, server.schema(), schema, on_commit_failure=no_commit_may_fail
    )
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def open_sqlite_store(service: str, directory: Path) -> AsyncIterator[SqliteStore]:
    """The same, always in a file, for who looks at what only SQLite can tell."""
    path = directory / f"{service}.db"
    schema = participant_schema(service)
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
