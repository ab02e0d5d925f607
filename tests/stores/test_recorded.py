"""Stores that earlier releases have left behind are opened, brought up to date and carried on."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from tallystick.txn.v1 import coordinator_service_pb2

from services.housekeeping import RETENTION
from services.runtime import EXIT_CANNOT_START
from services.store import own_schema
from tests.stores.record import (
    FUNDS_MINOR,
    RECORDED,
    STORY,
    TRADE_MINOR,
    Story,
    funding,
    too_much,
)
from tests.support.books import books_agree
from tests.support.children import ROOT
from tests.support.mesh import CALL_TIMEOUT_S, SERVICES, Mesh
from tests.support.ports import free_port
from txn.store import sql_branches, sql_log
from txn.store.migrate import Migration, apply
from txn.store.sqlite import SqliteWriter

RELEASES = sorted(path for path in RECORDED.iterdir() if path.is_dir())
NEWER = 99
releases = pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
services = pytest.mark.parametrize("service", SERVICES)


def schema_of(service: str) -> Mapping[str, tuple[Migration, ...]]:
    """What a service's store is brought up to today."""
    if service == "coordinator":
        return sql_log.schema()
    if service == "wallet":
        return own_schema(service)
    return {**own_schema(service), **sql_branches.schema()}


def restored(release: Path, service: str, path: Path) -> Path:
    """The store as the release has left it behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((release / f"{service}.sql").read_text(encoding="utf-8"))
    return path


def shape(path: Path) -> dict[str, str]:
    """Every table and index, and how it was made."""
    with closing(sqlite3.connect(path)) as connection:
        made = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {name: " ".join(sql.split()) for name, sql in made}


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Everything in the tables."""
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {
            name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall()
            for (name,) in tables.fetchall()
        }


def versions(path: Path) -> dict[str, int]:
    """The version of each component."""
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT component, version FROM schema_version").fetchall())


def test_every_release_is_recorded() -> None:
    """Who releases writes down what its stores hold: see CONTRIBUTING."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = set(re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE))
    assert released <= {path.name for path in RELEASES}
    assert RELEASES


@releases
@services
def test_migrations_that_were_used_are_not_changed(
    release: Path, service: str, tmp_path: Path
) -> None:
    """What made a release's store still makes the same one: changes are new files."""
    old = restored(release, service, tmp_path / "old.db")
    again = tmp_path / "again.db"
    with closing(sqlite3.connect(again)) as connection:
        for component, version in versions(old).items():
            apply(connection, component, schema_of(service)[component][:version])
        connection.commit()
    assert shape(old) == shape(again)


@releases
@services
def test_a_store_that_was_brought_up_to_date_is_as_a_new_one(
    release: Path, service: str, tmp_path: Path
) -> None:
    """The same tables, nothing lost of what was in them, and no second migration at the next."""
    old = restored(release, service, tmp_path / "old.db")
    before = rows(old)
    SqliteWriter(tmp_path / "new.db", schema_of(service)).close()
    for _ in range(2):
        SqliteWriter(old, schema_of(service)).close()
        assert shape(tmp_path / "new.db") == shape(old)
        assert versions(tmp_path / "new.db") == versions(old)
    after = rows(old)
    # Columns that came later are at the end.
    lost = [
        (table, row)
        for table, was in before.items()
        if table != "schema_version"
        for row in was
        if row not in [now[: len(row)] for now in after[table]]
    ]
    assert [] == lost


@releases
async def test_a_mesh_carries_on_where_a_release_was_killed(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was decided is done, what was answered is answered again, and what was open is open."""
    monkeypatch.setenv(RETENTION, "1e10")
    story = Story(**json.loads((release / STORY).read_text(encoding="utf-8")))
    for service in SERVICES:
        restored(release, service, tmp_path / "data" / f"{service}.db")
    async with Mesh(tmp_path) as mesh:
        await books_agree(mesh)
        with closing(sqlite3.connect(mesh.book("order"))) as orders:
            states = dict(orders.execute("SELECT trade_no, state FROM trade").fetchall())
        assert {
            story.paid: "TRADE_SUCCESS",
            story.paying: "TRADE_SUCCESS",
            story.waiting: "WAIT_BUYER_PAY",
        } == states
        funded = await mesh.coordinator.Execute(
            funding(story.user_id, story.bank), timeout=CALL_TIMEOUT_S
        )
        refused = await mesh.coordinator.Execute(
            too_much(story.user_id, story.merchant), timeout=CALL_TIMEOUT_S
        )
        assert (story.funding_txn_id, coordinator_service_pb2.OUTCOME_COMMITTED) == (
            funded.txn_id,
            funded.outcome,
        )
        assert (story.refused_txn_id, "INSUFFICIENT_FUNDS") == (refused.txn_id, refused.reason)
        with closing(sqlite3.connect(mesh.book("ledger"))) as ledger:
            posted = dict(ledger.execute("SELECT account_id, posted_minor FROM account").fetchall())
        assert (FUNDS_MINOR - 2 * TRADE_MINOR, 2 * TRADE_MINOR) == (
            posted[f"user:{story.user_id}"],
            posted[story.merchant],
        )


@services
def test_a_store_of_a_newer_release_is_refused_and_not_touched(
    service: str, tmp_path: Path
) -> None:
    """A process that does not know a schema says so in one line, and what to do, and ends."""
    book = restored(RELEASES[-1], service, tmp_path / "data" / f"{service}.db")
    with closing(sqlite3.connect(book)) as connection:
        connection.execute("UPDATE schema_version SET version = ?", (NEWER,))
        connection.commit()
    before = rows(book)
    address = f"127.0.0.1:{free_port()}"
    done = subprocess.run(
        [
            sys.executable, "-m", f"services.{service}", "--address", address,
            "--etcd", "127.0.0.1:1", "--home", str(tmp_path),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    (said,) = [line for line in done.stderr.splitlines() if line.startswith(f"{service}: ")]
    assert EXIT_CANNOT_START == done.returncode
    assert f"is version {NEWER}; this program knows" in said
    assert "newer release" in said
    assert before == rows(book)
