"""An event loop of the simulator's own: virtual time, and a seed that says who runs next.

It holds several processes at once. Each has a queue of its own, first in first out as asyncio
promises; which process takes the next step is drawn. Nothing waits: when nobody is ready,
the time jumps to the next timer. A process that is killed takes no further step, not even
those of its `finally` blocks, as a process that is killed does not.

What belongs to which process is known from the context (contextvars) that every callback
and task carries.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from functools import partial
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

# What one step takes where the machine is not slow: time never stands still.
STEP_S = 0.000_02
# More than any history needs: who takes more goes round in circles.
STEPS_MAX = 2_000_000


class Killed(BaseException):
    """The process has ended here and now."""


class Blocked(BaseException):
    """A job on a thread has to wait for something: it is tried again."""


class Process:
    """One life of one program, from its start to its end."""

    __slots__ = ("alive", "context", "jobs", "name", "paused", "ready", "step_s")

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.paused = False
        self.step_s = STEP_S
        self.ready: deque[_Entry] = deque()
        # What its threads are doing.
        self.jobs: dict[int, _Job] = {}
        self.context = Context()
        self.context.run(_PROCESS.set, self)


_PROCESS: ContextVar[Process] = ContextVar("process")


class _Entry:
    """A callback that waits for its turn, or for its time."""

    __slots__ = ("args", "callback", "context", "gone", "when_s")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.gone = False
        self.when_s = 0.0

    def cancel(self) -> None:
        self.gone = True

    def cancelled(self) -> bool:
        return self.gone

    def when(self) -> float:
        return self.when_s


class _Job:
    """A function that a thread of a process runs, and what comes of it."""

    __slots__ = ("function", "future", "number")

    def __init__(self, number: int, function: Callable[[], object]) -> None:
        self.number = number
        self.function = function
        self.future: Future[Any] = Future()


class Thread(Executor):
    """One thread of the process that makes it."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def submit(self, fn: Callable[..., T], /, *args: Any, **keywords: Any) -> Future[T]:
        """See Executor.submit."""
        name = getattr(fn, "func", fn).__name__
        return self._loop.start_job(partial(fn, *args, **keywords), name)


