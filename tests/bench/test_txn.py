"""The measurement of transactions measures: its size is tiny here, its figures unjudged."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bench import disk, full, starting, stocking, straightforward, txn, wal
from bench.load import Client, Load, Meter
from bench.paying import Sizes
from bench.payments import Series

SMALL = Sizes(
    in_flight=8,
    stream=60,
    unary=200,
    echo=200,
    baseline=40,
    concurrencies=(8,),
    alone=5,
    slices=2,
    baseline_slices=2,
    accounts=20,
)
KEYS = (
    "stream_tps_sqlite",
    "stream_vs_straightforward",
    "unary_vs_echo",
    "alone_vs_floor",
)
SERIES = Series("uniform", 20)


def test_every_target_has_a_measurement() -> None:
    """What is promised is measured, and what takes long is one of them."""
    assert set(txn.TARGETS) == txn.ON_RIG.keys() | txn.APART.keys()
    assert set(txn.TARGETS) > txn.LONG


async def test_a_running_system_is_measured() -> None:
    """Each figure is above 0, and the books of both sides agree with the answers."""
    result = await txn.measure(SMALL, KEYS)
    assert all(result[key] > 0 for key in KEYS)
    assert result["details"].keys() == set(KEYS)


async def test_an_answer_that_is_not_a_commit_ends_the_measurement(tmp_path: Path) -> None:
    """A trade that is not there, or is paid already, is no transaction to count."""
    stocking.stock(tmp_path, {SERIES: 10})
    async with Client() as client, straightforward.running(tmp_path) as address:
        load = Load(how="unary", address=address, count=10, in_flight=1, series=SERIES)
        await client.send(load)
        with pytest.raises(RuntimeError, match="ended early"):
            await client.send(load)
    stocking.check(tmp_path, 10)
    with pytest.raises(AssertionError, match="10 trades are paid, of 11"):
        stocking.check(tmp_path, 11)


def test_a_past_leaves_books_that_agree(tmp_path: Path) -> None:
    """Past payments are in both books, and balances are what the journal says."""
    stocking.stock(tmp_path, {SERIES: 5})
    with stocking.filling(tmp_path, "order") as connection:
        full.add_paid(connection, 50)
    with stocking.filling(tmp_path, "ledger") as connection:
        full.add_posted(connection, 50, SERIES.accounts)
        assert connection.execute("SELECT COUNT(*) FROM posting").fetchone() == (2 * (20 + 50),)
    with stocking.filling(tmp_path, "coordinator") as connection:
        starting.add_finished(connection, 50)
        assert connection.execute("SELECT SUM(ended) FROM decision").fetchone() == (50,)
    stocking.check(tmp_path, 0)


def test_a_rate_of_too_few_is_refused() -> None:
    """Where filling and emptying is most of the time there is no rate."""
    with pytest.raises(ValueError, match="say nothing"):
        Meter(count=20, in_flight=8)


def test_commits_are_counted_in_the_log(tmp_path: Path) -> None:
    """One for each transaction since the log was emptied, however many pages it wrote."""
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE some (value BLOB)")
        wal.empty(path)
        assert wal.commits(path) == 0
        for size in (1, 100, 50_000):
            connection.execute("INSERT INTO some VALUES (zeroblob(?))", (size,))
        assert wal.commits(path) == 3
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
        connection.execute("INSERT INTO some VALUES (NULL)")
        with pytest.raises(ValueError, match="came between"):
            wal.commits(path)


def test_a_file_system_in_memory_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The longest mount point that a directory is under tells its type."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 254:0 / / rw,relatime - ext4 /dev/root rw\n"
        "2 1 0:5 / /fast rw shared:9 - tmpfs tmpfs rw\n"
    )
    monkeypatch.setattr(disk, "_MOUNTS", mounts)
    assert disk.file_system(Path("/fast/books")) == "tmpfs"
    assert disk.file_system(Path("/faster")) == "ext4"
