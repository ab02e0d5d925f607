"""The loop of the simulator keeps the promises of asyncio, and some more."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.sim.alone import alone, loop_of
from tests.sim.loop import Blocked, Process, SimLoop, Thread


def order(seed: int) -> list[str]:
    """In which order the steps of two processes are taken."""
    loop, steps = loop_of(seed), list[str]()
    for name in "ab":
        process = Process(name)
        for number in range(5):
            loop.call_soon(steps.append, f"{name}{number}", context=process.context)
    loop.run(lambda: len(steps) == 10)
    return steps


def test_a_process_is_first_in_first_out() -> None:
    """Whatever is drawn, the steps of one process keep their order."""
    for seed in range(20):
        for name in "ab":
            assert [f"{name}{n}" for n in range(5)] == [s for s in order(seed) if s[0] == name]


def test_the_seed_says_who_is_next() -> None:
    """The same seed draws the same order, others draw others."""
    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(20)}) > 10


def test_time_jumps_when_nobody_is_ready() -> None:
    """An hour is over at once, and it is an hour."""
    loop = loop_of()

    async def work() -> None:
        async with asyncio.timeout(7200):
            await asyncio.sleep(3600)

    alone(loop, work)
    assert 3600 <= loop.now_s < 3601


def test_a_timeout_strikes() -> None:
    """What waits for nothing is woken by its deadline."""
    loop = loop_of()

    async def work() -> str:
        try:
            async with asyncio.timeout(5):
                await loop.create_future()
        except TimeoutError:
            return "late"
        return ""

    assert "late" == alone(loop, work)
    assert 5 <= loop.now_s < 6


def test_a_killed_process_takes_no_step() -> None:
    """Not even those of its `finally` blocks, as after a SIGKILL."""
    loop, process, steps = loop_of(), Process("killed"), list[str]()

    async def work() -> None:
        try:
            await asyncio.sleep(1)
            steps.append("woke up")
        finally:
            steps.append("cleaned up")

    loop.create_task(work(), context=process.context)
    loop.call_later(0.5, loop.kill, process, lambda: False, context=loop.world.context)
    loop.call_later(2, steps.append, "later", context=loop.world.context)
    loop.run(lambda: bool(steps))
    assert ["later"] == steps


def test_what_a_thread_of_a_killed_process_had_begun() -> None:
    """It was done or it was not; nobody hears of it."""
    for landed in (False, True):
        loop, process, done = loop_of(), Process("killed"), list[str]()

        async def work(loop: SimLoop = loop, done: list[str] = done) -> None:
            await loop.run_in_executor(Thread(loop), done.append, "written")
            done.append("heard")

        loop.create_task(work(), context=process.context)
        loop.call_later(0.2, loop.kill, process, lambda it=landed: it, context=loop.world.context)
        over = loop.create_future()
        loop.call_later(2, over.set_result, None, context=loop.world.context)
        loop.run(over.done)
        assert (["written"] if landed else []) == done


def test_a_paused_process_goes_on_where_it_was() -> None:
    """Its timers strike late, in their order."""
    loop, process, steps = loop_of(), Process("paused"), list[float]()
    for at_s in (1.0, 2.0):
        loop.call_later(at_s, lambda: steps.append(loop.now_s), context=process.context)
    loop.call_later(0.5, loop.pause, process, context=loop.world.context)
    loop.call_later(5, loop.go_on, process, context=loop.world.context)
    loop.run(lambda: len(steps) == 2)
    assert 5 <= steps[0] < steps[1] < 5.1


def test_a_thread_that_has_to_wait_tries_again() -> None:
    """As long as something is in its way, and no longer."""
    loop, tries = loop_of(do_s=0.25), list[float]()

    def turn() -> str:
        tries.append(loop.now_s)
        if len(tries) < 4:
            raise Blocked
        return "mine"

    async def work() -> Any:
        return await loop.run_in_executor(Thread(loop), turn)

    assert "mine" == alone(loop, work)
    assert 1 <= loop.now_s < 1.1


def test_what_a_thread_raises_is_raised() -> None:
    """In who waits for it."""
    loop = loop_of(say_s=0.5)

    def fail() -> None:
        raise LookupError("gone")

    async def work() -> str:
        try:
            await loop.run_in_executor(Thread(loop), fail)
        except LookupError as error:
            return str(error)
        return ""

    assert "gone" == alone(loop, work)
    assert 1 <= loop.now_s < 1.1
