"""Group commit: many pieces of work, one local transaction, one force.

A force costs the same for one change as for two hundred. So work is queued, and
`drain()` takes what has gathered, runs each piece in a savepoint (one that fails alone
is undone alone), commits once, and only then tells each submitter its result. While a
group is being forced the next one gathers: a lone change goes at once, and under load
groups grow by themselves (DeWitt et al., "Implementation Techniques for Main Memory
Database Systems", 1984).

`drain()` is a plain step. A thread drives it in production (threaded.py), a scheduler
in a simulation.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from txn.errors import GroupLost, Overloaded, StoreClosed, StoreError, StoreFull

# Of each kind: what is waited for, and what rides along.
GROUP_SIZE_MAX = 256
QUEUE_SIZE_MAX = 20_000

Tx = TypeVar("Tx")
Tx_co = TypeVar("Tx_co", covariant=True)
T = TypeVar("T")


class Backend(Protocol[Tx]):
    """One local transaction at a time over some storage."""

    def has_room(self) -> bool:
        """Whether there is room for work that could as well be refused."""

    def begin(self) -> Tx:
        """Opens the group's transaction. Raises StoreError when nothing could be begun."""

    def run(self, tx: Tx, work: Callable[[Tx], T]) -> T:
        """Runs one piece of work; when it raises, exactly its own changes are undone.

        Raises GroupLost when the storage undid the whole group instead.
        """

    def commit(self, tx: Tx) -> None:
        """Makes the group durable. When this raises, the group is in doubt."""

    def rollback(self, tx: Tx) -> None:
        """Undoes the group."""

    def close(self) -> None:
        """Lets go of the storage."""


class Snapshots(Protocol[Tx_co]):
    """One consistent view at a time of what is committed."""

    def begin(self) -> Tx_co:
        """Opens a view."""

    def run(self, tx: Any, work: Callable[[Tx_co], T]) -> T:
        """Reads from it."""

    def rollback(self, tx: Any) -> None:
        """Closes it."""

    def close(self) -> None:
        """Lets go of the storage."""


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """The work ran and its group is durable."""

    value: T


@dataclass(frozen=True, slots=True)
class Failed:
    """The work had no effect."""

    error: BaseException


Report = Callable[[Done[Any] | Failed], None]
Settlement = tuple[Report, Done[Any] | Failed]


class Store(Protocol[Tx_co]):
    """What the engine needs of a store: grouped durable writes, and reads."""

    async def write(self, work: Callable[[Tx_co], T], *, essential: bool = False) -> T:
        """Runs `work` in a local transaction; its result, once durable.

        Essential work finishes what was begun, such as a commit that frees a hold: it
        may use the room that is kept back from other work. Whatever `work` raises is
        raised here, and its changes are undone. Raises StoreError or Overloaded when the
        work was not run.
        """

    def write_lazily(self, work: Callable[[Tx_co], object], report: Report) -> None:
        """Queues `work` to ride along with the next force, whenever that comes."""

    async def read(self, work: Callable[[Tx_co], T]) -> T:
        """Runs `work` on one snapshot of what is committed. Raises StoreClosed after close."""


@dataclass(frozen=True, slots=True)
class _Item(Generic[Tx]):
    work: Callable[[Tx], object]
    report: Report
    essential: bool


class GroupCommit(Generic[Tx]):
    """The queue before one backend. `submit` from any thread, `drain` from one at a time."""

    def __init__(
        self,
        backend: Backend[Tx],
        *,
        on_commit_failure: Callable[[BaseException], NoReturn],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """`wake` is called when there is something to drain.

        `on_commit_failure` must not return: a failed commit is in doubt, not aborted, and
        only a restart, which reads what is really there, can tell.
        """
        self._backend = backend
        self._on_commit_failure = on_commit_failure
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: deque[_Item[Tx]] = deque()
        self._lazy: deque[_Item[Tx]] = deque()
        self._closed = False

    def submit(
        self,
        work: Callable[[Tx], object],
        report: Report,
        *,
        lazy: bool = False,
        essential: bool = False,
    ) -> None:
        """Queues work. Lazy work waits for a group that is going anyway.

        Raises Overloaded when the queue is full and StoreClosed after close.
        """
        with self._lock:
            if self._closed:
                raise StoreClosed("the store is closed")
            queue = self._lazy if lazy else self._waiting
            if len(queue) >= QUEUE_SIZE_MAX:
                raise Overloaded(f"{QUEUE_SIZE_MAX} pieces of work are waiting for the store")
            queue.append(_Item(work, report, essential or lazy))
        if not lazy:
            self._wake()

    def drain(self, *, lazy_too: bool = False) -> list[Settlement]:
        """Runs and forces one group; returns whom to tell what, once it is durable.

        Empty when nothing waits. `lazy_too` makes a group of lazy work alone.
        """
        group, shed = self._shed(self._take(lazy_too=lazy_too))
        return shed + self._force(group) if group else shed

    def _force(self, group: list[_Item[Tx]]) -> list[Settlement]:
        try:
            tx = self._backend.begin()
        except StoreError as error:
            return [(item.report, Failed(error)) for item in group]
        try:
            settled = [(item.report, self._run(tx, item)) for item in group]
        except GroupLost as error:
            self._backend.rollback(tx)
            return [(item.report, Failed(error)) for item in group]
        try:
            self._backend.commit(tx)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the group is in doubt
            # Should on_commit_failure return after all, nobody hears of success.
            settled = []
            self._on_commit_failure(error)
        return settled

    def close(self, deliver: Callable[[list[Settlement]], None]) -> None:
        """Forces what is queued, then closes the backend. Call it from the draining thread."""
        with self._lock:
            self._closed = True
        while settled := self.drain(lazy_too=True):
            deliver(settled)
        self._backend.close()

    def _take(self, *, lazy_too: bool) -> list[_Item[Tx]]:
        with self._lock:
            if not self._waiting and not (lazy_too and self._lazy):
                return []
            group: list[_Item[Tx]] = []
            for queue in (self._waiting, self._lazy):
                # Each queue has its own share: under load lazy work would never go otherwise.
                group += [queue.popleft() for _ in range(min(len(queue), GROUP_SIZE_MAX))]
            return group

    def _shed(self, group: list[_Item[Tx]]) -> tuple[list[_Item[Tx]], list[Settlement]]:
        """Refuses what can be refused while there is no room for it."""
        if not group or self._backend.has_room():
            return group, []
        full = Failed(StoreFull("the store has no room for new work: try later"))
        return (
            [item for item in group if item.essential],
            [(item.report, full) for item in group if not item.essential],
        )

    def _run(self, tx: Tx, item: _Item[Tx]) -> Done[Any] | Failed:
        try:
            return Done(self._backend.run(tx, item.work))
        except GroupLost:
            raise
        except StopIteration as error:
            # The one exception that a future does not take.
            return Failed(RuntimeError(f"the work raised {error!r}"))
        except Exception as error:  # noqa: BLE001 - it belongs to the submitter, not to the group
            return Failed(error)


async def write_through(
    group: GroupCommit[Tx], work: Callable[[Tx], T], *, essential: bool = False
) -> T:
    """Submits work and waits for its result, for a group that reports on the running loop."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def report(result: Done[Any] | Failed) -> None:
        if future.cancelled():
            return
        if isinstance(result, Failed):
            future.set_exception(result.error)
        else:
            future.set_result(result.value)

    group.submit(work, report, essential=essential)
    return await future
