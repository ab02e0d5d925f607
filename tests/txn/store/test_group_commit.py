"""The queue before a backend, driven step by step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import pytest

from tests.txn.helpers import FastClock
from txn.errors import GroupLost, Overloaded, StoreClosed, StoreError, StoreFull
from txn.store import group_commit
from txn.store.group_commit import (
    Done,
    Failed,
    GroupCommit,
    Raised,
    Settlement,
    write_unhurried,
)
from txn.store.loop_store import LoopStore
from txn.testing import MemoryBackend, MemoryStore, Tables


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

    def put_all(
        self,
        name: str,
        apply: Callable[[Tables, Sequence[str]], Sequence[str]],
        *inputs: str,
        essential: bool = False,
        alone: bool = False,
    ) -> None:
        """Submits inputs for what many may share."""
        self.group.submit_all(
            apply,
            inputs,
            lambda result: self.told.update({name: result}),
            essential=essential,
            alone=alone,
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


class Shared:
    """An `apply` that inserts rows, notes its calls, and raises for inputs that say so."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, tx: Tables, inputs: Sequence[str]) -> Sequence[str]:
        """A row for each."""
        self.calls.append(list(inputs))
        rows = tx.setdefault("row", {})
        for each in inputs:
            rows[each] = rows.get(each, 0) + 1
            if each.startswith("bad"):
                raise LookupError(each)
            if each.startswith("lost"):
                raise GroupLost(each)
        return [f"did {each}" for each in inputs]


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
    """New work is refused before anything is begun, lazy or not; essential work still goes."""
    rig.backend.room = False
    rig.put("new")
    rig.put("tidying", lazy=True)
    rig.put("promised", essential=True)
    rig.put("lazy", lazy=True, essential=True)
    rig.drain()
    assert {"promised", "lazy"} == rig.rows
    for name in ("new", "tidying"):
        refused = rig.told[name]
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


def test_a_group_whose_guard_fails_is_not_written(rig: Rig) -> None:
    """Whether this process may write is not known then: all are told so, and may ask again."""

    def failing(tx: Tables) -> None:
        raise StoreError("busy")

    rig.group.guard = failing
    rig.put("a")
    rig.put("b")
    rig.drain()
    assert [GroupLost, GroupLost] == [type(getattr(rig.told[name], "error", 0)) for name in "ab"]
    assert (set(), 1, []) == (rig.rows, rig.backend.rolled_back, rig.failures)


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


def test_what_shares_an_apply_is_run_together(rig: Rig) -> None:
    """One call over the inputs of all, in order; each submitter is told of its own."""
    apply = Shared()
    rig.put_all("x", apply, "a", "b")
    rig.put_all("y", apply, "c")
    rig.put_all("z", apply, "d", "e")
    assert (3, 1) == (rig.drain(), rig.backend.forces)
    assert [["a", "b", "c", "d", "e"]] == apply.calls
    expected = {
        "x": Done(["did a", "did b"]),
        "y": Done(["did c"]),
        "z": Done(["did d", "did e"]),
    }
    assert expected == rig.told
    assert set("abcde") == rig.rows


def test_what_shares_nothing_runs_in_its_own_call(rig: Rig) -> None:
    """Different functions are not mixed, and other work of the group is not either."""
    first, second = Shared(), Shared()
    rig.put_all("x", first, "a")
    rig.put("alone")
    rig.put_all("y", second, "b")
    rig.put_all("z", first, "c")
    rig.drain()
    assert ([["a", "c"]], [["b"]]) == (first.calls, second.calls)
    assert ({"a", "b", "c", "alone"}, 1) == (rig.rows, rig.backend.forces)


def test_an_input_that_fails_fails_alone(rig: Rig) -> None:
    """What the call has changed is undone, each input runs alone, and only its own is lost."""
    apply = Shared()
    rig.put_all("x", apply, "a", "bad")
    rig.put_all("y", apply, "b")
    rig.put("other")
    rig.drain()
    assert [["a", "bad", "b"], ["a"], ["bad"], ["b"]] == apply.calls
    done = rig.told["x"]
    assert isinstance(done, Done)
    assert "did a" == done.value[0]
    assert isinstance(done.value[1], Raised)
    assert isinstance(done.value[1].error, LookupError)
    assert Done(["did b"]) == rig.told["y"]
    assert {"a": 1, "b": 1, "other": True} == rig.backend.durable["row"]


def test_an_input_that_fails_without_company_runs_once(rig: Rig) -> None:
    """There is nobody from whom it would have to be told apart."""
    apply = Shared()
    rig.put_all("x", apply, "bad")
    rig.drain()
    assert [["bad"]] == apply.calls
    assert set() == rig.rows


