"""Calls with callbacks that may be tried again elsewhere: futures and streams of threads.

To the caller one call, underneath several: what may be repeated, when and where decides
`balancer.retry`. An attempt that fails is followed, in gRPC's own callback, by one that
waits for its moment among the waiting calls, so that no call has a thread or a timer of its
own. As soon as something of a response was handed out, the attempt it came from is the call
(gRFC A6, "committed").
"""

from __future__ import annotations

import contextvars
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc

from balancer.method_config import MethodConfig
from balancer.metrics import Running
from balancer.sync_call import run_callback
from balancer.sync_dispatch import Rpc, SyncDispatcher, next_rpc
from balancer.sync_repeats import Repeats

if TYPE_CHECKING:
    _Future: TypeAlias = grpc.Future[Any]
else:
    # Generic in the stubs only.
    _Future = grpc.Future

# Calls that somebody waits for by a callback live until it was called; any other that nobody
# holds is cancelled, as gRPC's are. Never more than there are calls in flight.
_awaited: Final[set[RetryingCall]] = set()


def start(dispatcher: SyncDispatcher, rpc: Rpc) -> Any:
    """A call object, without blocking. Raises ValueError once the channel is closed."""
    rpc = dispatcher.with_deadline(rpc)
    method = dispatcher.again()
    call = dispatcher.start(rpc) if method is None else RetryingCall(dispatcher, method, rpc)
    running = dispatcher.running()
    if running is not None:
        _count(call, running)
    return call


def _count(call: Any, running: Running) -> None:
    """Has the end of `call` told to `running`, also if nobody holds it until then."""
    if isinstance(call, RetryingCall):
        call.counted_by(running)
        return
    reference = weakref.ref(call)

    def ended() -> None:
        held = reference()
        running.ended(grpc.StatusCode.CANCELLED if held is None else held.code())

    if not call.add_callback(ended):
        ended()


class RetryingCall(grpc.Call, _Future):
    """One attempt after the other: a future, or a stream until its first response."""

    def __init__(self, dispatcher: SyncDispatcher, method: MethodConfig, rpc: Rpc) -> None:
        deadline = None if rpc.timeout is None else time.monotonic() + rpc.timeout
        self._dispatcher = dispatcher
        self._rpc = rpc
        self._repeats = Repeats(method, dispatcher.retries, deadline)
        # Every attempt belongs to the caller's context, whichever thread starts it.
        self._context = contextvars.copy_context()
        self._news = threading.Condition()
        self._committed = False
        self._final = False
        self._callbacks: list[Callable[[], None]] = []
        self._running: Running | None = None
        self._call: Any = dispatcher.start(rpc, self._repeats)
        self._hear_of(self._call)

    def cancel(self) -> bool:
        """Ends it; False if it has ended already."""
        with self._news:
            if self._final:
                return False
            self._committed = True
        return bool(self._call.cancel())

    def cancelled(self) -> bool:
        """Whether it was cancelled here."""
        return bool(self._call.cancelled())

    def running(self) -> bool:
        """Whether it has no status yet."""
        return not self.done()

    def is_active(self) -> bool:
        """Whether it has no status yet."""
        return not self.done()

    def done(self) -> bool:
        """Whether it has a status."""
        return self._final or (self._committed and bool(self._call.done()))

    def time_remaining(self) -> float | None:  # type: ignore[override]  # as gRPC's own
        """Seconds until the deadline, at least 0; None without one."""
        return self._repeats.time_remaining()

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

    def trailing_metadata(self) -> Any:
        """As grpc.Call; empty if no server was reached."""
        return self._ended().trailing_metadata()

    def debug_error_string(self) -> str:
        """As gRPC's call objects have it."""
        return str(self._ended().debug_error_string())

    def initial_metadata(self) -> Any:
        """As grpc.Call; empty if no server was reached."""
        call = self._call
        metadata = call.initial_metadata()
        if not call.done() and self._commit(call):
            return metadata
        return self._ended().initial_metadata()

    def __iter__(self) -> RetryingCall:
        return self

    def __next__(self) -> Any:
        while True:
            call = self._call
            try:
                response = next(call)
            except grpc.RpcError:
                if not self._superseded(call):
                    raise
            else:
                if self._commit(call):
                    return response

    def _commit(self, call: Any) -> bool:
        """Makes `call` the last attempt; False if another has followed already."""
        with self._news:
            if call is not self._call:
                return False
            self._committed = True
            return True

    def _superseded(self, call: Any) -> bool:
        """Whether another attempt follows on `call`, which has failed."""
        with self._news:
            self._news.wait_for(lambda: self._committed or self._final or call is not self._call)
            return call is not self._call

    def _ended(self, timeout: float | None = None) -> Any:
        """The attempt that is the call, when it has ended. Raises grpc.FutureTimeoutError."""
        with self._news:
            if not self._news.wait_for(lambda: self._final, timeout):
                raise grpc.FutureTimeoutError
        return self._call

    def _hear_of(self, call: Any) -> None:
        heard = partial(_go_on, weakref.ref(self))
        if not call.add_callback(heard):
            heard()

    def counted_by(self, running: Running) -> None:
        """Has its end told to `running`."""
        with self._news:
            self._running = running
            if not self._final:
                # Who lets go of a call cancels it.
                weakref.finalize(self, running.ended, grpc.StatusCode.CANCELLED).atexit = False
                return
        running.ended(self._call.code())

    def go_on(self) -> None:
        """Follows on the attempt that has just ended, or ends with it."""
        call = self._call
        if call.code() is grpc.StatusCode.OK:
            self._repeats.succeeded()
            self._finish()
            return
        with self._news:
            following = None if self._committed else self._context.run(self._next, call)
            if following is not None:
                self._call = following
                self._news.notify_all()
        if following is None:
            self._finish()
        else:
            self._hear_of(following)

    def _next(self, call: Any) -> Any:
        retry = self._repeats.after(call)
        if retry is None:
            return None
        self._dispatcher.retries.metrics.retried()
        rpc = next_rpc(self._rpc, retry, self._repeats)
        return self._dispatcher.start_later(rpc, self._repeats, retry.delay_s)

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


def _go_on(reference: weakref.ref[RetryingCall]) -> None:
    call = reference()
    if call is not None:
        call.go_on()
