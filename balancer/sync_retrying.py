"""Calls with callbacks that may be tried again elsewhere: futures and streams of threads.

To the caller one call, underneath several: what may be repeated, when and where decides
`balancer.retry`. An attempt that fails is followed, in gRPC's own callback, by one that
waits for its moment among the waiting calls, so that no call has a thread or a timer of its
own. As soon as something of a response was handed out, the attempt it came from is the call
(gRFC A6, "committed").
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import grpc

from balancer.method_config import MethodConfig
from balancer.sync_attempts import Rpc
from balancer.sync_dispatch import SyncDispatcher, next_rpc
from balancer.sync_managed import ManagedCall
from balancer.sync_repeats import Repeats


class RetryingCall(ManagedCall):
    """One attempt after the other: a future, or a stream until its first response."""

    def __init__(self, dispatcher: SyncDispatcher, method: MethodConfig, rpc: Rpc) -> None:
        super().__init__(dispatcher, rpc)
        self._repeats = Repeats(method, dispatcher.shared, self._deadline)
        self._committed = False
        self._call = dispatcher.start(rpc, self._repeats)
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

    def done(self) -> bool:
        """Whether it has a status."""
        return self._final or (self._committed and bool(self._call.done()))

    def initial_metadata(self) -> Any:
        """As grpc.Call; empty if no server was reached."""
        call = self._call
        metadata = call.initial_metadata()
        if not call.done() and self._commit(call):
            return metadata
        return super().initial_metadata()

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

    def _hear_of(self, call: Any) -> None:
        heard = partial(_go_on, weakref.ref(self))
        if not call.add_callback(heard):
            heard()

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
        self._dispatcher.shared.metrics.retried()
        rpc = next_rpc(self._rpc, retry, self._repeats)
        return self._dispatcher.start_later(rpc, self._repeats, retry.delay_s)


def _go_on(reference: weakref.ref[RetryingCall]) -> None:
    call = reference()
    if call is not None:
        call.go_on()
