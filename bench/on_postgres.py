"""The same system with its books on PostgreSQL: filled before, and checked after.

Stores are filled as SQLite files, like all others, and poured into the database; when the
services have stopped they are poured back, so that the same checks say whether the books
agree.
"""

from __future__ import annotations

import shutil
import sqlite3
import statistics
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import psycopg
from psycopg import sql

from bench import stocking
from bench.disk import scratch_directory
from bench.paying import Figure, Run, Side
from bench.rig import SERVICES, Rig
from services.store import participant_schema
from tests.support.postgres import running
from txn.store import sql_log
from txn.store.opening import Schema
from txn.store.postgres import PostgresWriter

_BATCH_ROWS = 10_000


async def stream_tps(run: Run) -> Figure:
    """Transactions per second of the stream, see `bench.txn`."""
    sizes, home = run.sizes, run.scratch / "postgres"
    count = (1 + sizes.slices) * sizes.stream
    side = Side(client=run.client, home=home, stocked={sizes.uniform: count})
    stocking.stock(home, side.stocked)
    with running(scratch_directory()) as server:
        database = server.database()
        for service in SERVICES:
            _pour_in(home, service, database)
        async with Rig(home, postgres=database) as rig:
            side.address = rig.address
            await side.stream(sizes, sizes.uniform)
            series = [await side.stream(sizes, sizes.uniform) for _ in range(sizes.slices)]
        shutil.rmtree(home)
        for service in SERVICES:
            _pour_back(home, service, database)
    side.check()
    return round(statistics.median(each["rate"] for each in series)), series


def _schema(service: str) -> Schema:
    if service == "coordinator":
        return sql_log.schema("postgres")
    return participant_schema(service, "postgres")


def _pour_in(home: Path, service: str, database: str) -> None:
    """Copies the rows of a service into a schema of its name."""
    PostgresWriter(database, service, _schema(service)).close()
    with (
        closing(sqlite3.connect(stocking.book(home, service))) as book,
        psycopg.connect(database, options=f"-c search_path={service}") as connection,
    ):
        for table in _tables(connection):
            columns = _columns(book, table)
            target = sql.SQL("COPY {} ({}) FROM STDIN").format(
                sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
            )
            with connection.cursor().copy(target) as copy:
                for row in book.execute(f"SELECT {', '.join(columns)} FROM {table}"):
                    copy.write_row(row)
        connection.execute("ANALYZE")


def _pour_back(home: Path, service: str, database: str) -> None:
    """The inverse."""
    with (
        psycopg.connect(database, options=f"-c search_path={service}") as connection,
        stocking.filling(home, service) as book,
    ):
        for table in _tables(connection):
            columns = _columns(book, table)
            chosen = sql.SQL("SELECT {} FROM {}").format(
                sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(table)
            )
            places = ", ".join("?" * len(columns))
            into = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"
            for rows in _batches(connection.execute(chosen)):
                book.executemany(into, rows)


def _tables(connection: psycopg.Connection[tuple[object, ...]]) -> Sequence[str]:
    """Those with rows of a service's own; each after those that it refers to."""
    found = connection.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r' "
        "AND relnamespace = current_schema()::regnamespace AND relname <> 'schema_version' "
        "ORDER BY oid"
    )
    return [str(name) for (name,) in found.fetchall()]


def _columns(book: sqlite3.Connection, table: str) -> Sequence[str]:
    return [name for _, name, *_ in book.execute(f"PRAGMA table_info({table})")]


def _batches(
    rows: psycopg.Cursor[tuple[object, ...]],
) -> Iterator[Sequence[tuple[object, ...]]]:
    while batch := rows.fetchmany(_BATCH_ROWS):
        yield batch