class _Task(asyncio.Task[T]):
    """A task whose hash is its number: sets of tasks are walked in the same order every time."""

    def __init__(self, *args: Any, number: int, **keywords: Any) -> None:
        self._number = number
        super().__init__(*args, **keywords)
        # Those of a killed process are never finished, and that is as it should be.
        self._log_destroy_pending = False

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimLoop(asyncio.AbstractEventLoop):
    """See the module's docstring. `world` is the process of the simulator itself."""

    def __init__(self, rng: Random, job_s: Callable[[Process, str], tuple[float, float]]) -> None:
        """`job_s` says of a function's name when a thread does it, and how much later it says so.

        Both are seconds.
        """
        self._draw = rng.random
        self._job_s = job_s
        self.now_s = 0.0
        self.steps = 0
        self.world = Process("world")
        self._runnable: list[Process] = []
        self._timers: list[tuple[float, int, _Entry]] = []
        self._numbers = itertools.count(1)
        self._tasks: list[asyncio.Task[Any]] = []
        self.on_error: Callable[[dict[str, Any]], None] = lambda context: None
        self.before_step: Callable[[Process], None] | None = None

    # What asyncio asks of a loop.

    def time(self) -> float:
        """Seconds of virtual time."""
        return self.now_s

    def get_debug(self) -> bool:
        """Off."""
        return False

    def is_running(self) -> bool:
        """Always, as far as anybody inside can tell."""
        return True

    def is_closed(self) -> bool:
        """Never."""
        return False

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """A task of the process that runs now, or of that whose context is given."""
        number = next(self._numbers)
        task: asyncio.Task[T] = _Task(coro, loop=self, name=name, context=context, number=number)
        self._tasks.append(task)
        return task

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Entry:
        """Puts a callback into the queue of its process."""
        entry = _Entry(callback, args, copy_context() if context is None else context)
        self._queue(entry)
        return entry

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Entry:
        """The same: there are no threads."""
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> _Entry:
        """Puts a callback into the queue of its process after some virtual seconds."""
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> _Entry:
        """The same at a moment of virtual time."""
        entry = _Entry(callback, args, copy_context() if context is None else context)
        entry.when_s = when
        heapq.heappush(self._timers, (when, next(self._numbers), entry))
        return entry

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Runs `func` on one of the threads of this loop."""
        return asyncio.wrap_future(executor.submit(func, *args), loop=self)

    def start_job(self, function: Callable[[], T], name: str) -> Future[T]:
        """Runs it in one piece, after as long as a thread of this process would take."""
        process = self.current()
        job = _Job(next(self._numbers), function)
        process.jobs[job.number] = job
        do_s, say_s = self._job_s(process, name)
        self.call_later(do_s, self._do, process, job, say_s, context=process.context)
        return job.future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Nobody foresaw it: the simulator hears of it."""
        self.on_error(context)

    # What the simulator asks of it.

    def run(self, until: Callable[[], bool]) -> None:
        """Takes one step after the other until `until` says so or nothing is left to do."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            while not until() and self._step():
                pass
        finally:
            asyncio._set_running_loop(before)

    def current(self) -> Process:
        """Whose step this is."""
        return _PROCESS.get(self.world)

    def kill(self, process: Process, landed: Callable[[], bool]) -> None:
        """Ends a process; `landed` says of each thing its threads do whether it was done yet."""
        process.alive = False
        process.ready.clear()
        if process in self._runnable:
            self._runnable.remove(process)
        jobs, process.jobs = process.jobs, {}
        for job in jobs.values():
            if landed():
                # Nobody is left to hear of it.
                with suppress(BaseException):
                    job.function()

    def pause(self, process: Process) -> None:
        """The process stands still: what happens to it waits."""
        process.paused = True
        if process in self._runnable:
            self._runnable.remove(process)

    def go_on(self, process: Process) -> None:
        """It goes on with what has gathered."""
        process.paused = False
        if process.alive and process.ready and process not in self._runnable:
            self._runnable.append(process)

    def throw_away(self) -> None:
        """Lets go of all tasks while no other loop can be confused by their last words."""
        for task in self._tasks:
            coroutine = task.get_coro()
            if not task.done() and coroutine is not None:
                # The dead have nothing to say.
                with suppress(BaseException):
                    coroutine.close()
        self._tasks.clear()
        self._timers.clear()
        self._runnable.clear()

    def _queue(self, entry: _Entry) -> None:
        process = entry.context.get(_PROCESS, self.world)
        if not process.alive:
            return
        if not process.ready and not process.paused:
            self._runnable.append(process)
        process.ready.append(entry)

    def _step(self) -> bool:
        if not self._wake():
            return False
        runnable = self._runnable
        if not runnable:
            return True
        at = int(self._draw() * len(runnable))
        process = runnable[at]
        entry = process.ready.popleft()
        if not process.ready:
            runnable[at] = runnable[-1]
            runnable.pop()
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise RuntimeError(f"more than {STEPS_MAX} steps")
        self.now_s += process.step_s
        if not entry.gone:
            if self.before_step is not None:
                self.before_step(process)
            if process.alive:
                self._run(entry)
        return True

    def _wake(self) -> bool:
        """Queues what is due, after a jump when nobody is ready; False when there is nothing."""
        timers = self._timers
        if not self._runnable:
            while timers and timers[0][2].gone:
                heapq.heappop(timers)
            if not timers:
                return False
            self.now_s = max(self.now_s, timers[0][0])
        while timers and timers[0][0] <= self.now_s:
            entry = heapq.heappop(timers)[2]
            if not entry.gone:
                self._queue(entry)
        return True

    def _run(self, entry: _Entry) -> None:
        try:
            entry.context.run(entry.callback, *entry.args)
        except Killed:
            pass
        except Exception as error:  # noqa: BLE001 - as asyncio does it
            self.on_error({"message": "a callback failed", "exception": error})

    def _do(self, process: Process, job: _Job, say_s: float) -> None:
        if process.jobs.pop(job.number, None) is None:
            return
        say: Callable[..., None] = job.future.set_result
        result: object
        try:
            result = job.function()
        except Blocked:
            process.jobs[job.number] = job
            do_s, _ = self._job_s(process, "blocked")
            self.call_later(do_s, self._do, process, job, say_s, context=process.context)
            return
        except Killed:
            return
        except Exception as error:  # noqa: BLE001 - as an executor does it
            say, result = job.future.set_exception, error

        def said() -> None:
            if not job.future.done():
                say(result)

        if say_s:
            self.call_later(say_s, said, context=process.context)
        else:
            said()
