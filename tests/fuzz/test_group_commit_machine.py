"""Group commit against a model of what is durable and of who was told what.

Work of every kind is handed over, also between the steps of a group; there is no room, a group
cannot be begun, the storage undoes it, its force fails with or without effect, the process starts
again, the store is closed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, NoReturn, TypeVar
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fuzz.machines import tried
from txn.errors import GroupLost, Overloaded, StoreClosed, StoreError
from txn.store import group_commit
from txn.store.group_commit import (
    Done,
    Failed,
    GroupCommit,
    Raised,
    Ran,
    Report,
    Settlement,
    refused,
)
from txn.testing import MemoryBackend, Tables

T = TypeVar("T")

# So small that groups are full, and queues too.
GROUP, QUEUE = 3, 5


class Kind(Enum):
    """What becomes of one input."""

    GOOD = "a row is written"
    BAD = "a row is written, and then it raises"
    POISON = "a row is written; where the storage is so disposed, it undoes the whole group"


class Force(Enum):
    """What becomes of a force."""

    GOOD = "it is done"
    UNDONE = "it fails and nothing of it stays"
    DONE = "it fails and all of it stays"


class Weather(NamedTuple):
    """What the storage does with a group."""

    room: bool = True
    begins: bool = True
    loses: bool = False
    force: Force = Force.GOOD


class Input(NamedTuple):
    """Writes a row of its own."""

    name: int
    kind: Kind


@dataclass(frozen=True)
class Item:
    """What was handed over at once."""

    inputs: tuple[Input, ...]
    essential: bool
    by_itself: bool

    def said(self) -> object:
        """What its submitter hears once it is durable."""
        each = ["Bad" if kind is Kind.BAD else name for name, kind in self.inputs]
        return each[0] if self.by_itself else each


class Bad(Exception):
    """A defect in what was handed over."""


class Died(BaseException):
    """Stands for the end of the process."""


class Backend(MemoryBackend):
    """Does with each group what the weather says."""

    weather = Weather()
    closed = False

    def has_room(self) -> bool:
        """See Backend."""
        return self.weather.room

    def begin(self) -> Tables:
        """See Backend."""
        if not self.weather.begins:
            raise StoreError("busy")
        return super().begin()

    def commit(self, tx: Tables) -> None:
        """See Backend."""
        if self.weather.force is not Force.UNDONE:
            super().commit(tx)
        if self.weather.force is not Force.GOOD:
            raise OSError("EIO")

    def close(self) -> None:
        """See Backend."""
        self.closed = True

    def write(self, tx: Tables, inputs: Sequence[Input]) -> list[int]:
        """Writes a row for each, and counts how often."""
        rows = tx.setdefault("row", {})
        for name, kind in inputs:
            rows[name] = rows.get(name, 0) + 1
            if kind is Kind.BAD:
                raise Bad
            if kind is Kind.POISON and self.weather.loses:
                raise GroupLost("undone")
        return [name for name, _ in inputs]


def _die(error: BaseException) -> NoReturn:
    raise Died from error


def _said(result: Done[Any] | Failed) -> object:
    if isinstance(result, Failed):
        return type(result.error).__name__
    if not isinstance(result.value, list):
        return result.value
    return [type(x.error).__name__ if isinstance(x, Raised) else x for x in result.value]


_WEATHER = st.builds(
    Weather,
    room=st.sampled_from([True, True, False]),
    begins=st.sampled_from([True, True, False]),
    loses=st.booleans(),
    force=st.sampled_from([Force.GOOD, Force.GOOD, *Force]),
)


class GroupMachine(RuleBasedStateMachine):
    """Queues and group in production, against two lists and a count."""

    def __init__(self) -> None:
        super().__init__()
        self._patches = [
            patch.object(group_commit, "GROUP_SIZE_MAX", GROUP),
            patch.object(group_commit, "QUEUE_SIZE_MAX", QUEUE),
        ]
        for each in self._patches:
            each.start()
        self.backend = Backend()
        self._number = 0
        self.wakes = 0
        self.heard: dict[int, object] = {}
        self.expected: dict[int, object] = {}
        self.durable: Counter[int] = Counter()
        self.running: tuple[Tables, Ran, list[tuple[int, Item]]] | None = None

    def teardown(self) -> None:
        """Gives back the limits."""
        for each in self._patches:
            each.stop()

    @initialize()
    def start(self) -> None:
        """A process over what is durable; what an earlier one had queued is nowhere."""
        self.backend = Backend(self.backend.durable)
        # Two, of which each is shared by what is handed to it.
        self.applies = [self.backend.write, lambda tx, inputs: self.backend.write(tx, inputs)]
        self.group = GroupCommit(self.backend, on_commit_failure=_die, wake=self._wake)
        self.waiting: deque[tuple[int, Item]] = deque()
        self.lazy: deque[tuple[int, Item]] = deque()
        self.closed = False

    def _wake(self) -> None:
        self.wakes += 1

    @rule(kind=st.sampled_from(Kind), lazy=st.booleans(), essential=st.booleans())
    def submit(self, kind: Kind, *, lazy: bool, essential: bool) -> None:
        """One piece of work."""
        item = Item(self._inputs([kind]), essential, by_itself=True)

        def work(tx: Tables) -> int:
            return self.backend.write(tx, item.inputs)[0]

        self._put(
            item,
            lambda report: self.group.submit(work, report, lazy=lazy, essential=essential),
            lazy=lazy,
        )

    @rule(
        kinds=st.lists(st.sampled_from(Kind), max_size=3),
        which=st.integers(0, 1),
        essential=st.booleans(),
        alone=st.booleans(),
    )
    def submit_all(self, kinds: list[Kind], which: int, *, essential: bool, alone: bool) -> None:
        """Inputs for what others share, too."""
        item = Item(self._inputs(kinds), essential, by_itself=False)
        apply = self.applies[which]
        self._put(
            item,
            lambda report: self.group.submit_all(
                apply, item.inputs, report, essential=essential, alone=alone
            ),
            lazy=False,
        )

    def _inputs(self, kinds: Sequence[Kind]) -> tuple[Input, ...]:
        self._number += len(kinds)
        return tuple(Input(self._number - at, kind) for at, kind in enumerate(kinds))

    def _put(self, item: Item, put: Callable[[Report], None], *, lazy: bool) -> None:
        self._number += 1
        number, wakes = self._number, self.wakes
        queue = self.lazy if lazy else self.waiting

        def report(result: Done[Any] | Failed) -> None:
            assert number not in self.heard
            self.heard[number] = _said(result)

        try:
            put(report)
        except StoreClosed:
            assert self.closed
        except Overloaded:
            assert QUEUE == len(queue)
            assert not self.closed
        else:
            assert len(queue) < QUEUE
            assert wakes + (not lazy) == self.wakes
            queue.append((number, item))

    @precondition(lambda self: self.running is None and not self.closed)
    @rule(weather=_WEATHER, lazy_too=st.booleans())
    def drain(self, weather: Weather, *, lazy_too: bool) -> None:
        """One group in one step."""
        self.backend.weather = weather
        self._expect(self._taken(lazy_too=lazy_too))
        self._or_die(lambda: self._deliver(self.group.drain(lazy_too=lazy_too)))

    @precondition(lambda self: self.running is None and not self.closed)
    @rule(weather=_WEATHER)
    def begin_group(self, weather: Weather) -> None:
        """The first steps of a group: others hand over work before its force."""
        self.backend.weather = weather
        items = self._taken(lazy_too=False)
        group, shed = self.group.take()
        self._deliver(shed)
        if not group:
            self._expect(items)
            return
        try:
            tx = self.group.begin()
        except StoreError as error:
            self._deliver(refused(group, error))
            self._expect(items)
            return
        self.running = (tx, self.group.run(tx, group), items)

    @precondition(lambda self: self.running is not None)
    @rule()
    def force(self) -> None:
        """The last step; nobody has heard of it before."""
        assert self.running is not None
        tx, ran, items = self.running
        self.running = None
        kept = {number for number, item in items if self._is_kept(item)}
        assert not kept & self.heard.keys()
        self._expect(items)
        self._or_die(lambda: self._deliver(self.group.commit(tx, ran)))

    @precondition(lambda self: self.running is None and not self.closed)
    @rule(weather=_WEATHER)
    def close(self, weather: Weather) -> None:
        """All that waits is forced, what is lazy too, and nothing more is taken."""
        self.backend.weather = weather
        self.closed = True
        while not self.backend.closed and (items := self._taken(lazy_too=True)):
            if self._expect(items):
                break
        self._or_die(lambda: self.group.close(self._deliver))
        assert self.closed == self.backend.closed

    @precondition(lambda self: self.closed)
    @rule()
    def restart(self) -> None:
        """The next process over the same storage."""
        self.start()

    def _taken(self, *, lazy_too: bool) -> list[tuple[int, Item]]:
        if not self.waiting and not (lazy_too and self.lazy):
            return []
        taken: list[tuple[int, Item]] = []
        for queue in (self.waiting, self.lazy):
            size = 0
            while queue and size < GROUP:
                taken.append(queue.popleft())
                size += len(taken[-1][1].inputs)
        return taken

    def _is_kept(self, item: Item) -> bool:
        return self.backend.weather.room or item.essential

    def _expect(self, items: list[tuple[int, Item]]) -> bool:
        """Notes what becomes of a group; True if the process does not outlive it."""
        weather = self.backend.weather
        kept = {number: item for number, item in items if self._is_kept(item)}
        self.expected |= {number: "StoreFull" for number, _ in items if number not in kept}
        inputs = [each for item in kept.values() for each in item.inputs]
        if not weather.begins:
            self.expected |= dict.fromkeys(kept, "StoreError")
        elif weather.loses and any(kind is Kind.POISON for _, kind in inputs):
            self.expected |= dict.fromkeys(kept, "GroupLost")
        else:
            if weather.force is not Force.UNDONE:
                self.durable.update(name for name, kind in inputs if kind is not Kind.BAD)
            if weather.force is Force.GOOD:
                self.expected |= {number: item.said() for number, item in kept.items()}
            return bool(kept) and weather.force is not Force.GOOD
        return False

    def _deliver(self, settled: list[Settlement]) -> None:
        for report, result in settled:
            report(result)

    def _or_die(self, step: Callable[[], None]) -> None:
        """Who waits in a process that has died hears nothing; the next one knows what is there."""
        try:
            step()
        except Died:
            assert self.backend.weather.force is not Force.GOOD
            self.expected = {each: self.expected[each] for each in self.heard}
            self.start()

    @precondition(lambda self: self.running is None)
    @invariant()
    def all_is_as_in_the_model(self) -> None:
        """Everybody has heard what is so, once, and each row was written once."""
        assert self.expected == self.heard
        assert self.durable == Counter(self.backend.durable.get("row", {}))


def test_group_commit_is_what_its_model_is() -> None:
    """In whatever weather, and at whatever step, nobody hears what is not so."""
    run_state_machine_as_test(GroupMachine, settings=tried(100))
