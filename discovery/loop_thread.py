"""An event loop in a thread of its own, for programs that have none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

STOP_TIMEOUT_S: Final = 10.0

_Result = TypeVar("_Result")


class LoopThread:
    """Runs coroutines for threads that block on them.

    The thread is a daemon: a program that forgets `close` still ends. It does not survive
    a fork, so make it in the process that uses it. Every method may be called from any
    thread but this one. Raises RuntimeError when it is closed or called from itself.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._lock = threading.Lock()
        self._closed = False
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether `close` has begun, or a fork has left the thread behind."""
        return self._closed or not self._thread.is_alive()

    def run(self, work: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
        """Runs what `work` returns to its end, and returns or raises what it does."""
        with self._lock:
            future = self._submit(work)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise RuntimeError("the loop's thread ended meanwhile") from None

    def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        """Waits for `event`; False when that takes longer than `timeout_s`."""

        async def happens() -> bool:
            try:
                async with asyncio.timeout(timeout_s):
                    return await event.wait()
            except TimeoutError:
                return False

        return self.run(happens)

    def close(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs `work` as the last and ends the thread.

        Closing again does nothing, nor does closing in a child after a fork.
        """
        with self._lock:
            if self.closed:
                return
            last = self._submit(work)
            self._closed = True
        try:
            last.result(STOP_TIMEOUT_S)
        except TimeoutError:
            last.cancel()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_TIMEOUT_S)

    def _submit(
        self, work: Callable[[], Coroutine[Any, Any, _Result]]
    ) -> concurrent.futures.Future[_Result]:
        if self.closed:
            raise RuntimeError("the loop's thread has ended")
        if threading.current_thread() is self._thread:
            raise RuntimeError("a listener must not block: call this from another thread")
        return asyncio.run_coroutine_threadsafe(work(), self._loop)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            _end_tasks(self._loop)
        finally:
            self._loop.close()


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_default_executor())
