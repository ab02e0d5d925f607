"""The store as coroutines."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import eventually
from tests.txn.support import open_sqlite
from txn.errors import StoreClosed
from txn.store.group_commit import Done, Failed
from txn.store.threaded import ThreadedStore
from txn.testing import MemoryBackend, Tables

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

    def commit(self, tx: Tables) -> None:
        """See Backend."""
        if self._method == "commit":
            raise OSError("EIO")
        super().commit(tx)


@pytest.mark.parametrize("method", ["begin", "commit"])
async def test_a_store_does_not_outlive_its_thread(method: str) -> None:
    """Whatever ends the writer, the process is told to end too, and no writer hears of success."""
    died: list[BaseException] = []

    class Dead(BaseException):
        pass

    def die(error: BaseException) -> Any:
        died.append(error)
        raise Dead

    hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        store: ThreadedStore[Tables] = ThreadedStore(
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
