"""The queue before a backend, driven step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from txn.errors import GroupLost, Overloaded, StoreClosed, StoreError, StoreFull
from txn.store import group_commit
from txn.store.group_commit import Done, Failed, GroupCommit, Settlement
from txn.testing import MemoryBackend, Tables


class Died(BaseException):
    """Stands for the end of the process."""


class FaultyBackend(MemoryBackend):
    """A backend that fails where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[int] = []
        self.room = True
        self.begin_error: Exception | None = None
        self.commit_error: Exception | None = None
        self.rolled_back = 0
        self.closed = False
        self._size = 0

    def has_room(self) -> bool:
        """See Backend."""
        return self.room

    def begin(self) -> Tables:
        """See Backend."""
        if self.begin_error is not None:
            raise self.begin_error
        self._size = 0
        return super().begin()

    def run(self, tx: Tables, work: Callable[[Tables], Any]) -> Any:
        """See Backend."""
        self._size += 1
        return super().run(tx, work)

    def commit(self, tx: Tables) -> None:
        """See Backend."""
        if self.commit_error is not None:
            raise self.commit_error
        self.groups.append(self._size)
        super().commit(tx)

    def rollback(self, tx: Tables) -> None:
        """See Backend."""
        self.rolled_back += 1

    def close(self) -> None:
        """See Backend."""
        self.closed = True


class Rig:
    """A group commit, and what its submitters were told."""

    def __init__(self) -> None:
        self.backend = FaultyBackend()
        self.failures: list[BaseException] = []
        self.wakes = 0
        self.told: dict[str, Done[Any] | Failed] = {}
        self.group = GroupCommit(self.backend, on_commit_failure=self._die, wake=self._wake)

    def _die(self, error: BaseException) -> NoReturn:
        self.failures.append(error)
        raise Died

    def _wake(self) -> None:
        self.wakes += 1

    def put(
        self,
        name: str,
        error: Exception | None = None,
        *,
        lazy: bool = False,
        essential: bool = False,
    ) -> None:
        """Submits one change of one row."""

        def work(tx: Tables) -> str:
            tx.setdefault("row", {})[name] = True
            if error is not None:
                raise error
            return name

        self.group.submit(
            work,
            lambda result: self.told.update({name: result}),
            lazy=lazy,
            essential=essential,
        )

    def drain(self) -> int:
        """One group; how many were told."""
        settled = self.group.drain()
        self.deliver(settled)
        return len(settled)

    def deliver(self, settled: list[Settlement]) -> None:
        """Tells the submitters."""
        for report, result in settled:
            report(result)

    @property
    def rows(self) -> set[str]:
        """What is durable."""
        return set(self.backend.durable.get("row", {}))


@pytest.fixture
def rig() -> Rig:
    """A fresh one."""
    return Rig()


def test_what_gathers_is_forced_once(rig: Rig) -> None:
    """A group grows while nobody drains, and costs one force however large."""
    for number in range(10):
        rig.put(str(number))
    assert (10, 1, [10]) == (rig.drain(), rig.backend.forces, rig.backend.groups)
    assert {str(n): Done(str(n)) for n in range(10)} == rig.told
    assert 0 == rig.drain()


def test_one_that_fails_fails_alone(rig: Rig) -> None:
    """The others of its group are durable, its own change is undone, its error is its own."""
    error = LookupError("no")
    rig.put("a")
    rig.put("b", error)
    rig.put("c")
    rig.drain()
    assert {"a": Done("a"), "b": Failed(error), "c": Done("c")} == rig.told
    assert {"a", "c"} == rig.rows


def test_nobody_is_told_before_the_force(rig: Rig) -> None:
    """Results come from drain, which returns after the commit."""
    rig.put("a")
    settled = rig.group.drain()
    assert (1, {}) == (rig.backend.forces, rig.told)
    rig.deliver(settled)
    assert {"a": Done("a")} == rig.told


def test_a_group_has_a_limit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit goes with the next group, in order."""
    monkeypatch.setattr(group_commit, "GROUP_SIZE_MAX", 3)
    for number in range(7):
        rig.put(str(number))
    while rig.drain():
        pass
    assert [3, 3, 1] == rig.backend.groups
    assert [str(n) for n in range(7)] == list(rig.told)


def test_lazy_work_rides_along(rig: Rig) -> None:
    """Lazy work wakes nobody and waits for a group that is going anyway."""
    rig.put("end", lazy=True)
    assert (0, 0) == (rig.wakes, rig.drain())
    rig.put("decision")
    assert (1, 2, [2]) == (rig.wakes, rig.drain(), rig.backend.groups)
    assert {"end", "decision"} == rig.rows


def test_lazy_work_rides_along_under_load(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that is never short does not keep lazy work waiting for ever."""
    monkeypatch.setattr(group_commit, "GROUP_SIZE_MAX", 2)
    rig.put("end", lazy=True)
    for number in range(9):
        rig.put(str(number))
    rig.drain()
    assert "end" in rig.rows


