"""What the tests of services may rely on."""

from __future__ import annotations

import pytest

from tests.support.postgres import PostgresServer


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> PostgresServer | None:
    """Each kind of store in turn: None for SQLite, else a server."""
    if request.param == "sqlite":
        return None
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server
