"""Calls of threads that cannot start yet: they wait for a connection, then are the real call.

To the caller a deferred call is like any other: each accessor waits for the real call and
passes the question on. A call that ends while it waits (its deadline, a cancellation, or
nobody to send it to) has a status of its own and then is as gRPC's calls are when they
fail before a server is reached. Time spent waiting is part of the caller's timeout.
"""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Final

import grpc

from balancer.call_status import Status
from balancer.grpc_types import Future
from balancer.sync_over import Over
from balancer.sync_waiting import Waiting

_log = logging.getLogger(__name__)

# gRPC's own words, since callers compare them.
CANCELLED: Final = Status(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
CHANNEL_CLOSED: Final = Status(grpc.StatusCode.CANCELLED, "Channel closed!")
DEADLINE_EXCEEDED: Final = Status(
    grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded while waiting for a connection"
)
POLICY_FAILED: Final = Status(
    grpc.StatusCode.INTERNAL, "the balancing policy or a serializer raised an exception"
)

NO_METADATA: Final = ()


class NeverSent(grpc.RpcError, Over):
    """A call that ended before there was anyone to send it to; also the error it raises."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.code, status.details)
        self._status = status

    def __repr__(self) -> str:
        return f'<NeverSent {self._status.code} details = "{self._status.details}">'

    __str__ = __repr__

    def code(self) -> grpc.StatusCode:
        """As grpc.Call."""
        return self._status.code

    def details(self) -> str:
        """As grpc.Call."""
        return self._status.details

    def initial_metadata(self) -> tuple[()]:
        """Empty: no server was reached."""
        return NO_METADATA

    def trailing_metadata(self) -> tuple[()]:
        """Empty: no server was reached."""
        return NO_METADATA

    def debug_error_string(self) -> str:
        """As gRPC's call objects have it."""
        return self._status.details

    def cancelled(self) -> bool:
        """Whether it was cancelled here."""
        return self._status is CANCELLED

    def result(self, timeout: float | None = None) -> Any:  # noqa: ARG002 - there is no wait
        """Raises itself, or grpc.FutureCancelledError if it was cancelled here."""
        if self.cancelled():
            raise grpc.FutureCancelledError
        raise self

    def exception(self, timeout: float | None = None) -> Exception:  # noqa: ARG002 - there is no wait
        """Itself; raises grpc.FutureCancelledError if it was cancelled here."""
        if self.cancelled():
            raise grpc.FutureCancelledError
        return self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """As grpc.Future."""
        try:
            raise self.exception(timeout)
        except grpc.RpcError:
            return sys.exc_info()[2]

    def __iter__(self) -> NeverSent:
        return self

    def __next__(self) -> Any:
        raise self


class DeferredCall(grpc.Call, Future):
    """A future or a stream that has to wait first; what gRPC's own call object can do.

    `begin` starts the real call, or returns the Status it ends with, or None to wait on;
    it is given the seconds that remain, and not called in the first `delay_s`. The call has a
    place in `waiting`, and leaves it.
    """

    def __init__(
        self,
        timeout_s: float | None,
        begin: Callable[[float | None], Any],
        waiting: Waiting,
        delay_s: float = 0.0,
    ) -> None:
        self._not_before = time.monotonic() + delay_s if delay_s else None
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._begin = begin
        self._waiting = waiting
        # The real call belongs to the caller's context, whichever thread starts it.
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._real: Any = None
        self._callbacks: list[Callable[[], None]] = []

    def advance(self) -> None:
        """Starts it if that can be done now, ends it if it must not wait any longer."""
        if not self.is_waiting() or self._is_paused():
            return
        try:
            outcome = self._context.run(self._begin, self.time_remaining())
        except grpc.RpcError as error:
            outcome = _status_of(error)
        except Exception:  # noqa: BLE001 - a user's policy or serializer may raise anything
            _log.exception("a call could not be started")
            outcome = POLICY_FAILED
        if isinstance(outcome, Status):
            outcome = NeverSent(outcome)
        if outcome is not None and not self._settle(outcome):
            outcome.cancel()

    def due_in(self) -> float | None:
        """Seconds until it is to be advanced in any case; None if never."""
        if self._not_before is not None:
            return max(0.0, self._not_before - time.monotonic())
        return self.time_remaining()

    def is_waiting(self) -> bool:
        """Whether it has neither started nor ended."""
        return self._real is None

    def beneath(self) -> Any:
        """The real call; None while there is none."""
        return self._real

    def cancel(self) -> bool:
        """Ends it; False if it has ended already."""
        if not self._settle(NeverSent(CANCELLED)):
            return bool(self._real.cancel())
        # Who places the calls has one less to wait for.
        self._waiting.changes.publish()
        return True

    def cancelled(self) -> bool:
        """Whether it was cancelled here."""
        return not self.is_waiting() and bool(self._real.cancelled())

    def running(self) -> bool:
        """Whether it has no status yet."""
        return not self.done()

    def is_active(self) -> bool:
        """Whether it has no status yet."""
        return not self.done()

    def done(self) -> bool:
        """Whether it has a status."""
        return not self.is_waiting() and bool(self._real.done())

    def time_remaining(self) -> float | None:  # type: ignore[override]  # as gRPC's own
        """Seconds until the deadline, at least 0; None without one."""
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - time.monotonic())

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Calls `callback` when it ends; False if it has."""
        with self._lock:
            if self._real is None:
                self._callbacks.append(callback)
                return True
        return bool(self._real.add_callback(callback))

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Calls `fn(self)` when it ends, at once if it has."""
        if not self.add_callback(partial(fn, self)):
            fn(self)

    def result(self, timeout: float | None = None) -> Any:
        """As grpc.Future; `timeout` in seconds."""
        return self._ask("result", timeout)

    def exception(self, timeout: float | None = None) -> Exception | None:
        """As grpc.Future; `timeout` in seconds."""
        error: Exception | None = self._ask("exception", timeout)
        return error

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """As grpc.Future; `timeout` in seconds."""
        traceback: TracebackType | None = self._ask("traceback", timeout)
        return traceback

    def code(self) -> grpc.StatusCode:
        """As grpc.Call."""
        code: grpc.StatusCode = self._await().code()
        return code

    def details(self) -> str:
        """As grpc.Call."""
        return str(self._await().details())

    def initial_metadata(self) -> Any:
        """As grpc.Call; empty if no server was reached."""
        return self._await().initial_metadata()

    def trailing_metadata(self) -> Any:
        """As grpc.Call; empty if no server was reached."""
        return self._await().trailing_metadata()

    def debug_error_string(self) -> str:
        """As gRPC's call objects have it."""
        return str(self._await().debug_error_string())

    def __iter__(self) -> DeferredCall:
        return self

    def __next__(self) -> Any:
        return next(self._await())

    def _is_paused(self) -> bool:
        if self._not_before is None:
            return False
        if time.monotonic() < self._not_before and not self._waiting.closed:
            return True
        self._not_before = None
        return False

    def _await(self) -> Any:
        self._settled.wait()
        return self._real

    def _ask(self, question: str, timeout: float | None) -> Any:
        started = time.monotonic()
        if not self._settled.wait(timeout):
            raise grpc.FutureTimeoutError
        if timeout is not None:
            timeout = max(0.0, timeout - (time.monotonic() - started))
        return getattr(self._real, question)(timeout)

    def _settle(self, real: Any) -> bool:
        with self._lock:
            if self._real is not None:
                return False
            self._real = real
            callbacks, self._callbacks = self._callbacks, []
        self._settled.set()
        self._waiting.leave()
        for callback in callbacks:
            if not real.add_callback(callback):
                run_callback(callback)
        return True


def run_callback(callback: Callable[[], None]) -> None:
    """Calls `callback`, and logs what it raises."""
    try:
        callback()
    except Exception:  # noqa: BLE001 - as gRPC: one callback's fault must not cost the others
        _log.exception("a callback of a call raised")


def _status_of(error: grpc.RpcError) -> Status:
    """What gRPC refused to start a call for."""
    refused: Any = error
    return Status(refused.code(), refused.details())
