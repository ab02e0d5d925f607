"""One call to its caller, one or more attempts underneath: what retries and hedges share.

The accessors speak of the attempt that is the call in the end: `code` and the trailing
metadata wait for it. Attempts follow each other by callbacks, so that a call which nobody
awaits goes on all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from balancer.dispatch import CallOptions, Dispatcher

Req = TypeVar("Req")
Res = TypeVar("Res")


class ManagedCall(Generic[Req, Res], grpc.aio.Call):  # noqa: PYI059 - grpc.aio has Generic first
    """A grpc.aio.Call whose attempts a subclass makes; `_call` is the one that counts now."""

    # Of the class until a call needs its own, which most calls never do.
    _final = False
    _callbacks: tuple[Callable[[Any], None], ...] = ()
    _waiters: tuple[asyncio.Future[None], ...] = ()
    _call: Any = None

    def __init__(self, dispatcher: Dispatcher, request: Req, options: CallOptions) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._dispatcher = dispatcher
        self._request = request
        self._options = options
        timeout = options.timeout
        self._deadline = None if timeout is None else loop.time() + timeout

    def beneath(self) -> Any:
        """The attempt that counts now."""
        return self._call

    def cancelled(self) -> bool:
        """Whether it was cancelled here."""
        return self._final and bool(self._call.cancelled())

    def done(self) -> bool:
        """Whether it has a status."""
        return self._final

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, at least 0; None without one."""
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - self._loop.time())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls `callback(self)` when it ends, at once if it has."""
        if self._final:
            callback(self)
        else:
            self._callbacks = (*self._callbacks, callback)

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """As grpc.aio.Call."""
        await self._until_final()
        metadata: grpc.aio.Metadata = await self._call.trailing_metadata()
        return metadata

    async def code(self) -> grpc.StatusCode:
        """As grpc.aio.Call."""
        await self._until_final()
        code: grpc.StatusCode = await self._call.code()
        return code

    async def details(self) -> str:
        """As grpc.aio.Call."""
        await self._until_final()
        details: str = await self._call.details()
        return details

    async def debug_error_string(self) -> str:
        """As gRPC's call objects have it."""
        await self._until_final()
        return str(await self._call.debug_error_string())

    async def wait_for_connection(self) -> None:
        """As grpc.aio.Call."""
        await self._call.wait_for_connection()

    def _finish(self) -> None:
        self._final = True
        if self._callbacks:
            callbacks, self._callbacks = self._callbacks, ()
            for callback in callbacks:
                callback(self)
        self._wake()

    def _wake(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, ()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def _news(self) -> None:
        waiter = self._loop.create_future()
        self._waiters = (*self._waiters, waiter)
        await waiter

    async def _until_final(self) -> None:
        while not self._final:
            await self._news()
