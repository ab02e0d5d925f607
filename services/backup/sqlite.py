"""Books in SQLite files: a backup has one file for each store."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.backup.comparing import LOG
from services.backup.disk import UNFINISHED, force
from services.backup.errors import NotEmpty, NothingToBackUp, NotRestored, NotTaken
from txn.decision_log import DecisionLog
from txn.errors import StoreError
from txn.store import opening, sql_log, sqlite_backup
from txn.store.group_commit import Store
from txn.store.sql import Sql
from txn.store.sqlite import take_ownership


@dataclass(frozen=True, slots=True)
class SqliteInstant:
    """See Instant."""

    stores: Mapping[str, sqlite3.Connection]
    pause_ms: float

    def copy(self, directory: Path) -> None:
        """See Instant.copy."""
        for name, source in self.stores.items():
            path = directory / f"{name}.db"
            sqlite_backup.copy(source, path)
            with closing(sqlite3.connect(path)) as connection:
                if found := sqlite_backup.check(connection):
                    raise NotTaken(f"the store of {name} is damaged: {found}")


class SqliteBooks:
    """See Books: those in `<home>/data`."""

    kind = "sqlite"

    def __init__(self, home: Path) -> None:
        self._data = home / "data"

    @contextmanager
    def at_one_instant(self) -> Iterator[SqliteInstant]:
        """See Books.at_one_instant."""
        found = {path.stem: path for path in sorted(self._data.glob("*.db"))}
        if not found:
            raise NothingToBackUp(
                f"there are no books in {self._data}; a database is named by TALLYSTICK_POSTGRES"
            )
        try:
            with sqlite_backup.one_instant(list(found.values())) as snapshots:
                stores = dict(zip(found, snapshots.connections, strict=True))
                yield SqliteInstant(stores, round(snapshots.pause_s * 1e3, 1))
        except (sqlite3.Error, StoreError, OSError) as error:
            raise NotTaken(f"the books cannot be read: {error}") from error

    @asynccontextmanager
    async def own_log(self) -> AsyncIterator[tuple[Store[Sql], DecisionLog]]:
        """See Books.own_log."""
        path = self._data / f"{LOG}.db"
        try:
            owner = take_ownership(path)
            try:
                store = opening.open_store(path, sql_log.schema("sqlite"))
                try:
                    yield store, sql_log.SqlDecisionLog(store)
                finally:
                    await store.close()
            finally:
                os.close(owner)
        except (sqlite3.Error, StoreError, OSError) as error:
            raise NotTaken(f"the log cannot be written: {error}") from error

    def restore(self, files: Sequence[Path]) -> None:
        """See Books.restore."""
        home = self._data.parent
        unfinished = home / f"data{UNFINISHED}"
        try:
            if self._data.exists() and any(self._data.iterdir()):
                raise NotEmpty(f"{self._data} is not empty: nothing is restored over books")
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(mode=0o700)
            for file in files:
                shutil.copyfile(file, unfinished / file.name)
                force(unfinished / file.name)
            force(unfinished)
            unfinished.replace(self._data)
            force(home)
        except OSError as error:
            raise NotRestored(f"nothing was restored: {error}") from error
