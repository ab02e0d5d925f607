"""Books that are backed up."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from services.store import own_schema, participant_schema
from tests.services.backup.changing import execute
from tests.support.postgres import PostgresServer
from txn.store import sql_log
from txn.store.postgres import PostgresWriter
from txn.store.sqlite import SqliteWriter


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with empty books, whose log has a name."""
    data = tmp_path / "home" / "data"
    for service in ("ledger", "order"):
        SqliteWriter(data / f"{service}.db", participant_schema(service)).close()
    SqliteWriter(data / "wallet.db", own_schema("wallet")).close()
    SqliteWriter(data / "coordinator.db", sql_log.schema("sqlite")).close()
    execute(data / "coordinator.db", "INSERT INTO log_identity VALUES (1, '-log')")
    return data.parent


@pytest.fixture
def dsn(postgres_server: PostgresServer) -> str:
    """A database with empty books, whose log has a name."""
    dsn = postgres_server.database()
    for service in ("ledger", "order"):
        PostgresWriter(dsn, service, participant_schema(service, "postgres")).close()
    PostgresWriter(dsn, "wallet", own_schema("wallet", "postgres")).close()
    PostgresWriter(dsn, "coordinator", sql_log.schema("postgres")).close()
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO coordinator.log_identity VALUES (1, '-log')")
    return dsn
