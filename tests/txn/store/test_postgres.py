"""PostgreSQL as a backend: what is lost, what is in doubt, and whose turn it is."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest
import pytest_asyncio

from tests.support.postgres import PostgresServer, running
from tests.support.waiting import eventually
from tests.txn.helpers import DEADLINE_S, commit_row, decide
from tests.txn.support import open_postgres
from txn.errors import AlreadyOwned, GroupLost, LogDamaged, StoreAway, StoreError
from txn.state import Outcome, Vote
from txn.store import postgres
from txn.store.group_commit import Done, GroupCommit
from txn.store.log_mark import LogMark
from txn.store.migrate import Migration, MigrationError
from txn.store.postgres import PostgresStore, PostgresTx, PostgresWriter
from txn.store.postgres_verify import verify
from txn.store.sql import array
from txn.store.sql_log import SqlDecisionLog

ROOT = Path(__file__).parents[3]
LINES = "CREATE TABLE line (name TEXT, number BIGINT PRIMARY KEY);"
SCHEMA = {"test": (Migration(1, LINES),)}


def insert(number: int, name: str = "") -> Callable[[PostgresTx], int]:
    """Work that inserts a row and returns its number."""

    def work(tx: PostgresTx) -> int:
        tx.execute("INSERT INTO line VALUES (?, ?)", (name, number))
        return number

    return work


def numbers(tx: PostgresTx) -> list[int]:
    """All rows."""
    return [row[0] for row in tx.execute("SELECT number FROM line ORDER BY number")]


@pytest.fixture
def schema(postgres_server: PostgresServer) -> str:
    """A schema of the test's own."""
    return postgres_server.schema()


@pytest_asyncio.fixture
async def store(postgres_server: PostgresServer, schema: str) -> AsyncIterator[PostgresStore]:
    """A store with lines in it."""
    async with open_postgres(postgres_server, schema, LINES) as store:
        yield store


class Group:
    """A writer behind a group commit that the test drains; COMMITs that failed are kept."""

    def __init__(self, writer: PostgresWriter) -> None:
        self.writer = writer
        self.in_doubt: list[BaseException] = []
        self._group = GroupCommit(writer, on_commit_failure=self._keep)

    def _keep(self, error: BaseException) -> NoReturn:
        self.in_doubt.append(error)
        raise error

    def run(self, *works: Callable[[PostgresTx], object]) -> list[object]:
        """One group; what each got: a value or an error."""
        told: list[object] = []
        for work in works:
            self._group.submit(work, lambda result: told.append(getattr(result, "error", result)))
        for report, result in self._group.drain():
            report(result)
        return [each.value if isinstance(each, Done) else each for each in told]


@pytest.fixture
def group(postgres_server: PostgresServer, schema: str) -> Iterator[Group]:
    """A group commit over lines."""
    with _group(postgres_server, schema) as group:
        yield group


@contextmanager
def _group(server: PostgresServer, schema: str) -> Iterator[Group]:
    writer = PostgresWriter(server.dsn, schema, SCHEMA)
    try:
        yield Group(writer)
    finally:
        writer.close()


def _kill_backend(tx: PostgresTx) -> None:
    tx.execute("SELECT pg_terminate_backend(pg_backend_pid())")


async def test_what_many_write_is_read_back(store: PostgresStore) -> None:
    """Each submitter gets its own result, and every read that begins afterwards sees them all."""
    results = await asyncio.gather(*[store.write(insert(number)) for number in range(600)])
    assert list(range(600)) == results == await store.read(numbers) == await store.look_up(numbers)


async def test_the_loop_goes_on_while_a_statement_takes_long(
    store: PostgresStore, postgres_server: PostgresServer
) -> None:
    """Writes, reads and look-ups that wait for the server hold up nobody else."""

    def slowly(tx: PostgresTx) -> None:
        tx.execute("SELECT pg_advisory_lock(4711)")
        tx.execute("SELECT pg_advisory_unlock(4711)")

    turns = 0
    with postgres_server.connect() as stranger:
        stranger.execute("SELECT pg_advisory_lock(4711)")
        waiting = [
            asyncio.ensure_future(each(slowly)) for each in (store.write, store.read, store.look_up)
        ]
        while turns < 100:
            await asyncio.sleep(0)
            turns += 1
        assert not any(each.done() for each in waiting)
        stranger.execute("SELECT pg_advisory_unlock(4711)")
        await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE_S)


