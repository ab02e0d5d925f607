"""One call of a thread to its caller, one or more attempts underneath.

What retries and hedges share: the accessors, which speak of the attempt that is the call in the
end, and the callbacks.
"""

from __future__ import annotations

import contextvars
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Final

import grpc

from balancer.grpc_types import Future
from balancer.metrics import Running
from balancer.sync_attempts import Rpc
from balancer.sync_call import run_callback
from balancer.sync_dispatch import SyncDispatcher

# Calls that somebody waits for by a callback live until it was called; any other that nobody
# holds is cancelled, as gRPC's are. Never more than there are calls in flight.
_awaited: Final[set[ManagedCall]] = set()


class ManagedCall(grpc.Call, Future):
    """A call whose attempts a subclass makes; `_call` is the one that counts now."""

    _call: Any = None

    def __init__(self, dispatcher: SyncDispatcher, rpc: Rpc) -> None:
        self._deadline = None if rpc.timeout is None else time.monotonic() + rpc.timeout
        self._dispatcher = dispatcher
        self._rpc = rpc
        # Every attempt belongs to the caller's context, whichever thread starts it.
        self._context = contextvars.copy_context()
        self._news = threading.Condition()
        self._final = False
        self._callbacks: list[Callable[[], None]] = []
        self._running: Running | None = None

    def beneath(self) -> Any:
        """The attempt that counts now; None while there is none."""
        return self._call

    def running(self) -> bool:
        """Whether it has no status yet."""
        return not self.done()

    def is_active(self) -> bool:
        """Whether it has no status yet."""
        return not self.done()

    def done(self) -> bool:
        """Whether it has a status."""
        return self._final

    def time_remaining(self) -> float | None:  # type: ignore[override]  # as gRPC's own
        """Seconds until the deadline, at least 0; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Calls `callback` when it ends; False if it has."""
        with self._news:
            if self._final:
                return False
            self._callbacks.append(callback)
            _awaited.add(self)
            return True

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Calls `fn(self)` when it ends, at once if it has."""
        if not self.add_callback(partial(fn, self)):
            fn(self)

    def counted_by(self, running: Running) -> None:
        """Has its end told to `running`."""
        with self._news:
            self._running = running
            if not self._final:
                # Who lets go of a call cancels it.
                weakref.finalize(self, running.ended, grpc.StatusCode.CANCELLED).atexit = False
                return
        running.ended(self._call.code())

    def result(self, timeout: float | None = None) -> Any:
        """As grpc.Future; `timeout` in seconds."""
        return self._ended(timeout).result()

    def exception(self, timeout: float | None = None) -> Exception | None:
        """As grpc.Future; `timeout` in seconds."""
        error: Exception | None = self._ended(timeout).exception()
        return error

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """As grpc.Future; `timeout` in seconds."""
        traceback: TracebackType | None = self._ended(timeout).traceback()
        return traceback

    def code(self) -> grpc.StatusCode:
        """As grpc.Call."""
        code: grpc.StatusCode = self._ended().code()
        return code

    def details(self) -> str:
        """As grpc.Call."""
        return str(self._ended().details())

    def initial_metadata(self) -> Any:
        """As grpc.Call; empty if no server was reached."""
        return self._ended().initial_metadata()

    def trailing_metadata(self) -> Any:
        """As grpc.Call; empty if no server was reached."""
        return self._ended().trailing_metadata()

    def debug_error_string(self) -> str:
        """As gRPC's call objects have it."""
        return str(self._ended().debug_error_string())

    def _ended(self, timeout: float | None = None) -> Any:
        """The attempt that is the call, when it has ended. Raises grpc.FutureTimeoutError."""
        with self._news:
            if not self._news.wait_for(lambda: self._final, timeout):
                raise grpc.FutureTimeoutError
        return self._call

    def _finish(self) -> None:
        with self._news:
            self._final = True
            callbacks, self._callbacks = self._callbacks, []
            _awaited.discard(self)
            running = self._running
            self._news.notify_all()
        if running is not None:
            running.ended(self._call.code())
        for callback in callbacks:
            run_callback(callback)
