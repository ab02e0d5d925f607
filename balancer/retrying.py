"""Calls that may be tried again elsewhere: to the caller one call, underneath several.

What may be repeated, when and where decides `balancer.retry`; this is the call object around
its attempts. The first is started at once, as any call is, and for one that succeeds
nothing else happens. As soon as something of a response was handed out, the attempt it came
from is the call (gRFC A6, "committed").
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import Any, Final, TypeVar

import grpc
import grpc.aio

from balancer.attempt import outcome_of
from balancer.call import (
    CANCELLED,
    DeferredCall,
    DeferredUnaryStreamCall,
    DeferredUnaryUnaryCall,
)
from balancer.call_status import final_code, final_details, final_trailers
from balancer.dispatch import Attempt, CallOptions, Dispatcher
from balancer.managed_call import ManagedCall
from balancer.retry import GiveUp, Retry, RetryState

Req = TypeVar("Req")
Res = TypeVar("Res")

# Looked up by calls; a member of an enum is found in Python.
_OK: Final = grpc.StatusCode.OK
_NOWHERE: Final[frozenset[str]] = frozenset()


class RetryingCall(ManagedCall[Req, Res]):
    """What the two kinds have in common: one attempt after the other."""

    _deferred: type[DeferredCall[Any, Any]]
    _state: RetryState | None = None
    _next: asyncio.Task[None] | None = None
    _committed = False

    def __init__(self, dispatcher: Dispatcher, request: Req, options: CallOptions) -> None:
        super().__init__(dispatcher, request, options)
        self._try(options, _NOWHERE)

    def cancel(self) -> bool:
        """Ends it; False if it has ended already."""
        if self._final:
            return False
        if self._next is not None:
            self._next.cancel()
            self._next = None
            self._call = self._deferred(self._dispatcher, self._request, self._options, CANCELLED)
            self._finish()
            return True
        self._committed = True
        return bool(self._call.cancel())

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

    def _try(self, options: CallOptions, avoid: frozenset[str]) -> None:
        attempt = self._dispatcher.start(self._request, options, avoid)
        if attempt is None:
            self._call = self._deferred(self._dispatcher, self._request, options)
            self._call.add_done_callback(self._deferred_ended)
        else:
            self._call = attempt.call
            attempt.follow(self._attempt_ended)

    def _attempt_ended(self, attempt: Attempt, code: grpc.StatusCode) -> None:
        if code is _OK:
            self._dispatcher.shared.throttle.succeeded()
            self._finish()
        else:
            self._failed(attempt.call, code, attempt.endpoint)

    def _deferred_ended(self, call: DeferredCall[Any, Any]) -> None:
        code = final_code(call)
        if code is _OK:
            self._dispatcher.shared.throttle.succeeded()
            self._finish()
        else:
            # None: nobody could be had for it, and it has waited for that as it wanted to.
            self._failed(call, code, call.endpoint)

    def _failed(self, call: Any, code: grpc.StatusCode, endpoint: str | None) -> None:
        decision = None if endpoint is None else self._after(call, code, endpoint)
        if decision is None:
            self._finish()
        else:
            self._next = self._loop.create_task(self._again(decision))
            self._wake()

    def _after(self, call: Any, code: grpc.StatusCode, endpoint: str) -> Retry | None:
        if self._committed:
            return None
        if self._state is None:
            method, shared = self._dispatcher.method_config, self._dispatcher.shared
            self._state = RetryState(
                method.retry,
                shared.throttle,
                shared.rng,
                idempotent=method.idempotent,
                deadline_s=self._deadline,
            )
        outcome = outcome_of(code, final_details(call), final_trailers(call), endpoint)
        decision = self._state.after(outcome, now_s=self._loop.time())
        return None if isinstance(decision, GiveUp) else decision

    async def _again(self, decision: Retry) -> None:
        if decision.delay_s:
            await asyncio.sleep(decision.delay_s)
        self._next = None
        self._dispatcher.shared.metrics.retried()
        metadata = (*(self._options.metadata or ()), *decision.metadata())
        options = self._options._replace(timeout=self.time_remaining(), metadata=metadata)
        self._try(options, decision.tried)
        self._wake()

    async def _superseded(self, call: Any) -> bool:
        """Whether another attempt follows on `call`, which has failed."""
        while call is self._call and not self._final:
            await self._news()
        return call is not self._call


class RetryingUnaryUnaryCall(RetryingCall[Req, Res], grpc.aio.UnaryUnaryCall[Req, Res]):
    """A grpc.aio.UnaryUnaryCall over one or more attempts."""

    _deferred = DeferredUnaryUnaryCall

    def __await__(self) -> Generator[Any, None, Res]:
        # A generator and no coroutine: one layer less for every call.
        while True:
            call = self._call
            try:
                response: Res = yield from call.__await__()
            except asyncio.CancelledError:
                if _is_ours():
                    self.cancel()
                raise
            except grpc.aio.AioRpcError:
                if not (yield from self._or_cancel(call).__await__()):
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
