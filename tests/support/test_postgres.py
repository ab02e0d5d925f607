"""What becomes of tests that need PostgreSQL where there is none."""

from __future__ import annotations

import pytest

from services.launcher import postgres
from tests.support.postgres import PostgresServer
from tests.support.require import VARIABLE


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a server on the machine nor the package from PyPI."""
    monkeypatch.setattr(postgres, "_places", lambda: iter(()))


def test_they_are_skipped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads the report knows what to install."""
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(pytest.skip.Exception, match="postgres is not installed"):
        PostgresServer()


def test_they_fail_where_it_is_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    """CI demands what it has installed."""
    monkeypatch.setenv(VARIABLE, "etcd,postgres")
    with pytest.raises(pytest.fail.Exception, match="postgres is demanded"):
        PostgresServer()
