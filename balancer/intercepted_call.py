"""What a caller holds of a call with interceptors, and what these may put in its place.

The interceptors run in a task of their own, which ends with a call: the real one, or one
that an interceptor made up. Until then the caller's object answers from the task, afterwards
from that call, as gRPC's own does. It differs where gRPC's raises NotImplementedError or
swallows the cancellation of whoever asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Final, Generic, TypeVar

import grpc
import grpc.aio

from balancer.call import CANCELLED
from balancer.request_feed import RequestFeed

Req = TypeVar("Req")
Res = TypeVar("Res")

Chain = asyncio.Task[Any]
_FINISHED: Final = "RPC already finished."
_API_STYLE: Final = "The iterator and read/write APIs may not be mixed on a single RPC."


class InterceptedCall(Generic[Req, Res], grpc.aio.Call):  # noqa: PYI059 - grpc.aio has Generic first
    """What the four kinds have in common. `chain` runs the interceptors.

    `timeout` is what the caller asked for, in seconds; it counts from here until the chain
    has a call, whose own deadline then rules.
    """

    def __init__(self, chain: Chain, timeout: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = None if timeout is None else self._loop.time() + timeout
        self._callbacks: list[Callable[[Any], None]] = []
        self._chain = chain
        chain.add_done_callback(self._attach)

    def beneath(self) -> Any:
        """The call that the chain ended with; None while it runs and if it failed."""
        return self._outcome()

    def cancelled(self) -> bool:
        """Whether it was cancelled here."""
        if not self._chain.done():
            return False
        call = self._outcome()
        if call is not None:
            return bool(call.cancelled())
        return self._chain.cancelled() or _has_code(self._failure(), grpc.StatusCode.CANCELLED)

    def done(self) -> bool:
        """Whether it has ended, interceptors included."""
        if not self._chain.done():
            return False
        call = self._outcome()
        return call is None or bool(call.done())

    def cancel(self) -> bool:
        """Ends it, in whichever interceptor it is; False if it has ended already."""
        if not self._chain.done():
            return self._chain.cancel()
        call = self._outcome()
        return call is not None and bool(call.cancel())

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, at least 0; None without one."""
        call = self._outcome()
        if call is not None:
            remaining: float | None = call.time_remaining()
            return remaining
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - self._loop.time())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls `callback(self)` when it ends, at once if it has."""
        if not self._chain.done():
            self._callbacks.append(callback)
        elif self.done():
            callback(self)
        else:
            self._chain.result().add_done_callback(lambda _: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """As grpc.aio.Call; empty if no server was reached."""
        call = await self._ended_chain()
        if call is not None:
            return _or_empty(await call.initial_metadata())
        failure = self._rpc_failure()
        return grpc.aio.Metadata() if failure is None else failure.initial_metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """As grpc.aio.Call; empty if no server was reached."""
        call = await self._ended_chain()
        if call is not None:
            return _or_empty(await call.trailing_metadata())
        failure = self._rpc_failure()
        return grpc.aio.Metadata() if failure is None else failure.trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        """As grpc.aio.Call; raises what an interceptor raised that is no AioRpcError."""
        call = await self._ended_chain()
        if call is not None:
            code: grpc.StatusCode = await call.code()
            return code
        failure = self._rpc_failure()
        return CANCELLED.code if failure is None else failure.code()

    async def details(self) -> str:
        """As grpc.aio.Call; raises what an interceptor raised that is no AioRpcError."""
        call = await self._ended_chain()
        if call is not None:
            return str(await call.details())
        failure = self._rpc_failure()
        return CANCELLED.details if failure is None else failure.details() or ""

    async def debug_error_string(self) -> str:
        """As gRPC's call objects have it; empty if no server was reached."""
        call = await self._ended_chain()
        if call is not None:
            return str(await call.debug_error_string() or "")
        failure = self._rpc_failure()
        return "" if failure is None else failure.debug_error_string() or ""

    async def wait_for_connection(self) -> None:
        """As grpc.aio.Call."""
        await (await self._chain).wait_for_connection()

    def _attach(self, _: Chain) -> None:
        for callback in self._callbacks:
            self.add_done_callback(callback)
        self._callbacks.clear()

    def _outcome(self) -> Any | None:
        """The call that the chain ended with; None while it runs and if it failed."""
        chain = self._chain
        if not chain.done() or chain.cancelled() or chain.exception() is not None:
            return None
        return chain.result()

    def _failure(self) -> BaseException | None:
        return None if self._chain.cancelled() else self._chain.exception()

    def _rpc_failure(self) -> grpc.aio.AioRpcError | None:
        """The status the chain failed with; None if it was cancelled; raises anything else."""
        failure = self._failure()
        if failure is not None and not isinstance(failure, grpc.aio.AioRpcError):
            raise failure
        return failure

    async def _ended_chain(self) -> Any | None:
        # Not `await chain`: cancelling one who only asks for the status must not end the call.
        await asyncio.wait((self._chain,))
        return self._outcome()


