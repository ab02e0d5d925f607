"""Books in the schemas of one PostgreSQL database: a backup is a dump of them.

PostgreSQL has snapshots of the whole database, which several connections can share: what is
compared and what `pg_dump` writes are of one instant, and nobody waits for it. (A participant
whose vote is a prepared transaction of PostgreSQL's own is not in a dump, since what is
prepared is visible to nobody: see docs/operations.md.)
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from services.backup.comparing import LOG
from services.backup.errors import NotEmpty, NothingToBackUp, NotRestored, NotTaken
from txn.decision_log import DecisionLog
from txn.errors import StoreError
from txn.store import sql_log
from txn.store.group_commit import Store
from txn.store.postgres import PostgresTx, open_store, own_alone
from txn.store.sql import Sql

DUMP = "books.dump"
CONNECT_TIMEOUT_S = 10
_STORES = "SELECT schemaname FROM pg_tables WHERE tablename = 'schema_version' ORDER BY 1"
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


@dataclass(frozen=True, slots=True)
class PostgresInstant:
    """See Instant."""

    stores: Mapping[str, PostgresTx]
    dsn: str
    snapshot: str
    pause_ms: float = 0.0

    def copy(self, directory: Path) -> None:
        """See Instant.copy."""
        schemas = [f'--schema="{name}"' for name in self.stores]
        said = _run(
            self.dsn, "pg_dump", "--format=custom", "--no-owner", "--no-privileges",
            f"--snapshot={self.snapshot}", f"--file={directory / DUMP}", *schemas,
        )  # fmt: skip
        if said:
            raise NotTaken(said)


class PostgresBooks:
    """See Books: those in the database that `dsn` names."""

    kind = "postgres"

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    @contextmanager
    def at_one_instant(self) -> Iterator[PostgresInstant]:
        """See Books.at_one_instant."""
        try:
            with ExitStack() as stack:
                first = stack.enter_context(closing(self._connect()))
                first.script(_SNAPSHOT)
                ((snapshot,),) = first.execute("SELECT pg_export_snapshot()").fetchall()
                stores = {name: self._connect() for (name,) in first.execute(_STORES).fetchall()}
                for name, store in stores.items():
                    stack.callback(store.close)
                    store.script(f"{_SNAPSHOT}; SET TRANSACTION SNAPSHOT '{snapshot}'")
                    store.execute("SELECT set_config('search_path', ?, true)", (f'"{name}"',))
                if not stores:
                    raise NothingToBackUp("there are no books in the database")
                yield PostgresInstant(stores, self._dsn, snapshot)
        except psycopg.Error as error:
            raise NotTaken(f"the books cannot be read: {error}") from error

    @asynccontextmanager
    async def own_log(self) -> AsyncIterator[tuple[Store[Sql], DecisionLog]]:
        """See Books.own_log."""
        try:
            with closing(self._connect()) as owner:
                own_alone(owner, LOG)
                store = open_store(self._dsn, LOG, sql_log.schema("postgres"))
                try:
                    yield store, sql_log.SqlDecisionLog(store)
                finally:
                    await store.close()
        except (psycopg.Error, StoreError) as error:
            raise NotTaken(f"the log cannot be written: {error}") from error

    def restore(self, files: Sequence[Path]) -> None:
        """See Books.restore."""
        try:
            with closing(self._connect()) as connection:
                if there := connection.execute(_STORES).fetchall():
                    raise NotEmpty(f"{there[0][0]} has books there: nothing is restored over books")
        except psycopg.Error as error:
            raise NotRestored(f"the database cannot be reached: {error}") from error
        said = _run(
            self._dsn, "pg_restore", "--exit-on-error", "--single-transaction", "--no-owner",
            f"--dbname={conninfo_to_dict(self._dsn).get('dbname', '')}", *map(str, files),
        )  # fmt: skip
        if said:
            raise NotRestored(said)

    def _connect(self) -> PostgresTx:
        return PostgresTx(
            psycopg.connect(self._dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
        )


def _run(dsn: str, program: str, *arguments: str) -> str:
    """Runs a program of PostgreSQL's; what is wrong, if anything is.

    It is told of the database by its environment: everybody may read a command line.
    """
    if shutil.which(program) is None:
        return f"there is no {program} on PATH: install the client programs of PostgreSQL"
    told = {
        each.envvar.decode(): each.val.decode()
        for each in Conninfo.parse(dsn.encode())
        if each.envvar and each.val
    }
    done = subprocess.run(
        [program, *arguments],
        env={**os.environ, **told},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stderr.strip().splitlines()
    return f"{program}: {said[-1] if said else done.returncode}" if done.returncode else ""
