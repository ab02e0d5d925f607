"""The store as coroutines."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import eventually
from tests.txn.support import no_commit_may_fail, open_sqlite
from txn.errors import StoreClosed, StoreError
from txn.store.group_commit import Done, Failed
from txn.store.loop_store import LoopStore
from txn.testing import MemoryBackend, Tables

DEADLINE_S = 30.0
ROOT = Path(__file__).parents[3]
LINES = "CREATE TABLE line (number INTEGER);"


def insert(number: int) -> Callable[[sqlite3.Connection], int]:
    """Work that inserts a row and returns its number."""

    def work(tx: sqlite3.Connection) -> int:
        tx.execute("INSERT INTO line VALUES (?)", (number,))
        return number

    return work


def numbers(tx: sqlite3.Connection) -> list[int]:
    """All rows."""
    return [row[0] for row in tx.execute("SELECT number FROM line ORDER BY number")]


async def test_write_then_read(tmp_path: Path) -> None:
    """What a write returned is there for every read that begins afterwards."""
    async with open_sqlite(tmp_path / "s.db", LINES) as store:
        assert 7 == await store.write(insert(7))
        assert [7] == await store.read(numbers)


async def test_many_writers(tmp_path: Path) -> None:
    """Each gets its own result."""
    async with open_sqlite(tmp_path / "s.db", LINES) as store:
        results = await asyncio.gather(*[store.write(insert(n)) for n in range(600)])
        assert list(range(600)) == results == await store.read(numbers)


async def test_errors_are_raised_where_the_work_came_from(tmp_path: Path) -> None:
    """From writes and from reads."""

    def failing(tx: sqlite3.Connection) -> None:
        raise LookupError("no")

    async with open_sqlite(tmp_path / "s.db", LINES) as store:
        with pytest.raises(LookupError):
            await store.write(failing)
        with pytest.raises(LookupError):
            await store.read(failing)
        assert [] == await store.read(numbers)


async def test_a_cancelled_writer_disturbs_nobody(tmp_path: Path) -> None:
    """Its work may be done or not; the others are told their results."""
    async with open_sqlite(tmp_path / "s.db", LINES) as store:
        gone = asyncio.ensure_future(store.write(insert(1)))
        await asyncio.sleep(0)
        gone.cancel()
        assert 2 == await store.write(insert(2))
        assert 2 in await store.read(numbers)


async def test_two_stores_on_one_file(tmp_path: Path) -> None:
    """Replicas of one host see each other's writes."""
    path = tmp_path / "s.db"
    async with open_sqlite(path, LINES) as one, open_sqlite(path, LINES) as two:
        await asyncio.gather(
            *[one.write(insert(n)) for n in range(50)],
            *[two.write(insert(n)) for n in range(50, 100)],
        )
        assert list(range(100)) == await one.read(numbers) == await two.read(numbers)


async def test_close_forces_lazy_work_and_refuses_more(tmp_path: Path) -> None:
    """Nothing accepted is lost, nothing is accepted afterwards, closing twice is harmless."""
    path = tmp_path / "s.db"
    told: list[Done[Any] | Failed] = []
    async with open_sqlite(path, LINES) as store:
        store.write_lazily(insert(1), told.append)
        await store.close()
        await store.close()
        assert [Done(1)] == told
        with pytest.raises(StoreClosed):
            await store.write(insert(2))
        with pytest.raises(StoreClosed):
            await store.read(numbers)
        with pytest.raises(StoreClosed):
            store.write_lazily(insert(3), told.append)
    async with open_sqlite(path, LINES) as store:
        assert [1] == await store.read(numbers)


async def test_writes_before_close_are_told(tmp_path: Path) -> None:
    """Closing waits for what was queued."""
    async with open_sqlite(tmp_path / "s.db", LINES) as store:
        calls = [asyncio.ensure_future(store.write(insert(n))) for n in range(20)]
        await asyncio.sleep(0)
        await store.close()
        assert list(range(20)) == await asyncio.gather(*calls)


async def test_no_thread_is_left(tmp_path: Path) -> None:
    """Both threads of a store end with it."""
    before = set(threading.enumerate())
    async with open_sqlite(tmp_path / "s.db", LINES) as store:
        await store.write(insert(1))
        await store.read(numbers)
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not {name for name in left if name.startswith("test-")}


