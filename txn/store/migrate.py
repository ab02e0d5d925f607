"""Brings a store's schema up to date from numbered SQL files.

    migrations/sqlite/0001_accounts.sql      applied in the order of the numbers, each once

A store holds the tables of several components (a service's own, and the barrier); each
has its own line of versions in `schema_version`. All of one call happens in one local
transaction, so that two processes that start at once do not meet half-way.
"""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Literal, TypeAlias

from txn.store.sql import Sql

Dialect: TypeAlias = Literal["sqlite", "postgres"]

_NAME = re.compile(r"(?P<version>\d{4})_[a-z0-9_]+\.sql")


class MigrationError(Exception):
    """The files are not numbered 1, 2, 3..., or the store is newer than this program."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of one component's schema."""

    version: int
    sql: str


def load(directory: Traversable) -> tuple[Migration, ...]:
    """Reads the numbered files of a directory. Raises MigrationError when a number is missing."""
    found = sorted(
        (int(match["version"]), entry)
        for entry in directory.iterdir()
        if (match := _NAME.fullmatch(entry.name))
    )
    if [version for version, _ in found] != list(range(1, len(found) + 1)) or not found:
        raise MigrationError(f"migrations in {directory} are not numbered from 0001 without a gap")
    return tuple(Migration(version, entry.read_text(encoding="utf-8")) for version, entry in found)


def apply(connection: Sql, component: str, migrations: tuple[Migration, ...]) -> None:
    """Applies what is missing, within the caller's transaction.

    Raises MigrationError when the store was written by a newer program.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version ("
        "component TEXT PRIMARY KEY, version INTEGER NOT NULL)"
    )
    row = connection.execute(
        "SELECT version FROM schema_version WHERE component = ?", (component,)
    ).fetchone()
    at: int = 0 if row is None else row[0]
    if at > len(migrations):
        raise MigrationError(
            f"the schema of {component} is version {at}; this program knows {len(migrations)}: "
            "a newer release has written the store, start that one"
        )
    for migration in migrations[at:]:
        for statement in _statements(migration.sql):
            connection.execute(statement)
    connection.execute(
        "INSERT INTO schema_version (component, version) VALUES (?, ?) "
        "ON CONFLICT (component) DO UPDATE SET version = excluded.version",
        (component, len(migrations)),
    )


def _statements(sql: str) -> list[str]:
    """Splits a script, because executescript would commit the caller's transaction."""
    statements: list[str] = []
    buffer = ""
    for line in sql.splitlines(keepends=True):
        buffer += line
        if sqlite3.complete_statement(buffer):
            statements.append(buffer)
            buffer = ""
    # A last statement needs no semicolon.
    return [*statements, buffer] if buffer.strip() else statements
