"""Calls that may be tried again elsewhere: to the caller one call, underneath several.

What may be repeated, when and where decides `balancer.retry`; this is the call object around
its attempts. The first is started at once, as any call is, and for one that succeeds
nothing else happens. Each attempt is watched by a callback, so that a call nobody awaits is
tried again all the same. The accessors speak of the last attempt: `code` and the trailing
metadata wait for it. As soon as something of a response was handed out, the attempt it came
from is the call (gRFC A6, "committed").
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from functools import partial
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from balancer.attempt import AttemptOutcome
from balancer.call import (
    CANCELLED,
    DeferredCall,
    DeferredUnaryStreamCall,
    DeferredUnaryUnaryCall,
)
from balancer.dispatch import (
    Attempt,
    CallOptions,
    Dispatcher,
    Retries,
    final_code,
    final_trailers,
)
from balancer.method_config import MethodConfig
from balancer.retry import GiveUp, Retry, RetryState

Req = TypeVar("Req")
Res = TypeVar("Res")


class RetryingCall(Generic[Req, Res], grpc.aio.Call):  # noqa: PYI059 - grpc.aio has Generic first
    """What the two kinds have in common: attempts, and the accessors of grpc.aio.Call."""

    _deferred: type[DeferredCall[Any, Any]]

    def __init__(
        self,
        dispatcher: Dispatcher,
        method: MethodConfig,
        retries: Retries,
        request: Req,
        options: CallOptions,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._dispatcher = dispatcher
        self._method = method
        self._retries = retries
        self._request = request
        self._options = options
        timeout = options.timeout
        self._deadline = None if timeout is None else self._loop.time() + timeout
        self._callbacks: list[Callable[[Any], None]] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._state: RetryState | None = None
        self._next: asyncio.Task[None] | None = None
        self._committed = False
        self._final = False
        self._call: Any = None
        self._follow(options, frozenset())

    def cancelled(self) -> bool:
        """Whether it was cancelled here."""
        return self._final and bool(self._call.cancelled())

    def done(self) -> bool:
        """Whether it has a status."""
        return self._final

    def cancel(self) -> bool:
        """Ends it; False if it has ended already."""
        if self._final:
            return False
        if self._next is not None:
            self._next.cancel()
            self._call = self._deferred(self._dispatcher, self._request, self._options, CANCELLED)
            self._finish()
            return True
        self._committed = True
        return bool(self._call.cancel())

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
            self._callbacks.append(callback)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """As grpc.aio.Call."""
        call = self._call
        metadata: grpc.aio.Metadata = await call.initial_metadata()
        if call is self._call and not call.done():
            self._committed = True
            return metadata
        await self._until_final()
        last: grpc.aio.Metadata = await self._call.initial_metadata()
        return last

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

    def _follow(self, options: CallOptions, avoid: frozenset[str]) -> None:
        attempt = self._dispatcher.start(self._request, options, avoid)
        if attempt is None:
            call = self._deferred(self._dispatcher, self._request, options)
            attempt = Attempt(call, None)
        self._call = attempt.call
        attempt.call.add_done_callback(partial(self._ended, attempt.endpoint))

    def _ended(self, endpoint: str | None, call: Any) -> None:
        if call is not self._call or self._final:
            return
        code = final_code(call)
        if code is grpc.StatusCode.OK:
            self._retries.throttle.succeeded()
            self._finish()
            return
        decision = self._after(call, code, endpoint)
        if decision is None:
            self._finish()
        else:
            self._next = self._loop.create_task(self._again(decision))
            self._wake()

    def _after(self, call: Any, code: grpc.StatusCode, endpoint: str | None) -> Retry | None:
        if isinstance(call, DeferredCall):
            if call.endpoint is None:
                # Nobody could be had for it, and it has waited for that as it wanted to.
                return None
            endpoint = call.endpoint
        if self._committed:
            return None
        if self._state is None:
            self._state = RetryState(
                self._method.retry,
                self._retries.throttle,
                self._retries.rng,
                idempotent=self._method.idempotent,
                deadline_s=self._deadline,
            )
        outcome = AttemptOutcome(code=code, endpoint=endpoint, trailers=final_trailers(call))
        decision = self._state.after(outcome, now_s=self._loop.time())
        return None if isinstance(decision, GiveUp) else decision

    async def _again(self, decision: Retry) -> None:
        if decision.delay_s:
            await asyncio.sleep(decision.delay_s)
        self._next = None
        metadata = (*(self._options.metadata or ()), *decision.metadata())
        options = self._options._replace(timeout=self.time_remaining(), metadata=metadata)
        self._follow(options, decision.tried)
        self._wake()

    def _finish(self) -> None:
        self._final = True
        self._next = None
        for callback in self._callbacks:
            callback(self)
        self._callbacks.clear()
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def _news(self) -> None:
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    async def _until_final(self) -> None:
        while not self._final:
            await self._news()

    async def _superseded(self, call: Any) -> bool:
        """Whether another attempt follows on `call`, which has failed."""
        while call is self._call and not self._final:
            await self._news()
        return call is not self._call


class RetryingUnaryUnaryCall(RetryingCall[Req, Res], grpc.aio.UnaryUnaryCall[Req, Res]):
    """A grpc.aio.UnaryUnaryCall over one or more attempts."""

    _deferred = DeferredUnaryUnaryCall

    def __await__(self) -> Generator[Any, None, Res]:
        return self._response().__await__()

    async def _response(self) -> Res:
        while True:
            call = self._call
            try:
                response: Res = await call
            except asyncio.CancelledError:
                if _is_ours():
                    self.cancel()
                raise
            except grpc.aio.AioRpcError:
                if not await self._or_cancel(call):
                    raise
            else:
                return response

    async def _or_cancel(self, call: Any) -> bool:
        """As `_superseded`; who is cancelled while waiting cancels the call, as in gRPC."""
        try:
            return await self._superseded(call)
        except asyncio.CancelledError:
            self.cancel()
            raise


class RetryingUnaryStreamCall(RetryingCall[Req, Res], grpc.aio.UnaryStreamCall[Req, Res]):
    """A grpc.aio.UnaryStreamCall over one or more attempts, until its first response."""

    _deferred = DeferredUnaryStreamCall
    _responses: AsyncIterator[Res] | None = None

    def __aiter__(self) -> AsyncIterator[Res]:
        if self._responses is None:
            self._responses = self._iterate()
        return self._responses

    async def read(self) -> Res | Any:
        """The next response, or grpc.aio.EOF."""
        while True:
            call = self._call
            try:
                response = await call.read()
            except grpc.aio.AioRpcError:
                if self._committed or not await self._superseded(call):
                    raise
            else:
                if response is not grpc.aio.EOF:
                    self._committed = True
                    return response
                if not await self._superseded(call):
                    return response

    async def _iterate(self) -> AsyncIterator[Res]:
        while True:
            call = self._call
            try:
                async for response in call:
                    self._committed = True
                    yield response
            except grpc.aio.AioRpcError:
                if self._committed or not await self._superseded(call):
                    raise
            else:
                return


def _is_ours() -> bool:
    """Whether it is the caller's own task that is being cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