def test_what_fails_is_undone_alone(group: Group) -> None:
    """A statement that fails takes its own piece of work with it, not the others of the group."""
    told = group.run(insert(1), insert(1), insert(2))
    assert [1, psycopg.errors.UniqueViolation, 2] == [
        each if isinstance(each, int) else type(each) for each in told
    ]
    assert [[1, 2]] == group.run(numbers)


def test_an_error_that_the_work_keeps_to_itself_undoes_it_all_the_same(group: Group) -> None:
    """After a failed statement nothing of that work can stand, whatever it returns."""

    def quiet(tx: PostgresTx) -> None:
        insert(2)(tx)
        with pytest.raises(psycopg.errors.UniqueViolation):
            insert(1)(tx)

    group.run(insert(1))
    assert [psycopg.errors.InFailedSqlTransaction] == [type(each) for each in group.run(quiet)]
    assert [[1]] == group.run(numbers)


def test_a_connection_lost_in_a_group_loses_the_group_and_no_more(group: Group) -> None:
    """All of it is told so, nothing is in doubt, and the next one connects anew."""
    told = group.run(insert(1), _kill_backend, insert(2))
    assert [GroupLost] * 3 == [type(each) for each in told]
    assert [3, [3]] == group.run(insert(3), numbers)
    assert [] == group.in_doubt


def test_a_connection_lost_between_groups_is_not_noticed(
    group: Group, postgres_server: PostgresServer, schema: str
) -> None:
    """Nothing was begun: the group connects anew and goes on."""
    group.run(insert(1))
    with postgres_server.connect() as stranger:
        _kill_sessions(stranger, schema)
    assert [2] == group.run(insert(2))


def _kill_sessions(stranger: psycopg.Connection[Any], schema: str) -> None:
    stranger.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %s",
        (f"tallystick {schema}",),
    )


def test_a_commit_that_fails_is_in_doubt(postgres_server: PostgresServer, schema: str) -> None:
    """Nobody hears of success, nor of failure."""
    deferred = "CREATE TABLE line (name TEXT, number INT UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    writer = PostgresWriter(postgres_server.dsn, schema, {"test": (Migration(1, deferred),)})
    group = Group(writer)
    with pytest.raises(psycopg.errors.UniqueViolation):
        group.run(insert(1), insert(1))
    assert [psycopg.errors.UniqueViolation] == [type(each) for each in group.in_doubt]
    writer.close()


def test_a_deadlock_with_a_stranger_is_tried_again(
    group: Group, postgres_server: PostgresServer, schema: str
) -> None:
    """The work that the server has chosen to undo runs once more, and alone."""
    group.run(insert(1), insert(2))
    runs: list[int] = []
    with postgres_server.connect(options=f"-c search_path={schema}") as stranger:
        stranger.execute("BEGIN")
        stranger.execute("UPDATE line SET name = 's' WHERE number = 2")
        crossing = threading.Thread(target=_cross, args=(stranger,))

        def both(tx: PostgresTx) -> int:
            runs.append(1)
            if len(runs) == 2:
                # Who was let go is woken, and has the row only then: it could be taken before.
                crossing.join(DEADLINE_S)
            tx.execute("UPDATE line SET name = name || 'w' WHERE number = 1")
            if len(runs) == 1:
                # Who waits looks once, after this, whether there is a deadlock: by then there is.
                tx.execute("SET LOCAL deadlock_timeout = '10ms'")
                crossing.start()
                _waits(tx, stranger.info.backend_pid)
            tx.execute("UPDATE line SET name = name || 'w' WHERE number = 2")
            return len(runs)

        assert [2] == group.run(both)
        crossing.join()
    assert [[("sw", 1), ("sw", 2)]] == group.run(
        lambda tx: tx.execute("SELECT name, number FROM line ORDER BY number").fetchall()
    )


def _waits(tx: PostgresTx, pid: int) -> None:
    """Returns when a back end waits for a lock."""
    deadline = time.monotonic() + DEADLINE_S
    while not tx.execute("SELECT 1 FROM pg_locks WHERE pid = ? AND NOT granted", (pid,)).fetchone():
        assert time.monotonic() < deadline, f"{pid} waits for nothing"


def _cross(stranger: psycopg.Connection[Any]) -> None:
    stranger.execute("SET LOCAL deadlock_timeout = '30s'")
    stranger.execute("UPDATE line SET name = 's' WHERE number = 1")
    stranger.execute("COMMIT")


