"""Calls that cannot start yet: they wait for a connection and then are the real call.

To the caller a deferred call is like any other: each accessor waits for the real call and
passes the question on. A call that ends while it waits (its deadline, a cancellation, or
nobody to send it to) has a status of its own, and then behaves as gRPC's calls do when
they fail before a server is reached. Time spent waiting is part of the caller's timeout.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Final, Generic, TypeVar

import grpc
import grpc.aio

from balancer.call_status import Status
from balancer.dispatch import Attempt, CallOptions, Dispatcher

Req = TypeVar("Req")
Res = TypeVar("Res")

_log = logging.getLogger(__name__)

# gRPC's own words, since callers compare them.
CANCELLED: Final = Status(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
_FINISHED = "RPC already finished."
_DEADLINE = Status(
    grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded while waiting for a connection"
)
_POLICY_FAILED = Status(grpc.StatusCode.INTERNAL, "the balancing policy raised an exception")


class DeferredCall(Generic[Req, Res], grpc.aio.Call):  # noqa: PYI059 - grpc.aio has Generic first
    """What the four kinds have in common: waiting, and the accessors of grpc.aio.Call.

    One that is given a `status` has ended before it could begin.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        request: Any,
        options: CallOptions,
        status: Status | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = None if options.timeout is None else self._loop.time() + options.timeout
        self._callbacks: list[Callable[[Any], None]] = []
        self._settled = asyncio.Event()
        # Where it went, once it has gone anywhere.
        self.endpoint: str | None = None
        self._real: Any = None
        self._status: Status | None = None
        self._task: asyncio.Task[None] | None = None
        status = status or dispatcher.refusal(options) or dispatcher.queue_refusal()
        if status is not None:
            self._end(status)
            return
        self._task = self._loop.create_task(self._place(dispatcher, request, options))
        dispatcher.waiting.add(self, self._task)

    def beneath(self) -> Any:
        """The real call; None while there is none."""
        return self._real

    def cancelled(self) -> bool:
        """Whether it was cancelled here."""
        if self._real is None:
            return self._status is CANCELLED
        return bool(self._real.cancelled())

    def done(self) -> bool:
        """Whether it has a status."""
        if self._real is None:
            return self._status is not None
        return bool(self._real.done())

    def cancel(self) -> bool:
        """Ends it; False if it has ended already."""
        if self._real is not None:
            return bool(self._real.cancel())
        if self._status is not None:
            return False
        self._end(CANCELLED)
        if self._task is not None:
            self._task.cancel()
        return True

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, at least 0; None without one."""
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - self._loop.time())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls `callback(self)` when it ends, at once if it has."""
        if self._real is not None:
            self._real.add_done_callback(lambda _: callback(self))
        elif self._status is not None:
            callback(self)
        else:
            self._callbacks.append(callback)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """As grpc.aio.Call; empty if no server was reached."""
        await self._settled.wait()
        if self._real is None:
            return grpc.aio.Metadata()
        metadata: grpc.aio.Metadata = await self._real.initial_metadata()
        return metadata

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """As grpc.aio.Call; empty if no server was reached."""
        await self._settled.wait()
        if self._real is None:
            return grpc.aio.Metadata()
        metadata: grpc.aio.Metadata = await self._real.trailing_metadata()
        return metadata

    async def code(self) -> grpc.StatusCode:
        """As grpc.aio.Call."""
        await self._settled.wait()
        code: grpc.StatusCode = self._status.code if self._status else await self._real.code()
        return code

    async def details(self) -> str:
        """As grpc.aio.Call."""
        await self._settled.wait()
        details: str = self._status.details if self._status else await self._real.details()
        return details

    async def debug_error_string(self) -> str:
        """As gRPC's call objects have it; empty if no server was reached."""
        await self._settled.wait()
        return "" if self._status else str(await self._real.debug_error_string())

    async def wait_for_connection(self) -> None:
        """As grpc.aio.Call."""
        await (await self._started()).wait_for_connection()

    async def _place(self, dispatcher: Dispatcher, request: Any, options: CallOptions) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                outcome = await dispatcher.start_when_ready(request, options, self.time_remaining)
        except TimeoutError:
            outcome = _DEADLINE
        except asyncio.CancelledError:
            outcome = CANCELLED
        except Exception:  # noqa: BLE001 - a user's policy or serializer may raise anything
            _log.exception("a call could not be started")
            outcome = _POLICY_FAILED
        if isinstance(outcome, Status):
            self._end(outcome)
        else:
            self._become(outcome)

    def _become(self, attempt: Attempt) -> None:
        self._real, self.endpoint = attempt.call, attempt.endpoint
        self._settled.set()
        for callback in self._callbacks:
            self.add_done_callback(callback)
        self._callbacks.clear()

    def _end(self, status: Status) -> None:
        if self._status is not None:
            return
        self._status = status
        self._settled.set()
        for callback in self._callbacks:
            callback(self)
        self._callbacks.clear()

    async def _started(self) -> Any:
        """The real call; raises if there will be none.

        Who is cancelled while waiting for the response cancels the call, as in gRPC.
        """
        try:
            await self._settled.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._status is not None:
            raise self._error(self._status)
        return self._real

    def _error(self, status: Status) -> BaseException:
        if status is CANCELLED:
            return asyncio.CancelledError()
        empty = grpc.aio.Metadata()
        return grpc.aio.AioRpcError(status.code, empty, empty, status.details, "")


class _UnaryResponse(DeferredCall[Req, Res]):
    def __await__(self) -> Generator[Any, None, Res]:
        return self._response().__await__()

    async def _response(self) -> Res:
        response: Res = await (await self._started())
        return response


class _StreamResponse(DeferredCall[Req, Res]):
    _responses: AsyncIterator[Res] | None = None

    def __aiter__(self) -> AsyncIterator[Res]:
        if self._responses is None:
            self._responses = self._iterate()
        return self._responses

    async def read(self) -> Res | Any:
        """The next response, or grpc.aio.EOF."""
        return await (await self._started()).read()

    async def _iterate(self) -> AsyncIterator[Res]:
        async for response in await self._started():
            yield response


class _StreamRequest(DeferredCall[Req, Res]):
    async def write(self, request: Req) -> None:
        """Sends one request."""
        self._check_unfinished()
        await (await self._started()).write(request)

    async def done_writing(self) -> None:
        """Says that no more requests follow. May be repeated."""
        if not self.done():
            await (await self._started()).done_writing()

    def _check_unfinished(self) -> None:
        if self.done():
            raise asyncio.InvalidStateError(_FINISHED)


class DeferredUnaryUnaryCall(_UnaryResponse[Req, Res], grpc.aio.UnaryUnaryCall[Req, Res]):
    """A grpc.aio.UnaryUnaryCall that may have to wait first."""


class DeferredUnaryStreamCall(_StreamResponse[Req, Res], grpc.aio.UnaryStreamCall[Req, Res]):
    """A grpc.aio.UnaryStreamCall that may have to wait first."""


class DeferredStreamUnaryCall(
    _StreamRequest[Req, Res], _UnaryResponse[Req, Res], grpc.aio.StreamUnaryCall[Req, Res]
):
    """A grpc.aio.StreamUnaryCall that may have to wait first."""


class DeferredStreamStreamCall(
    _StreamRequest[Req, Res], _StreamResponse[Req, Res], grpc.aio.StreamStreamCall[Req, Res]
):
    """A grpc.aio.StreamStreamCall that may have to wait first."""