@pytest.mark.parametrize("lazy", [False, True])
def test_a_queue_has_a_limit(rig: Rig, monkeypatch: pytest.MonkeyPatch, lazy: bool) -> None:
    """Over the limit nothing is queued, and the other queue is not affected."""
    monkeypatch.setattr(group_commit, "QUEUE_SIZE_MAX", 2)
    rig.put("a", lazy=lazy)
    rig.put("b", lazy=lazy)
    with pytest.raises(Overloaded):
        rig.put("c", lazy=lazy)
    rig.put("d", lazy=not lazy)
    rig.drain()
    assert {"a", "b", "d"} == rig.rows


def test_work_that_raises_stop_iteration_fails_alone(rig: Rig) -> None:
    """A future cannot hold that exception, and the others of the group must not pay for it."""
    rig.put("a", StopIteration())
    rig.put("b")
    rig.drain()
    failed = rig.told["a"]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, RuntimeError)
    assert {"b"} == rig.rows


def test_without_room_only_what_was_promised_is_done(rig: Rig) -> None:
    """New work is refused before anything is begun; essential and lazy work still goes."""
    rig.backend.room = False
    rig.put("new")
    rig.put("promised", essential=True)
    rig.put("lazy", lazy=True)
    rig.drain()
    assert {"promised", "lazy"} == rig.rows
    refused = rig.told["new"]
    assert isinstance(refused, Failed)
    assert isinstance(refused.error, StoreFull)


def test_without_room_and_without_promises_nothing_is_begun(rig: Rig) -> None:
    """A group of which nothing is left is no group, and later ones are not affected."""
    rig.backend.room = False
    rig.put("a")
    assert (1, []) == (rig.drain(), rig.backend.groups)
    rig.backend.room = True
    rig.put("b")
    rig.drain()
    assert {"b"} == rig.rows


def test_a_group_that_cannot_begin_fails_together(rig: Rig) -> None:
    """Everybody is told, nothing was done, and the next group is tried again."""
    rig.backend.begin_error = full = StoreError("busy")
    rig.put("a")
    rig.put("b")
    rig.drain()
    assert {"a": Failed(full), "b": Failed(full)} == rig.told
    rig.backend.begin_error = None
    rig.put("c")
    rig.drain()
    assert {"c"} == rig.rows


def test_a_lost_group_fails_together(rig: Rig) -> None:
    """When the storage undoes everything, also those that had run are told so."""
    lost = GroupLost("undone")
    rig.put("a")
    rig.put("b", lost)
    rig.put("c")
    rig.drain()
    assert {name: Failed(lost) for name in "abc"} == rig.told
    assert (set(), 1) == (rig.rows, rig.backend.rolled_back)


def test_a_failed_commit_tells_nobody(rig: Rig) -> None:
    """It is in doubt: neither success nor failure may be said, only on_commit_failure is called."""
    rig.backend.commit_error = error = OSError("EIO")
    rig.put("a")
    with pytest.raises(Died):
        rig.group.drain()
    assert ([error], {}) == (rig.failures, rig.told)


def test_a_failed_commit_is_no_success_though_the_process_lives(rig: Rig) -> None:
    """Also where on_commit_failure breaks its promise not to return."""
    rig.backend.commit_error = OSError("EIO")
    group = GroupCommit(rig.backend, on_commit_failure=lambda _: None)  # type: ignore[arg-type,return-value]
    told: list[Done[Any] | Failed] = []
    group.submit(lambda tx: None, told.append)
    settled = group.drain()
    assert ([], True) == (told, not settled)


def test_close_flushes_what_waits_and_what_is_lazy(rig: Rig) -> None:
    """Everything accepted is forced and told; then nothing is accepted."""
    rig.put("a")
    rig.put("end", lazy=True)
    rig.group.close(rig.deliver)
    assert ({"a", "end"}, True) == (rig.rows, rig.backend.closed)
    assert {"a": Done("a"), "end": Done("end")} == rig.told
    for lazy in (False, True):
        with pytest.raises(StoreClosed):
            rig.put("late", lazy=lazy)


def test_close_flushes_lazy_work_alone(rig: Rig) -> None:
    """Lazy work that found no group gets one of its own."""
    rig.put("end", lazy=True)
    rig.group.close(rig.deliver)
    assert {"end"} == rig.rows