def test_work_after_the_group_has_ended_is_not_done(group: Group) -> None:
    """Outside of a transaction it would be durable at once, whatever becomes of the others."""
    tx = group.writer.begin()
    group.writer.rollback(tx)
    with pytest.raises(GroupLost):
        group.writer.run(tx, insert(1))
    assert [[]] == group.run(numbers)


def test_what_cannot_be_undone_alone_is_undone_with_its_group(group: Group) -> None:
    """Work that lets go of its savepoint and then fails leaves nothing of the others either."""

    def wrong(tx: PostgresTx) -> None:
        insert(2)(tx)
        tx.execute("RELEASE work")
        raise ValueError

    assert [GroupLost] * 3 == [type(each) for each in group.run(insert(1), wrong, insert(3))]
    assert [[]] == group.run(numbers)


def test_a_commit_that_the_server_turns_into_a_rollback_is_no_commit(group: Group) -> None:
    """So PostgreSQL answers a COMMIT in a transaction in which something has failed."""
    tx = group.writer.begin()
    group.writer.run(tx, insert(1))
    with pytest.raises(psycopg.errors.DivisionByZero):
        tx.execute("SELECT 1 / 0")
    with pytest.raises(StoreError, match="ROLLBACK"):
        group.writer.commit(tx)
    group.writer.rollback(tx)
    assert [[]] == group.run(numbers)


def test_whose_turn_it_is_is_not_known_without_waiting(group: Group) -> None:
    """Nothing begins at once, even where nobody else is there: to ask already means to wait."""
    assert group.writer.begin_now() is None


async def test_a_read_says_what_failed(store: PostgresStore) -> None:
    """A server that is gone may be asked again; what a query gets wrong is the query's."""
    await store.write(insert(1))
    with pytest.raises(StoreError, match="does not answer"):
        await store.read(_kill_backend)
    with pytest.raises(psycopg.errors.DivisionByZero):
        await store.read(lambda tx: tx.execute("SELECT 1 / 0"))
    assert [1] == await store.read(numbers)


def test_a_server_that_only_reads_is_refused(postgres_server: PostgresServer, schema: str) -> None:
    """A standby cannot have the schema: that is said at the start, and not of each payment."""
    dsn = psycopg.conninfo.make_conninfo(
        postgres_server.dsn, options="-c default_transaction_read_only=on"
    )
    with pytest.raises(StoreError, match=f"{schema} cannot be set up"):
        PostgresWriter(dsn, schema, SCHEMA)


