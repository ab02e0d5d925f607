"""SQLite as a backend: shared by processes, durable, honest about a full disk."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.txn.store.writer import SCHEMA
from txn.errors import GroupLost, StoreError
from txn.store import sqlite as module
from txn.store.migrate import Migration, MigrationError
from txn.store.sqlite import SqliteReader, SqliteWriter

DEADLINE_S = 20.0
INSERT = "INSERT INTO line VALUES (?, ?)"
ROOT = Path(__file__).parents[3]


def start(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    """A writer process."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.txn.store.writer", str(path), name, str(count)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'generated'}"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a database may be; its name is one that a URI would misread."""
    return tmp_path / "a b%20?#.db"


@pytest.fixture
def writer(path: Path) -> Iterator[SqliteWriter]:
    """A writer, closed at the end."""
    writer = SqliteWriter(path, SCHEMA)
    yield writer
    writer.close()


def insert(writer: SqliteWriter, number: int, name: str = "w") -> None:
    """One row in a group of its own."""
    tx = writer.begin()
    writer.run(tx, lambda tx: tx.execute("INSERT INTO line VALUES (?, ?)", (name, number)))
    writer.commit(tx)


def numbers(path: Path, name: str = "w") -> list[int]:
    """The rows that a reader sees."""
    reader = SqliteReader(path)
    tx = reader.begin()
    rows = tx.execute("SELECT number FROM line WHERE name = ? ORDER BY number", (name,)).fetchall()
    reader.rollback(tx)
    reader.close()
    return [row[0] for row in rows]


def test_settings(writer: SqliteWriter) -> None:
    """WAL and synchronous=FULL: with NORMAL a power cut loses acknowledged commits."""
    tx = writer.begin()
    assert "wal" == tx.execute("PRAGMA journal_mode").fetchone()[0]
    assert 2 == tx.execute("PRAGMA synchronous").fetchone()[0]
    writer.rollback(tx)


def test_two_processes_share_a_file(path: Path) -> None:
    """Both finish their writes, whoever was first."""
    SqliteWriter(path, SCHEMA).close()
    processes = [start(path, name, 200) for name in ("a", "b")]
    codes = []
    for process in processes:
        process.communicate(timeout=DEADLINE_S)
        codes.append(process.returncode)
    assert [0, 0] == codes
    assert list(range(200)) == numbers(path, "a") == numbers(path, "b")


def _others(tx: sqlite3.Connection, name: str) -> int:
    return int(tx.execute("SELECT COUNT(*) FROM line WHERE name != ?", (name,)).fetchone()[0])


