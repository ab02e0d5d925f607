"""The loop of the simulator without a world around it, for tests of its parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

from tests.sim.loop import Process, SimLoop

T = TypeVar("T")


def loop_of(seed: int = 1, do_s: float = 0.5, say_s: float = 0.0) -> SimLoop:
    """A loop whose threads take that long."""
    return SimLoop(Random(seed), lambda process, name: (do_s, say_s))  # type: ignore[abstract]


def alone(loop: SimLoop, work: Callable[[], Awaitable[T]], process: Process | None = None) -> T:
    """Runs one coroutine to its end, as a process of its own."""

    async def run() -> T:
        return await work()

    process = process or Process("alone")
    task = loop.create_task(run(), context=process.context)
    loop.run(task.done)
    return task.result()