def test_who_is_always_in_the_way_gets_the_group_in_the_end(
    group: Group, postgres_server: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tries are bounded; then nothing of the group was done, and it is not an error of the work."""
    group.run(insert(1))
    runs: list[int] = []

    def blocked(tx: PostgresTx) -> None:
        runs.append(1)
        tx.execute("SET LOCAL lock_timeout = '10ms'")
        tx.execute("UPDATE line SET name = 'w' WHERE number = 1")

    with postgres_server.connect(options=f"-c search_path={schema}") as stranger:
        stranger.execute("BEGIN")
        stranger.execute("UPDATE line SET name = 's' WHERE number = 1")
        told = group.run(insert(2), blocked)
    assert [GroupLost, GroupLost] == [type(each) for each in told]
    assert postgres.TRIES_MAX == len(runs)
    assert [[1]] == group.run(numbers)


def test_who_stops_with_the_turn_loses_it(
    postgres_server: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is paused in a group does not hold up the others, nor can it finish it."""
    monkeypatch.setitem(postgres.LIMITS, "idle_in_transaction_session_timeout", "200ms")
    with _group(postgres_server, schema) as paused, _group(postgres_server, schema) as other:
        tx = paused.writer.begin()
        paused.writer.run(tx, insert(1))
        assert [2] == other.run(insert(2))
        with pytest.raises(psycopg.Error):
            paused.writer.commit(tx)
        paused.writer.rollback(tx)
        assert [[2]] == other.run(numbers)


def test_a_turn_that_does_not_come_refuses_the_group(
    postgres_server: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting has an end, after which nothing was done."""
    monkeypatch.setitem(postgres.LIMITS, "lock_timeout", "100ms")
    with _group(postgres_server, schema) as one, _group(postgres_server, schema) as other:
        tx = one.writer.begin()
        [told] = other.run(insert(1))
        assert isinstance(told, StoreError)
        one.writer.rollback(tx)
        assert [1] == other.run(insert(1))


def test_coordinators_of_a_log_keep_out_who_wants_it_alone(
    postgres_server: PostgresServer, schema: str
) -> None:
    """Several have it, until their connections end, however they end."""

    def owned() -> PostgresWriter:
        return PostgresWriter(postgres_server.dsn, schema, SCHEMA, owner=True)

    with postgres_server.connect() as stranger:
        older = PostgresTx(stranger)
        first, second = owned(), owned()
        first.close()
        with pytest.raises(AlreadyOwned):
            postgres.own_alone(older, schema)
        _kill_sessions(stranger, schema)
        postgres.own_alone(older, schema)
        with pytest.raises(AlreadyOwned):
            owned()
        with pytest.raises(AlreadyOwned):
            second.begin()
        # Not only with the connection, which the server may end later.
        older.execute("SELECT pg_advisory_unlock_all()")
    second.close()
    owned().close()


def test_a_server_that_forces_nothing_is_refused(
    postgres_server: PostgresServer, schema: str
) -> None:
    """With fsync off a vote would not be durable."""
    with postgres_server.connect() as operator:
        try:
            _reload(operator, "ALTER SYSTEM SET fsync = off", "off")
            with pytest.raises(StoreError, match="fsync"):
                PostgresWriter(postgres_server.dsn, schema, SCHEMA)
        finally:
            _reload(operator, "ALTER SYSTEM RESET fsync", "on")


def _reload(operator: psycopg.Connection[Any], statement: str, until: str) -> None:
    operator.execute(statement.encode())
    operator.execute("SELECT pg_reload_conf()")
    while operator.execute("SHOW fsync").fetchone() != (until,):
        pass


def test_a_server_that_would_commit_without_forcing_is_told_otherwise(
    postgres_server: PostgresServer, schema: str
) -> None:
    """synchronous_commit is on for what this writes, whatever the role or database says."""
    dsn = psycopg.conninfo.make_conninfo(postgres_server.dsn, options="-c synchronous_commit=off")
    writer = PostgresWriter(dsn, schema, SCHEMA)
    tx = writer.begin()
    assert ("on",) == tx.execute("SHOW synchronous_commit").fetchone()
    writer.rollback(tx)
    writer.close()


def test_a_schema_of_a_newer_program_is_refused(
    postgres_server: PostgresServer, schema: str
) -> None:
    """What an older program does not know, it does not touch."""
    newer = {"test": (*SCHEMA["test"], Migration(2, "CREATE TABLE more (number INT);"))}
    PostgresWriter(postgres_server.dsn, schema, newer).close()
    with pytest.raises(MigrationError):
        PostgresWriter(postgres_server.dsn, schema, SCHEMA)


@pytest.fixture
def marks(tmp_path: Path) -> Iterator[tuple[LogMark, LogMark]]:
    """The notes of two coordinators beside one log; the first has none."""
    one, other = LogMark(tmp_path / "log", "0"), LogMark(tmp_path / "log", "1")
    yield one, other
    one.close()
    other.close()


async def test_a_log_that_has_lost_its_end_is_noticed(
    postgres_server: PostgresServer, marks: tuple[LogMark, LogMark], tmp_path: Path
) -> None:
    """As after a failover to a server that had not heard of the last decision."""
    path = tmp_path / "log"
    async with open_postgres(postgres_server) as store:
        await verify(store, path)
        marks[1].write("t1-x")
        with pytest.raises(LogDamaged, match=r"starts without .*/log\.1\.mark$"):
            await verify(store, path)


@pytest.mark.parametrize(
    ("noted", "closed", "accused"),
    [
        ("t2-x", False, ""),
        ("t2-x", True, "was closed and stands as a claim"),
        ("t3-x", True, ""),
        ("t1-x", True, ""),
        ("t4-y", False, "its name is not that of its rows"),
        ("t5-x", False, "was written and is not there"),
    ],
    ids=["claim", "claim-open-again", "closed", "truncated", "another-log", "lost"],
)
async def test_a_log_is_accused_of_what_its_notes_prove(
    noted: str,
    closed: bool,
    accused: str,
    postgres_server: PostgresServer,
    marks: tuple[LogMark, LogMark],
    tmp_path: Path,
) -> None:
    """And of nothing else: what was truncated, or stands as it was noted, is no loss."""
    path = tmp_path / "log"
    async with open_postgres(postgres_server) as store:
        log = SqlDecisionLog(store)
        await log.identity("-x")
        vote = ("order", Vote.COMMIT)
        ended = replace(commit_row("t1-x", vote, idempotency_key="k1"), ended=True)
        claim = replace(commit_row("t2-x", vote, idempotency_key="k2"), outcome=Outcome.PENDING)
        others = [commit_row(name, vote, idempotency_key=name) for name in ("t3-x", "t4-y")]
        await decide(log, ended, claim, *others)
        await log.truncate(after="", limit=1, before_us=2)
        marks[1].write(noted, closed=closed)
        if not accused:
            await verify(store, path)
            return
        with pytest.raises(LogDamaged, match=accused):
            await verify(store, path)


@pytest.mark.parametrize(
    "values",
    [["", "a", '"', "\\", "{,}", "NULL", "ü\n"], [0, -1, 2**62], [b"", b"\0\xff\\"], [None]],
)
def test_arrays_come_back_as_they_were(group: Group, values: list[Any]) -> None:
    """Whatever is in them."""
    kind = {str: "text", int: "bigint", bytes: "bytea"}.get(type(values[0]), "text")
    [found] = group.run(
        lambda tx: tx.execute(f"SELECT * FROM unnest(?::{kind}[])", (array(values),)).fetchall()
    )
    assert [(each,) for each in values] == found


async def test_a_server_that_is_gone_is_said_to_be_and_found_again() -> None:
    """While it is away writes and reads fail at once and nothing is in doubt; then they go on."""
    with running() as server:
        async with open_postgres(server, "s", LINES) as store:
            await store.write(insert(1))
            server.stop()
            for _ in range(3):
                for refused in (
                    store.write(insert(2)),
                    store.read(numbers),
                    store.look_up(numbers),
                ):
                    with pytest.raises(StoreError):
                        await asyncio.wait_for(refused, DEADLINE_S)
            server.start()

            async def written() -> bool:
                try:
                    return await store.write(insert(3)) == 3
                except StoreError:
                    return False

            await eventually(written, what="a write after the return of the server")
            assert [1, 3] == await store.read(numbers)


def test_a_server_may_be_away_for_days(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts to reach it do not get further and further apart, and none of them is the last."""
    with running() as server, _group(server, "s") as group:
        server.stop()
        monkeypatch.setattr(postgres, "RECONNECT_DELAY_MAX_S", 0.0)
        for _ in range(1_100):
            with pytest.raises(StoreAway):
                group.writer.begin()
        server.start()
        assert [1] == group.run(insert(1))


def _all_connections(server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    while True:
        try:
            yield server.connect()
        except psycopg.OperationalError as error:
            if "too many clients" in str(error):
                return
            raise


def test_a_server_without_a_free_connection_is_away_for_whoever_has_none() -> None:
    """Who has one goes on; the others find one when there is."""
    with running() as server, _group(server, "s") as group:
        assert [1] == group.run(insert(1))
        strangers = list(_all_connections(server))
        assert [2] == group.run(insert(2))
        with pytest.raises(StoreAway):
            PostgresWriter(server.dsn, "s", SCHEMA)
        for stranger in strangers:
            stranger.close()
        PostgresWriter(server.dsn, "s", SCHEMA).close()


def test_what_was_acknowledged_survives_the_server_being_killed() -> None:
    """Two writers in processes of their own: each number that one has printed is there."""
    with running() as server:
        PostgresWriter(server.dsn, "s", SCHEMA).close()
        writers = [_writer(server.dsn, name, first) for name, first in (("a", 0), ("b", 10**9))]
        for writer in writers:
            assert writer.stdout is not None
            for _ in range(20):
                writer.stdout.readline()
        server.stop(signal.SIGQUIT)
        printed = {
            name: [int(line) for line in writer.communicate(timeout=DEADLINE_S)[0].split()]
            for name, writer in zip("ab", writers, strict=True)
        }
        server.start()
        with server.connect(options="-c search_path=s") as connection:
            for name, told in printed.items():
                rows = connection.execute("SELECT number FROM line WHERE name = %s", (name,))
                assert set(told) <= {number for (number,) in rows}


def _writer(dsn: str, name: str, first: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.txn.store.postgres_writer", dsn, "s", name, str(first)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
