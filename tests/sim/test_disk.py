"""The virtual disk keeps the promises of the stores on SQL, and loses what was not forced."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import NoReturn

import pytest

from tests.sim.alone import alone, loop_of
from tests.sim.disk import Disk, NotedBranchTable, Reader, Writer
from tests.sim.loop import Killed, Process, SimLoop, Thread
from txn.store.loop_store import LoopStore
from txn.testing import (
    MemoryDecisionLog,
    Tables,
    check_branch_table,
    check_decision_log,
    check_forgetting,
    check_truncation,
)

Check = Callable[[LoopStore[Tables]], Awaitable[None]]


def disk_of() -> Disk:
    """An empty disk that nobody watches."""
    return Disk("disk", Random(1), lambda before, after: None)


def store_on(disk: Disk, process: Process, loop: SimLoop) -> LoopStore[Tables]:
    """The shipped store over a disk."""
    return LoopStore(
        "store",
        writer=lambda: Writer(disk, process, lambda what: None),
        reader=lambda: Reader(disk, lambda: True),
        on_commit_failure=_ended,
        threads=lambda name: Thread(loop),
    )


def _ended(error: BaseException) -> NoReturn:
    raise Killed


async def _log(store: LoopStore[Tables]) -> None:
    await check_decision_log(MemoryDecisionLog(store))


async def _branches(store: LoopStore[Tables]) -> None:
    await check_branch_table(store, NotedBranchTable())


async def _forgetting(store: LoopStore[Tables]) -> None:
    await check_forgetting(store, NotedBranchTable())


async def _truncation(store: LoopStore[Tables]) -> None:
    await check_truncation(MemoryDecisionLog(store))


@pytest.mark.parametrize("check", [_log, _truncation, _branches, _forgetting])
def test_the_disk_passes_the_checks_of_every_store(check: Check) -> None:
    """What the engine may rely on with SQLite it may rely on here."""
    process, loop = Process("alone"), loop_of()

    async def work() -> None:
        store = store_on(disk_of(), process, loop)
        await check(store)
        await store.close()

    alone(loop, work, process)


def put(name: str) -> Callable[[Tables], None]:
    """Work that writes one row."""
    return lambda tx: tx.setdefault("row", {}).update({name: name})


@pytest.mark.parametrize("landed", [False, True])
def test_a_group_is_there_wholly_or_not_at_all(landed: bool) -> None:
    """A process that is killed in a force has written all of a group or nothing of it."""
    loop, process, disk = loop_of(do_s=1.0), Process("killed"), disk_of()

    async def work() -> None:
        store = store_on(disk, process, loop)
        await asyncio.gather(store.write(put("a")), store.write(put("b")))

    loop.create_task(work(), context=process.context)
    loop.call_later(0.5, loop.kill, process, lambda: landed, context=loop.world.context)
    over = loop.create_future()
    loop.call_later(5, over.set_result, None, context=loop.world.context)
    loop.run(over.done)
    assert ({"a", "b"} if landed else set()) == set(disk.tables.get("row", {}))


def test_a_force_that_fails_leaves_it_open_and_tells_nobody() -> None:
    """The row is there or not; whoever waits for it hears neither."""
    outcomes = set()
    for seed in range(20):
        loop, process, disk, heard = loop_of(), Process("failing"), disk_of(), list[str]()
        disk.rng, disk.failing = Random(seed), 1

        async def work(
            loop: SimLoop = loop,
            disk: Disk = disk,
            process: Process = process,
            heard: list[str] = heard,
        ) -> None:
            await store_on(disk, process, loop).write(put("a"))
            heard.append("written")

        loop.create_task(work(), context=process.context)
        over = loop.create_future()
        loop.call_later(5, over.set_result, None, context=loop.world.context)
        loop.run(over.done)
        assert [] == heard
        outcomes.add("row" in disk.tables)
    assert {False, True} == outcomes


def test_processes_that_share_a_disk_take_turns() -> None:
    """No group of one is lost under a group of another."""
    loop, disk = loop_of(do_s=0.3), disk_of()
    processes = [Process(name) for name in "abc"]

    async def work(process: Process) -> None:
        store = store_on(disk, process, loop)
        for number in range(5):
            await store.write(put(f"{process.name}{number}"))

    tasks = [loop.create_task(work(each), context=each.context) for each in processes]
    loop.run(lambda: all(task.done() for task in tasks))
    assert {f"{name}{number}" for name in "abc" for number in range(5)} == set(disk.tables["row"])