class _UnaryResponse(InterceptedCall[Req, Res]):
    def __await__(self) -> Generator[Any, None, Res]:
        return self._response().__await__()

    async def _response(self) -> Res:
        response: Res = await (await self._chain)
        return response


class _StreamResponse(InterceptedCall[Req, Res]):
    _responses: AsyncIterator[Res] | None = None

    def __aiter__(self) -> AsyncIterator[Res]:
        if self._responses is None:
            self._responses = self._iterate()
        return self._responses

    async def read(self) -> Res | Any:
        """The next response, or grpc.aio.EOF."""
        return await anext(aiter(self), grpc.aio.EOF)

    async def _iterate(self) -> AsyncIterator[Res]:
        async for response in await self._chain:
            yield response


class _StreamRequest(InterceptedCall[Req, Res]):
    """`feed` has what the caller writes; None if the requests come from an iterator."""

    def __init__(self, chain: Chain, timeout: float | None, feed: RequestFeed | None) -> None:
        super().__init__(chain, timeout)
        self._feed = feed
        if feed is not None:
            self.add_done_callback(lambda _: feed.end())

    async def write(self, request: Req) -> None:
        """Hands one request on. Raises InvalidStateError once that is of no use."""
        feed = self._writable()
        self._check_unfinished()
        await feed.write(request)
        self._check_unfinished()

    async def done_writing(self) -> None:
        """Says that no more requests follow. May be repeated."""
        await self._writable().done_writing()

    def _writable(self) -> RequestFeed:
        if self._feed is None:
            raise grpc.aio.UsageError(_API_STYLE)
        return self._feed

    def _check_unfinished(self) -> None:
        if self.done():
            if self._outcome() is None:
                self._rpc_failure()
            raise asyncio.InvalidStateError(_FINISHED)


class InterceptedUnaryUnaryCall(_UnaryResponse[Req, Res], grpc.aio.UnaryUnaryCall[Req, Res]):
    """A grpc.aio.UnaryUnaryCall behind interceptors."""


class InterceptedUnaryStreamCall(_StreamResponse[Req, Res], grpc.aio.UnaryStreamCall[Req, Res]):
    """A grpc.aio.UnaryStreamCall behind interceptors."""


class InterceptedStreamUnaryCall(
    _StreamRequest[Req, Res], _UnaryResponse[Req, Res], grpc.aio.StreamUnaryCall[Req, Res]
):
    """A grpc.aio.StreamUnaryCall behind interceptors."""


class InterceptedStreamStreamCall(
    _StreamRequest[Req, Res], _StreamResponse[Req, Res], grpc.aio.StreamStreamCall[Req, Res]
):
    """A grpc.aio.StreamStreamCall behind interceptors."""


def _has_code(failure: BaseException | None, code: grpc.StatusCode) -> bool:
    return isinstance(failure, grpc.aio.AioRpcError) and failure.code() is code


def _or_empty(metadata: grpc.aio.Metadata | None) -> grpc.aio.Metadata:
    return grpc.aio.Metadata() if metadata is None else metadata