def _somebody_stands_in_line(path: Path) -> bool:
    """Whether a process waits for the turn after this one: it holds the place in line."""
    line = os.open(f"{path}.line", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(line, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(line)
    return False


def _wait_until_somebody_stands_in_line(path: Path) -> None:
    until_s = time.monotonic() + DEADLINE_S
    while not _somebody_stands_in_line(path):
        assert time.monotonic() < until_s, "nobody came"
        time.sleep(0.001)


@pytest.mark.parametrize("at_once", [False, True], ids=["begin", "begin_now"])
def test_nobody_has_two_turns_while_another_waits(path: Path, at_once: bool) -> None:
    """Who commits back to back finds, at each turn, that the one in line has had its own."""
    writer = SqliteWriter(path, SCHEMA)
    other = start(path, "other", 0)
    assert other.stdout is not None
    other.stdout.readline()
    try:
        seen = 0
        for number in range(50):
            tx = (writer.begin_now() if at_once else None) or writer.begin()
            if number:
                assert _others(tx, "w") > seen
            seen = _others(tx, "w")
            # The other one commits back to back too, so it comes and waits.
            _wait_until_somebody_stands_in_line(path)
            assert writer.run(tx, lambda tx, n=number: tx.execute(INSERT, ("w", n)))  # type: ignore[misc]
            writer.commit(tx)
    finally:
        other.kill()
        other.communicate(timeout=DEADLINE_S)
        writer.close()
    assert list(range(50)) == numbers(path)


def test_a_turn_is_not_taken_from_under_who_waits(path: Path) -> None:
    """What could be had at once is not, while somebody stands in line for it or has it."""
    writer, other = SqliteWriter(path, SCHEMA), SqliteWriter(path, SCHEMA)
    tx = writer.begin()
    assert other.begin_now() is None
    has_it, let_go = threading.Event(), threading.Event()

    def one_turn() -> None:
        mine = other.begin()
        has_it.set()
        let_go.wait(DEADLINE_S)
        other.rollback(mine)

    turn = threading.Thread(target=one_turn)
    turn.start()
    _wait_until_somebody_stands_in_line(path)
    writer.rollback(tx)
    assert writer.begin_now() is None
    assert has_it.wait(DEADLINE_S)
    assert writer.begin_now() is None
    let_go.set()
    turn.join(DEADLINE_S)
    free = writer.begin_now()
    assert free is not None
    writer.rollback(free)
    writer.close()
    other.close()


def test_who_starts_stands_in_line_too(path: Path) -> None:
    """A replica that opens the file is not kept out by one that commits back to back."""
    writer = SqliteWriter(path, SCHEMA)
    tx = writer.begin()
    opened = threading.Thread(target=lambda: SqliteWriter(path, SCHEMA).close())
    opened.start()
    try:
        _wait_until_somebody_stands_in_line(path)
    finally:
        writer.rollback(tx)
        opened.join(DEADLINE_S)
        writer.close()
    assert not opened.is_alive()


def test_two_processes_that_never_pause_both_get_on(path: Path) -> None:
    """Neither makes ten times the commits of the other, however fast they follow each other."""
    SqliteWriter(path, SCHEMA).close()
    processes = [start(path, name, 0) for name in ("a", "b")]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        # Both run: from here on it counts.
        before = {name: len(numbers(path, name)) for name in ("a", "b")}

        def made() -> list[int]:
            return [len(numbers(path, name)) - before[name] for name in ("a", "b")]

        until_s = time.monotonic() + DEADLINE_S
        while min(made()) < 200:
            assert time.monotonic() < until_s, f"one of them starves: {made()}"
            for process in processes:
                assert process.stdout is not None
                process.stdout.readline()
        slow, fast = sorted(made())
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=DEADLINE_S)
    assert fast < 10 * slow


def test_two_starters_migrate_once(path: Path) -> None:
    """Processes that start together on a new file do not meet half-way."""
    processes = [start(path, str(number), 1) for number in range(4)]
    for process in processes:
        process.communicate(timeout=DEADLINE_S)
    assert [0] * 4 == [process.returncode for process in processes]


def test_what_was_said_to_be_durable_survives_kill_9(path: Path) -> None:
    """Every number that the process printed before it was killed is in the file."""
    process = start(path, "w", 0)
    assert process.stdout is not None
    said = [int(process.stdout.readline()) for _ in range(50)]
    process.kill()
    rest, _ = process.communicate(timeout=DEADLINE_S)
    said += [int(line) for line in rest.splitlines()]
    assert set(said) <= set(numbers(path))


def test_a_killed_process_leaves_no_lock(path: Path) -> None:
    """The next writer gets its turn although the last one died in the middle."""
    process = start(path, "w", 0)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate(timeout=DEADLINE_S)
    writer = SqliteWriter(path, SCHEMA)
    insert(writer, 1, "next")
    writer.close()
    assert [1] == numbers(path, "next")


def test_a_reader_sees_only_what_is_committed(writer: SqliteWriter, path: Path) -> None:
    """Neither an open group nor one that was rolled back shows."""
    tx = writer.begin()
    writer.run(tx, lambda tx: tx.execute("INSERT INTO line VALUES ('w', 1)"))
    assert [] == numbers(path)
    writer.rollback(tx)
    assert [] == numbers(path)
    insert(writer, 2)
    assert [2] == numbers(path)


def test_a_reader_keeps_its_snapshot(writer: SqliteWriter, path: Path) -> None:
    """What is committed during a read does not show in it."""
    reader = SqliteReader(path)
    tx = reader.begin()
    query = "SELECT COUNT(*) FROM line"
    before = reader.run(tx, lambda tx: tx.execute(query).fetchone())
    insert(writer, 1)
    assert before == reader.run(tx, lambda tx: tx.execute(query).fetchone()) == (0,)
    reader.rollback(tx)
    reader.close()


def test_a_reader_cannot_write(writer: SqliteWriter, path: Path) -> None:
    """Only the writer's connection changes anything."""
    reader = SqliteReader(path)
    tx = reader.begin()
    with pytest.raises(sqlite3.OperationalError):
        reader.run(tx, lambda tx: tx.execute("INSERT INTO line VALUES ('w', 1)"))
    reader.rollback(tx)
    reader.close()


def test_work_that_fails_is_undone_alone(writer: SqliteWriter, path: Path) -> None:
    """A savepoint each."""

    def failing(tx: sqlite3.Connection) -> None:
        tx.execute("INSERT INTO line VALUES ('w', 2)")
        raise LookupError("no")

    tx = writer.begin()
    writer.run(tx, lambda tx: tx.execute("INSERT INTO line VALUES ('w', 1)"))
    with pytest.raises(LookupError):
        writer.run(tx, failing)
    writer.run(tx, lambda tx: tx.execute("INSERT INTO line VALUES ('w', 3)"))
    writer.commit(tx)
    assert [1, 3] == numbers(path)


def test_a_full_database_loses_the_group(writer: SqliteWriter, path: Path) -> None:
    """SQLite rolls back by itself; that is noticed, nothing of the group stays, and it recovers."""
    tx = writer.begin()
    pages = tx.execute("PRAGMA page_count").fetchone()[0]
    tx.execute(f"PRAGMA max_page_count = {pages + 2}")
    writer.run(tx, lambda tx: tx.execute("INSERT INTO line VALUES ('w', 1)"))
    with pytest.raises(GroupLost):
        writer.run(tx, lambda tx: tx.execute("INSERT INTO line VALUES (?, 2)", ("x" * 100_000,)))
    with pytest.raises(GroupLost):
        writer.run(tx, lambda tx: tx.execute("INSERT INTO line VALUES ('w', 3)"))
    writer.rollback(tx)
    assert [] == numbers(path)
    tx.execute("PRAGMA max_page_count = 1000000")
    insert(writer, 4)
    assert [4] == numbers(path)


def test_work_that_hides_the_loss_is_found_out(writer: SqliteWriter, path: Path) -> None:
    """A piece of work that swallows the error does not make the next one commit by itself."""

    def hiding(tx: sqlite3.Connection) -> None:
        tx.execute("ROLLBACK")

    tx = writer.begin()
    with pytest.raises(GroupLost):
        writer.run(tx, hiding)
    with pytest.raises(GroupLost):
        writer.run(tx, lambda tx: tx.execute("INSERT INTO line VALUES ('w', 1)"))
    writer.rollback(tx)
    assert [] == numbers(path)


def test_little_free_space_is_seen(
    writer: SqliteWriter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the reserve there is no room for new work; what was promised can still be done."""
    assert writer.has_room()
    monkeypatch.setattr(module, "FREE_SPACE_RESERVE_BYTES", 1 << 62)
    assert not writer.has_room()
    insert(writer, 1)
    assert [1] == numbers(path)


def test_a_stranger_with_a_lock_is_waited_for_and_then_reported(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that does not know our lock file cannot stop us for ever, and nothing is begun."""
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.01)
    writer = SqliteWriter(path, SCHEMA)
    stranger = sqlite3.connect(path, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError):
        writer.begin()
    stranger.execute("ROLLBACK")
    stranger.close()
    insert(writer, 1)
    writer.close()


def test_what_could_be_had_at_once_is_left_to_a_stranger_with_a_lock(path: Path) -> None:
    """Nothing is begun, nobody waits, and no other replica is kept from its turn."""
    writer = SqliteWriter(path, SCHEMA)
    stranger = sqlite3.connect(path, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    assert writer.begin_now() is None
    stranger.execute("ROLLBACK")
    stranger.close()
    other = SqliteWriter(path, SCHEMA)
    free = other.begin_now()
    assert free is not None
    other.rollback(free)
    other.close()
    writer.close()


@pytest.mark.parametrize("at_once", [False, True], ids=["begin", "begin_now"])
def test_a_transaction_that_sqlite_will_not_open_is_reported(path: Path, at_once: bool) -> None:
    """It is nothing to wait for; the turn goes to the next one, who may succeed."""
    writer = SqliteWriter(path, SCHEMA)
    writer._connection.set_progress_handler(lambda: 1, 1)
    with pytest.raises(StoreError, match="no transaction"):
        writer.begin_now() if at_once else writer.begin()
    other = SqliteWriter(path, SCHEMA)
    insert(other, 1)
    other.close()
    writer._connection.set_progress_handler(None, 0)
    insert(writer, 2)
    writer.close()
    assert [1, 2] == numbers(path)


def test_work_that_cannot_be_undone_alone_takes_its_group_along(
    writer: SqliteWriter, path: Path
) -> None:
    """What ends its own savepoint and then fails would leave half of itself behind."""

    def ending(tx: sqlite3.Connection) -> None:
        tx.execute("INSERT INTO line VALUES ('w', 2)")
        tx.execute("RELEASE work")
        raise LookupError("no")

    tx = writer.begin()
    writer.run(tx, lambda tx: tx.execute("INSERT INTO line VALUES ('w', 1)"))
    with pytest.raises(GroupLost):
        writer.run(tx, ending)
    writer.rollback(tx)
    assert [] == numbers(path)


def test_a_newer_schema_is_refused_and_let_go_of(path: Path) -> None:
    """An old program ends with one sentence, and does not stand in the way of the new ones."""
    newer = {"test": (*SCHEMA["test"], Migration(2, "CREATE TABLE more (x);"))}
    SqliteWriter(path, newer).close()
    with pytest.raises(MigrationError):
        SqliteWriter(path, SCHEMA)
    opened = threading.Thread(target=lambda: SqliteWriter(path, newer).close(), daemon=True)
    opened.start()
    opened.join(DEADLINE_S)
    assert not opened.is_alive()


def test_what_is_not_a_database_is_refused(path: Path) -> None:
    """A damaged file is an error, never an empty store."""
    path.write_bytes(b"this is not a database, and never was" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        SqliteWriter(path, SCHEMA)


def test_an_sqlite_that_is_too_old_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is opened: its statements would fail one after the other."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 32, 3))
    with pytest.raises(StoreError, match=r"SQLite 3\.33 is needed"):
        SqliteWriter(tmp_path / "s.db", {})
    assert [] == list(tmp_path.iterdir())