class BrokenBackend(MemoryBackend):
    """A backend that breaks at one of its methods, with an error that nobody foresaw."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self._method = method

    def begin(self) -> Tables:
        """See Backend."""
        if self._method == "begin":
            raise RuntimeError("a defect")
        return super().begin()

    def begin_now(self) -> Tables | None:
        """See LoopBackend."""
        return None if self._method == "begin" else self.begin()

    def commit(self, tx: Tables) -> None:
        """See Backend."""
        if self._method == "commit":
            raise OSError("EIO")
        super().commit(tx)


@pytest.mark.parametrize("method", ["begin", "commit"])
async def test_a_store_does_not_outlive_its_writer(method: str) -> None:
    """Whatever ends the writer, the process is told to end too, and no writer hears of success."""
    died: list[BaseException] = []

    class Dead(BaseException):
        pass

    def die(error: BaseException) -> Any:
        died.append(error)
        raise Dead

    hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        store: LoopStore[Tables] = LoopStore(
            "broken",
            writer=lambda: BrokenBackend(method),
            reader=MemoryBackend,
            on_commit_failure=die,
        )
        call = asyncio.ensure_future(store.write(lambda tx: tx.setdefault("row", {})))
        await eventually(lambda: died)
        await store.close()
    finally:
        threading.excepthook = hook
    assert not call.done()
    call.cancel()


async def test_a_store_is_closed_whatever_ended_its_writer() -> None:
    """Closing in the moment of a failure lets go of the storage all the same."""
    backend = BrokenBackend("commit")
    closed = threading.Event()
    backend.close = closed.set  # type: ignore[method-assign]
    store: LoopStore[Tables] = LoopStore(
        "broken",
        writer=lambda: backend,
        reader=MemoryBackend,
        on_commit_failure=no_commit_may_fail,
    )
    loop, heard = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: heard.append(context))
    try:
        call = asyncio.ensure_future(store.write(lambda tx: tx.setdefault("row", {})))
        await asyncio.sleep(0)
        await store.close()
    finally:
        loop.set_exception_handler(None)
    assert (True, False) == (closed.is_set(), call.done())
    assert heard
    call.cancel()


async def test_who_waits_for_the_end_of_a_store_may_be_cancelled(tmp_path: Path) -> None:
    """It is closed all the same, what was handed over is durable, and nothing is in doubt."""
    async with open_sqlite(tmp_path / "s.db", LINES) as store:
        writing = asyncio.ensure_future(store.write(insert(1)))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(store.close())
        await asyncio.sleep(0)
        closing.cancel()
        await store.close()
        assert closing.cancelled()
        await writing
    async with open_sqlite(tmp_path / "s.db", LINES) as store:
        assert [1] == await store.read(numbers)


@asynccontextmanager
async def another_has_the_turn(path: Path) -> AsyncIterator[Callable[[], None]]:
    """A process of its own holds the lock on the file, until what is yielded is called."""
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.txn.store.holder", str(path)),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'generated'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert b"mine\n" == await holder.stdout.readline()
        yield holder.stdin.close
    finally:
        holder.stdin.close()
        async with asyncio.timeout(DEADLINE_S):
            await holder.wait()


async def test_what_computes_runs_on_the_loop(tmp_path: Path) -> None:
    """Statements of writes, and looks along an index; long reads run elsewhere."""

    def where(tx: sqlite3.Connection) -> str:
        return threading.current_thread().name

    here = threading.current_thread().name
    async with open_sqlite(tmp_path / "s.db", LINES) as store:
        assert here == await store.write(where)
        assert [here] == await store.write_all(lambda tx, _: [where(tx)], [1])
        assert here == await store.look_up(where)
        assert here != await store.read(where)


async def test_nothing_waits_for_the_turn_of_another_process(tmp_path: Path) -> None:
    """Writes queue up, the loop and reads go on, and the writes come when it is their turn."""
    path = tmp_path / "s.db"
    async with open_sqlite(path, LINES) as store:
        await store.write(insert(0))
        async with another_has_the_turn(path) as let_go:
            calls = [asyncio.ensure_future(store.write(insert(n))) for n in range(1, 4)]
            for _ in range(20):
                assert [0] == await store.read(numbers) == await store.look_up(numbers)
            calls.append(asyncio.ensure_future(store.write(insert(4))))
            assert [0] == await store.read(numbers)
            assert not any(call.done() for call in calls)
            let_go()
            assert [1, 2, 3, 4] == await asyncio.gather(*calls)
        assert [0, 1, 2, 3, 4] == await store.look_up(numbers)


async def test_what_queued_while_it_waited_is_one_group(tmp_path: Path) -> None:
    """All that has come until the turn before it and the turn itself needs two forces."""
    path = tmp_path / "s.db"
    async with open_sqlite(path, LINES) as store:
        commits = 0
        backend = store._backend
        commit = backend.commit

        def counting(tx: sqlite3.Connection) -> None:
            nonlocal commits
            commits += 1
            commit(tx)

        backend.commit = counting  # type: ignore[method-assign]
        async with another_has_the_turn(path) as let_go:
            calls = [asyncio.ensure_future(store.write(insert(n))) for n in range(100)]
            await store.read(numbers)
            calls += [asyncio.ensure_future(store.write(insert(n))) for n in range(100, 200)]
            await store.read(numbers)
            let_go()
            await asyncio.gather(*calls)
    assert 2 == commits


async def test_nothing_is_accepted_once_closing_has_begun(tmp_path: Path) -> None:
    """Not even while what was queued before still waits for its turn; that is done and told."""
    path = tmp_path / "s.db"
    async with open_sqlite(path, LINES) as store:
        async with another_has_the_turn(path) as let_go:
            before = asyncio.ensure_future(store.write(insert(1)))
            await store.read(numbers)
            closing = asyncio.ensure_future(store.close())
            await asyncio.sleep(0)
            with pytest.raises(StoreClosed):
                await store.write(insert(2))
            with pytest.raises(StoreClosed):
                await store.write_all(lambda tx, _: [0], [1])
            with pytest.raises(StoreClosed):
                store.write_lazily(insert(3), lambda _: None)
            let_go()
            await closing
        assert 1 == await before


async def test_whoever_is_told_is_told_on_the_loop(tmp_path: Path) -> None:
    """Also of what closing forces: a future is not to be touched from another thread."""
    heard: list[str] = []

    def hear(result: Done[Any] | Failed) -> None:
        heard.append(threading.current_thread().name)

    async with open_sqlite(tmp_path / "s.db", LINES) as store:
        store.write_lazily(insert(1), hear)
        await store.write(insert(2))
        store.write_lazily(insert(3), hear)
    assert [threading.current_thread().name] * 2 == heard


async def test_who_cannot_be_told_does_not_keep_others_from_hearing(tmp_path: Path) -> None:
    """A report that raises is the only one that is lost."""

    def deaf(result: Done[Any] | Failed) -> None:
        raise LookupError("nobody listens")

    async with open_sqlite(tmp_path / "s.db", LINES) as store:
        store.write_lazily(insert(1), deaf)
        assert [2, 3] == await asyncio.gather(*[store.write(insert(n)) for n in (2, 3)])
        assert [1, 2, 3] == await store.read(numbers)


class BusyBackend(MemoryBackend):
    """A backend with a file that a stranger writes to, for as many groups as it is told."""

    def __init__(self, *, at_once: bool) -> None:
        super().__init__()
        self.busy = 0
        self._at_once = at_once

    def begin_now(self) -> Tables | None:
        """See LoopBackend."""
        return self.begin() if self._at_once or not self.busy else None

    def begin(self) -> Tables:
        """See Backend."""
        if self.busy:
            self.busy -= 1
            raise StoreError("the database is busy")
        return super().begin()


@pytest.mark.parametrize("at_once", [False, True], ids=["begin", "begin_now"])
async def test_a_group_that_cannot_begin_fails_and_the_next_does_not(at_once: bool) -> None:
    """Who wrote is told that nothing was done, and may try again."""
    backend = BusyBackend(at_once=at_once)
    store: LoopStore[Tables] = LoopStore(
        "busy",
        writer=lambda: backend,
        reader=MemoryBackend,
        on_commit_failure=no_commit_may_fail,
    )
    backend.busy = 1
    with pytest.raises(StoreError):
        await store.write(lambda tx: tx.setdefault("row", {}))
    await store.write(lambda tx: tx.setdefault("row", {}))
    await store.close()
    assert {"row": {}} == backend.durable
