"""The store as coroutines: what computes runs on the event loop, what may block on a thread.

A group's statements run on the loop itself, one after the other; its turn and its force,
which may take long, on a thread. Statements on a thread would be no faster: each one gives
up Python's global lock and waits for the loop to let go of it, a switch interval each
time, once the loop is busy. (ADR 0004 has the measurement.)

Reads run on another thread, so that they neither wait for a force nor hold up the loop,
but for those that only follow an index to a few rows.

Of a database behind a network each statement may block, and so all of a group
runs on the thread, and every read on one. (ADR 0006)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Generic, NoReturn, Protocol, TypeVar

from txn.errors import StoreClosed, StoreError
from txn.metrics import NO_METRICS, StoreMetrics
from txn.store.group_commit import (
    Backend,
    Done,
    Group,
    GroupCommit,
    Report,
    Settlement,
    Snapshots,
    refused,
    write_all_through,
    write_through,
)

Tx = TypeVar("Tx")
T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")

_log = logging.getLogger(__name__)


class LoopBackend(Backend[Tx], Protocol[Tx]):
    """A Backend whose turn may be free at once."""

    def begin_now(self) -> Tx | None:
        """Opens the group's transaction unless that would block. Raises StoreError."""


def one_thread(name: str) -> Executor:
    """A thread of that name, for what may block."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)


class LoopStore(Generic[Tx]):
    """A Store over a backend for writing and two for reading. Use from one event loop."""

    def __init__(
        self,
        name: str,
        *,
        writer: Callable[[], LoopBackend[Tx]],
        reader: Callable[[], Snapshots[Tx]],
        on_commit_failure: Callable[[BaseException], NoReturn],
        metrics: StoreMetrics = NO_METRICS,
        threads: Callable[[str], Executor] = one_thread,
        looker: Callable[[], Snapshots[Tx]] | None = None,
    ) -> None:
        """Opens all of them. Must be called on the loop that uses the store.

        A `looker` is what looks up in place of a `reader`; with one any statement may block,
        not only a turn and a force. `threads` makes what runs one thing after the other, by
        name, without blocking the loop.
        """
        self._loop = asyncio.get_running_loop()
        self._on_commit_failure = on_commit_failure
        self._metrics = metrics
        self._backend = writer()
        self._group = GroupCommit(
            self._backend, on_commit_failure=on_commit_failure, wake=self._wake
        )
        self._snapshots, self._points = reader(), (looker or reader)()
        self._writes = threads(f"{name}-writer")
        self._reads = threads(f"{name}-reader")
        self._looks = threads(f"{name}-looker") if looker else None
        # Set while there is nothing to write.
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._closing = False
        self._closer: asyncio.Task[None] | None = None

    async def write(self, work: Callable[[Tx], T], *, essential: bool = False) -> T:
        """See Store.write."""
        self._refuse_when_closing()
        return await write_through(self._group, work, essential=essential)

    async def write_all(
        self,
        apply: Callable[[Tx, Sequence[In]], Sequence[Out]],
        inputs: Sequence[In],
        *,
        essential: bool = False,
        alone: bool = False,
    ) -> list[Out | Exception]:
        """See Store.write_all."""
        self._refuse_when_closing()
        return await write_all_through(self._group, apply, inputs, essential=essential, alone=alone)

    def write_lazily(
        self, work: Callable[[Tx], object], report: Report, *, essential: bool = False
    ) -> None:
        """See Store.write_lazily."""
        self._refuse_when_closing()
        self._group.submit(work, report, lazy=True, essential=essential)

    def hold(self, guard: Callable[[Tx], None]) -> None:
        """See Store.hold."""
        self._group.guard = guard

    async def read(self, work: Callable[[Tx], T]) -> T:
        """See Store.read."""
        self._refuse_when_closing()
        return await self._loop.run_in_executor(self._reads, _read, self._snapshots, work)

    async def look_up(self, work: Callable[[Tx], T]) -> T:
        """See Store.look_up."""
        self._refuse_when_closing()
        if self._looks is not None:
            return await self._loop.run_in_executor(self._looks, _read, self._points, work)
        return _read(self._points, work)

    async def close(self) -> None:
        """Forces what is queued, lazy work too, and closes the backends."""
        if self._closer is None:
            self._closing = True
            self._closer = asyncio.ensure_future(self._close())
        # Whoever waits may be cancelled; what is being closed is closed all the same.
        await asyncio.shield(self._closer)

    async def _close(self) -> None:
        await self._quiet.wait()
        settled: list[Settlement] = []
        await self._loop.run_in_executor(self._writes, self._group.close, settled.extend)
        # Here: who is told touches futures of the loop.
        _tell(settled)
        await self._loop.run_in_executor(self._reads, self._snapshots.close)
        if self._looks is None:
            self._points.close()
        else:
            # After what still looks something up there.
            await self._loop.run_in_executor(self._looks, self._points.close)
        for thread in filter(None, (self._writes, self._reads, self._looks)):
            thread.shutdown()

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise StoreClosed("the store is closed")

    def _wake(self) -> None:
        if self._quiet.is_set():
            self._quiet.clear()
            # Not at once: what else is handed over in this turn of the loop goes along.
            self._loop.call_soon(self._next_group)

    def _next_group(self) -> None:
        """Runs groups until one has to wait for its turn or its force, or none is left."""
        with self._or_fail():
            while True:
                group, shed = self._group.take()
                _tell(shed)
                if not group:
                    if shed:
                        continue
                    self._quiet.set()
                    return
                if self._looks is not None:
                    then = partial(self._committed, self._loop.time())
                    self._on_thread(partial(self._whole, group), then)
                    return
                try:
                    tx = self._backend.begin_now()
                except StoreError as error:
                    _tell(refused(group, error))
                    continue
                if tx is None:
                    self._on_thread(self._group.begin, partial(self._begun, group))
                else:
                    self._run(tx, group)
                return

    def _begun(self, group: Group[Tx], begun: Future[Tx]) -> None:
        with self._or_fail():
            try:
                tx = begun.result()
            except StoreError as error:
                _tell(refused(group, error))
            else:
                self._run(tx, group)
                return
        self._next_group()

    def _run(self, tx: Tx, group: Group[Tx]) -> None:
        ran = self._group.run(tx, group)
        then = partial(self._committed, self._loop.time())
        self._on_thread(partial(self._group.commit, tx, ran), then)

    def _whole(self, group: Group[Tx]) -> list[Settlement]:
        """All of a group, where each statement may block."""
        try:
            tx = self._group.begin()
        except StoreError as error:
            return refused(group, error)
        return self._group.commit(tx, self._group.run(tx, group))

    def _committed(self, began_s: float, committed: Future[list[Settlement]]) -> None:
        with self._or_fail():
            settled = committed.result()
            if size := _durable(settled):
                self._metrics.forced(size, self._loop.time() - began_s)
            _tell(settled)
        self._next_group()

    def _on_thread(self, work: Callable[[], T], then: Callable[[Future[T]], None]) -> None:
        done = self._writes.submit(work)
        done.add_done_callback(lambda done: self._loop.call_soon_threadsafe(then, done))

    @contextmanager
    def _or_fail(self) -> Iterator[None]:
        """A store that nobody drains must not live on."""
        try:
            yield
        except BaseException as error:  # noqa: BLE001 - whatever it is
            self._quiet.set()
            self._on_commit_failure(error)


def _read(snapshots: Snapshots[Tx], work: Callable[[Tx], T]) -> T:
    tx = snapshots.begin()
    try:
        return snapshots.run(tx, work)
    finally:
        snapshots.rollback(tx)


def _durable(settled: list[Settlement]) -> int:
    """How many inputs became durable."""
    return sum(len(result.value) for _, result in settled if isinstance(result, Done))


def _tell(settled: list[Settlement]) -> None:
    for report, result in settled:
        try:
            report(result)
        except Exception:  # noqa: BLE001 - as said below
            # The others of the group have to hear of it all the same.
            _log.exception("a result could not be delivered")
