"""Group commit: many pieces of work, one local transaction, one force.

A force costs the same for one change as for two hundred. So work is queued, and
`drain()` takes what has gathered, runs each piece in a savepoint (one that fails alone
is undone alone), commits once, and only then tells each submitter its result. While a
group is being forced the next one gathers: a lone change goes at once, and under load
groups grow by themselves (DeWitt et al., "Implementation Techniques for Main Memory
Database Systems", 1984).

What many submitters want done in the same way, such as prepares of one participant, is run
as one call over all of their inputs (`submit_all`): statements over many rows cost much
less than many statements.

`drain()` is a plain step, and consists of such. Production does them on the event loop, but
for what may block (loop_store.py); a scheduler drives a simulation.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from txn.clock import Clock
from txn.errors import (
    Fenced,
    GroupLost,
    LogDamaged,
    Overloaded,
    StoreClosed,
    StoreError,
    StoreFull,
    TxnError,
)
from txn.value import value

# Of each kind: what is waited for, and what rides along.
GROUP_SIZE_MAX = 512
QUEUE_SIZE_MAX = 20_000
# How long housekeeping waits for a force that goes anyway, before it pays for one.
PATIENCE_S = 0.02

_log = logging.getLogger(__name__)

Tx = TypeVar("Tx")
Tx_co = TypeVar("Tx_co", covariant=True)
T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")


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


@value
class Done(Generic[T]):
    """The work ran and its group is durable."""

    value: T


@value
class Failed:
    """The work had no effect."""

    error: BaseException


@value
class Raised:
    """One input among others had no effect."""

    error: Exception


Report = Callable[[Done[Any] | Failed], None]
Settlement = tuple[Report, Done[Any] | Failed]


@value
class Ran:
    """A group that was run, and whom to tell what when it is durable; or that was lost."""

    settled: list[Settlement]
    lost: bool


class Store(Protocol[Tx_co]):
    """What the engine needs of a store: grouped durable writes, and reads."""

    async def write(self, work: Callable[[Tx_co], T], *, essential: bool = False) -> T:
        """Runs `work` in a local transaction; its result, once durable.

        Essential work finishes what was begun, such as a commit that frees a hold: it
        may use the room that is kept back from other work. Whatever `work` raises is
        raised here, and its changes are undone. Raises StoreError or Overloaded when the
        work was not run.
        """

    async def write_all(
        self,
        apply: Callable[[Tx_co, Sequence[In]], Sequence[Out]],
        inputs: Sequence[In],
        *,
        essential: bool = False,
        alone: bool = False,
    ) -> list[Out | Exception]:
        """Runs `apply` over `inputs`, together with what others hand to the same `apply`.

        Returns what it returned for each input, once durable. Should it raise, its changes
        are undone and it is run for each input alone; what it raises then stands in that
        input's place. `alone` does so at once, for an `apply` that knows no other way to
        undo what one input has changed. Raises StoreError or Overloaded when nothing was
        run.
        """

    def write_lazily(
        self, work: Callable[[Tx_co], object], report: Report, *, essential: bool = False
    ) -> None:
        """Queues `work` to ride along with the next force, whenever that comes."""

    def hold(self, guard: Callable[[Tx_co], None]) -> None:
        """Has `guard` run first in each group. When it raises Fenced the process ends."""

    async def read(self, work: Callable[[Tx_co], T]) -> T:
        """Runs `work` on one snapshot of what is committed. Raises StoreClosed after close."""

    async def look_up(self, work: Callable[[Tx_co], T]) -> T:
        """The same for work that only follows an index to a few rows, and so is quick."""


class _Item(Generic[Tx]):
    """Something to run in the group: one piece of work, or inputs for what many share."""

    __slots__ = ("alone", "apply", "essential", "inputs", "report")

    def __init__(
        self,
        apply: Callable[[Tx, Sequence[Any]], Sequence[Any]],
        inputs: Sequence[Any],
        report: Report,
        *,
        essential: bool,
        alone: bool,
    ) -> None:
        self.apply = apply
        self.inputs = inputs
        self.report = report
        self.essential = essential
        self.alone = alone


Group = list[_Item[Tx]]


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
        only a restart, which reads what is really there, can tell. It is told Fenced when
        this process may not write any more.
        """
        self._backend = backend
        self._on_commit_failure = on_commit_failure
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: deque[_Item[Tx]] = deque()
        self._lazy: deque[_Item[Tx]] = deque()
        self._closed = False
        # Looks, first in each group, whether this process may still write.
        self.guard: Callable[[Tx], None] | None = None

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

        def told(result: Done[Any] | Failed) -> None:
            report(_only(result))

        item: _Item[Tx] = _Item(
            lambda tx, _: [work(tx)], (None,), told, essential=essential, alone=True
        )
        self._put(item, self._lazy if lazy else self._waiting)
        if not lazy:
            self._wake()

    def submit_all(
        self,
        apply: Callable[[Tx, Sequence[In]], Sequence[Out]],
        inputs: Sequence[In],
        report: Report,
        *,
        essential: bool = False,
        alone: bool = False,
    ) -> None:
        """Queues inputs for `apply`, see `Store.write_all`; reports Done with a list.

        Raises Overloaded when the queue is full and StoreClosed after close.
        """
        self._put(_Item(apply, inputs, report, essential=essential, alone=alone), self._waiting)
        self._wake()

    def _put(self, item: _Item[Tx], queue: deque[_Item[Tx]]) -> None:
        with self._lock:
            if self._closed:
                raise StoreClosed("the store is closed")
            if len(queue) >= QUEUE_SIZE_MAX:
                raise Overloaded(f"{QUEUE_SIZE_MAX} pieces of work are waiting for the store")
            queue.append(item)

    def drain(self, *, lazy_too: bool = False) -> list[Settlement]:
        """Runs and forces one group; returns whom to tell what, once it is durable.

        Empty when nothing waits. `lazy_too` makes a group of lazy work alone. The same in
        steps, for who wants to do each elsewhere: `take`, `begin`, `run`, `commit`.
        """
        group, shed = self.take(lazy_too=lazy_too)
        if not group:
            return shed
        try:
            tx = self.begin()
        except StoreError as error:
            return shed + refused(group, error)
        return shed + self.commit(tx, self.run(tx, group))

    def take(self, *, lazy_too: bool = False) -> tuple[Group[Tx], list[Settlement]]:
        """The next group, and who is refused since there is no room for what it wants."""
        return self._shed(self._take(lazy_too=lazy_too))

    def begin(self) -> Tx:
        """Opens the group's transaction. Raises StoreError."""
        return self._backend.begin()

    def run(self, tx: Tx, group: Group[Tx]) -> Ran:
        """Runs the group; what came of it is nobody's to know before `commit`."""
        try:
            self._hold(tx)
            return Ran([*self._run(tx, group)], lost=False)
        except GroupLost as error:
            return Ran(refused(group, error), lost=True)

    def _hold(self, tx: Tx) -> None:
        if self.guard is None:
            return
        try:
            self.guard(tx)
        except Fenced as error:
            self._on_commit_failure(error)
        except Exception as error:
            raise GroupLost("whether this process may write is not known") from error

    def commit(self, tx: Tx, ran: Ran) -> list[Settlement]:
        """Makes the group durable; returns whom to tell what."""
        if ran.lost:
            self._backend.rollback(tx)
            return ran.settled
        settled = ran.settled
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

    def _take(self, *, lazy_too: bool) -> Group[Tx]:
        with self._lock:
            if not self._waiting and not (lazy_too and self._lazy):
                return []
            # Each queue has its own share: under load lazy work would never go otherwise.
            return [*_up_to_a_group(self._waiting), *_up_to_a_group(self._lazy)]

    def _shed(self, group: Group[Tx]) -> tuple[Group[Tx], list[Settlement]]:
        """Refuses what can be refused while there is no room for it."""
        if not group or self._backend.has_room():
            return group, []
        full = StoreFull("the store has no room for new work: try later")
        return (
            [item for item in group if item.essential],
            refused([item for item in group if not item.essential], full),
        )

    def _run(self, tx: Tx, group: Group[Tx]) -> Iterable[Settlement]:
        """What shares an `apply` is run together; and each input alone where that fails."""
        shared: dict[Any, Group[Tx]] = {}
        for item in group:
            shared.setdefault(id(item) if item.alone else item.apply, []).append(item)
        for items in shared.values():
            inputs = [each for item in items for each in item.inputs]
            results = iter(self._run_shared(tx, items[0], inputs))
            for item in items:
                yield item.report, Done([next(results) for _ in item.inputs])

    def _run_shared(self, tx: Tx, item: _Item[Tx], inputs: list[Any]) -> Sequence[Any]:
        apply = item.apply
        if not item.alone and len(inputs) > 1:
            try:
                return self._backend.run(tx, lambda tx: _complete(apply(tx, inputs), inputs))
            except GroupLost:
                raise
            except Exception as error:  # noqa: BLE001 - whose it is shows when each runs alone
                _log.info("%d pieces of work run alone: %r", len(inputs), error)
        return [self._run_alone(tx, apply, each) for each in inputs]

    def _run_alone(
        self, tx: Tx, apply: Callable[[Tx, Sequence[Any]], Sequence[Any]], each: Any
    ) -> Any:
        try:
            (result,) = self._backend.run(tx, lambda tx: _complete(apply(tx, [each]), [each]))
        except GroupLost:
            raise
        except StopIteration as error:
            # The one exception that a future does not take.
            return Raised(RuntimeError(f"the work raised {error!r}"))
        except Exception as error:  # noqa: BLE001 - it belongs to the submitter, not to the group
            return Raised(error)
        return result


