"""The store as coroutines: one thread writes in groups, one reads.

Each store has one writer thread, which owns the only connection that writes, and one
reader thread, so that a read neither waits for a force nor holds one up.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NoReturn, TypeVar

from txn.errors import StoreClosed
from txn.store.group_commit import (
    Backend,
    GroupCommit,
    Report,
    Settlement,
    Snapshots,
    write_through,
)

Tx = TypeVar("Tx")
T = TypeVar("T")

_log = logging.getLogger(__name__)


class ThreadedStore(Generic[Tx]):
    """A Store over a backend for writing and one for reading. Use from one event loop."""

    def __init__(
        self,
        name: str,
        *,
        writer: Callable[[], Backend[Tx]],
        reader: Callable[[], Snapshots[Tx]],
        on_commit_failure: Callable[[BaseException], NoReturn],
    ) -> None:
        """Opens both on their own threads. Must be called on the loop that uses the store."""
        self._loop = asyncio.get_running_loop()
        self._wake = threading.Event()
        self._closing = False
        self._on_commit_failure = on_commit_failure
        self._group = GroupCommit(
            writer(), on_commit_failure=on_commit_failure, wake=self._wake.set
        )
        self._thread = threading.Thread(target=self._drain_forever, name=f"{name}-writer")
        self._read_backend = reader()
        self._reads = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{name}-reader")
        self._thread.start()

    async def write(self, work: Callable[[Tx], T], *, essential: bool = False) -> T:
        """See Store.write."""
        return await write_through(self._group, work, essential=essential)

    def write_lazily(self, work: Callable[[Tx], object], report: Report) -> None:
        """See Store.write_lazily."""
        self._group.submit(work, report, lazy=True)

    async def read(self, work: Callable[[Tx], T]) -> T:
        """See Store.read."""
        if self._closing:
            raise StoreClosed("the store is closed")
        return await self._loop.run_in_executor(self._reads, self._read, work)

    async def close(self) -> None:
        """Forces what is queued, lazy work too, and closes both backends."""
        if self._closing:
            return
        self._closing = True
        self._wake.set()
        await self._loop.run_in_executor(self._reads, self._read_backend.close)
        await self._loop.run_in_executor(None, self._thread.join)
        self._reads.shutdown()

    def _read(self, work: Callable[[Tx], T]) -> T:
        tx = self._read_backend.begin()
        try:
            return self._read_backend.run(tx, work)
        finally:
            self._read_backend.rollback(tx)

    def _drain_forever(self) -> None:
        try:
            while not self._closing:
                self._wake.wait()
                self._wake.clear()
                while settled := self._group.drain():
                    self._deliver(settled)
            self._group.close(self._deliver)
        except BaseException as error:  # noqa: BLE001 - a store without its thread must not live on
            self._on_commit_failure(error)

    def _deliver(self, settled: list[Settlement]) -> None:
        self._loop.call_soon_threadsafe(_tell, settled)


def _tell(settled: list[Settlement]) -> None:
    for report, result in settled:
        try:
            report(result)
        except Exception:  # noqa: BLE001 - as said below
            # The others of the group have to hear of it all the same.
            _log.exception("a result could not be delivered")