def test_who_wants_to_run_alone_does(rig: Rig) -> None:
    """Each input has a savepoint of its own from the start."""
    apply = Shared()
    rig.put_all("x", apply, "a", "bad", "b", alone=True)
    rig.put_all("y", apply, "c", alone=True)
    rig.drain()
    assert [["a"], ["bad"], ["b"], ["c"]] == apply.calls
    assert {"a", "b", "c"} == rig.rows


def test_an_apply_that_forgets_a_result_is_found_out(rig: Rig) -> None:
    """Nobody is told the result of another; alone it may do better, or not."""

    def forgetful(tx: Tables, inputs: Sequence[str]) -> Sequence[str]:
        tx.setdefault("row", {}).update(dict.fromkeys(inputs, True))
        return [*inputs][:1] if "a" in inputs else []

    rig.put_all("x", forgetful, "a", "b")
    rig.drain()
    done = rig.told["x"]
    assert isinstance(done, Done)
    assert "a" == done.value[0]
    assert isinstance(done.value[1], Raised)
    assert {"a"} == rig.rows


def test_a_group_that_is_lost_in_a_shared_call_is_not_tried_alone(rig: Rig) -> None:
    """The storage has undone all of it: so everybody is told, and nothing runs any more."""
    apply, later = Shared(), Shared()
    rig.put("before")
    rig.put_all("x", apply, "a", "lost")
    rig.put_all("y", later, "b")
    rig.drain()
    assert ([["a", "lost"]], []) == (apply.calls, later.calls)
    assert {"before", "x", "y"} == set(rig.told)
    for told in rig.told.values():
        assert isinstance(told, Failed)
        assert isinstance(told.error, GroupLost)
    assert (set(), 1) == (rig.rows, rig.backend.rolled_back)


def test_a_group_counts_inputs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few submitters there are; what belongs together stays together."""
    monkeypatch.setattr(group_commit, "GROUP_SIZE_MAX", 3)
    apply = Shared()
    for name in "abc":
        rig.put_all(name, apply, name, name * 2)
    while rig.drain():
        pass
    assert [["a", "aa", "b", "bb"], ["c", "cc"]] == apply.calls


def test_without_room_the_shared_call_is_made_for_what_was_promised(rig: Rig) -> None:
    """The others are refused before it runs."""
    rig.backend.room = False
    apply = Shared()
    rig.put_all("new", apply, "a")
    rig.put_all("promised", apply, "b", essential=True)
    rig.drain()
    assert ([["b"]], {"b"}) == (apply.calls, rig.rows)
    refused = rig.told["new"]
    assert isinstance(refused, Failed)
    assert isinstance(refused.error, StoreFull)


def test_nothing_is_accepted_for_a_shared_call_after_close(rig: Rig) -> None:
    """As of any other work."""
    rig.group.close(rig.deliver)
    with pytest.raises(StoreClosed):
        rig.put_all("x", Shared(), "a")


async def test_errors_stand_where_their_inputs_stood() -> None:
    """Who waits for many results gets each, and what an input has raised in its place."""
    results = await MemoryStore().write_all(Shared(), ["a", "bad", "b"])
    assert ["did a", "did b"] == [results[0], results[2]]
    assert isinstance(results[1], LookupError)


async def test_unhurried_work_leaves_the_reserve_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room housekeeping is refused; what ends a transaction is not."""
    monkeypatch.setattr(MemoryBackend, "has_room", lambda _: False)
    store = MemoryStore()
    with pytest.raises(StoreFull):
        await write_unhurried(store, lambda tx: tx.setdefault("gone", {}), FastClock())
    told: list[Done[Any] | Failed] = []
    store.write_lazily(lambda tx: tx.setdefault("ended", {}), told.append, essential=True)
    await store.write(lambda tx: tx.setdefault("decided", {}), essential=True)
    assert {"ended", "decided"} == set(store.backend.durable)
    assert all(isinstance(each, Done) for each in told)


async def test_what_waits_behind_a_refused_group_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything that finds no room is told so, however much it is."""
    monkeypatch.setattr(MemoryBackend, "has_room", lambda _: False)
    monkeypatch.setattr(group_commit, "GROUP_SIZE_MAX", 2)
    store: LoopStore[Tables] = LoopStore(
        "full", writer=RoomlessBackend, reader=MemoryBackend, on_commit_failure=_never
    )
    works = [store.write(lambda tx: tx.setdefault("row", {})) for _ in range(5)]
    async with asyncio.timeout(10):
        results = await asyncio.gather(*works, return_exceptions=True)
    assert [StoreFull] * 5 == [type(each) for each in results]
    await store.close()


class RoomlessBackend(MemoryBackend):
    """A backend of LoopStore in memory."""

    def begin_now(self) -> Tables | None:
        """See LoopBackend."""
        return self.begin()


def _never(error: BaseException) -> NoReturn:
    raise AssertionError from error