def refused(group: Group[Tx], error: StoreError) -> list[Settlement]:
    """Tells everybody in a group that nothing was done."""
    return [(item.report, Failed(error)) for item in group]


def _up_to_a_group(queue: deque[_Item[Tx]]) -> Iterable[_Item[Tx]]:
    size = 0
    while queue and size < GROUP_SIZE_MAX:
        size += len(queue[0].inputs)
        yield queue.popleft()


def _complete(results: Sequence[Any], inputs: Sequence[Any]) -> Sequence[Any]:
    if len(results) != len(inputs):
        raise ValueError(f"{len(results)} results for {len(inputs)} inputs")
    return results


def _only(result: Done[Any] | Failed) -> Done[Any] | Failed:
    """The result of the only input, as that of the whole work."""
    if isinstance(result, Failed):
        return result
    (value,) = result.value
    return Failed(value.error) if isinstance(value, Raised) else Done(value)


async def write_through(
    group: GroupCommit[Tx], work: Callable[[Tx], T], *, essential: bool = False
) -> T:
    """Submits work and waits for its result, for a group that reports on the running loop."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    group.submit(work, _into(future), essential=essential)
    return await future


async def write_all_through(
    group: GroupCommit[Tx],
    apply: Callable[[Tx, Sequence[In]], Sequence[Out]],
    inputs: Sequence[In],
    *,
    essential: bool = False,
    alone: bool = False,
) -> list[Out | Exception]:
    """The same for `Store.write_all`."""
    future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
    group.submit_all(apply, inputs, _into(future), essential=essential, alone=alone)
    return [each.error if isinstance(each, Raised) else each for each in await future]


async def write_unhurried(
    store: Store[Tx],
    work: Callable[[Tx], T],
    clock: Clock,
    patience_s: float = PATIENCE_S,
) -> T:
    """Runs `work` with a force that goes anyway; makes one go when none does in `patience_s`.

    Returns its result, once durable. Raises what it raises, StoreError or Overloaded.
    """
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    store.write_lazily(work, _into(future))
    while not future.done():
        patience = asyncio.ensure_future(clock.sleep(patience_s))
        either: set[asyncio.Future[Any]] = {future, patience}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            patience.cancel()
        if not future.done():
            # Where there is no room for this there is none for `work`, which hears of it too.
            with suppress(StoreFull):
                await store.write(_nothing)
    return future.result()


def ride_along(
    store: Store[Tx],
    work: Callable[[Tx], object],
    durable: Callable[[], None],
    lost: Callable[[], None] = lambda: None,
) -> None:
    """Has `work`, which must not get lost, ride with the next force; then `durable` is called.

    What goes with a group that the storage undid, or would not begin, rides with the next one:
    nobody would write it down otherwise. `lost` is called when that cannot be either. Raises
    Overloaded or StoreClosed when it is not even queued.
    """

    def report(result: Done[Any] | Failed) -> None:
        if isinstance(result, Done):
            durable()
            return
        if isinstance(result.error, StoreError) and not isinstance(result.error, LogDamaged):
            with suppress(TxnError):
                ride_along(store, work, durable, lost)
                return
        _log.warning("what rode along is not written: %r", result.error)
        lost()

    store.write_lazily(work, report, essential=True)


def _nothing(tx: object) -> None:
    """Has what waits for a group go."""


def _into(future: asyncio.Future[Any]) -> Report:
    def report(result: Done[Any] | Failed) -> None:
        if future.done():
            return
        if isinstance(result, Failed):
            future.set_exception(result.error)
        else:
            future.set_result(result.value)

    return report
