"""What stands for the call when an interceptor returns something else.

That may be a bare response, or an iterator of responses. Whoever is further out, and the
caller, still gets a call.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator
from typing import Any

import grpc
import grpc.aio


def adopt_response(returned: Any, _: Any, /) -> Any:
    """`returned`, or a finished call around it if it is a response."""
    return returned if isinstance(returned, grpc.aio.Call) else FinishedCall(returned)


def adopt_responses(returned: Any, inner: Any, /) -> Any:
    """`returned`, or the call `inner` with its responses replaced if it is an iterator.

    `inner` is None if the interceptor made no call.
    """
    if isinstance(returned, grpc.aio.Call):
        return returned
    return IteratedCall(FinishedCall(None) if inner is None else inner, returned)


class FinishedCall(grpc.aio.UnaryUnaryCall[Any, Any]):
    """A call that was answered without being made: OK, and no metadata."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def cancelled(self) -> bool:
        """Never."""
        return False

    def done(self) -> bool:
        """Always."""
        return True

    def cancel(self) -> bool:
        """Comes too late."""
        return False

    def time_remaining(self) -> float | None:
        """It has no deadline."""
        return None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls `callback(self)` at once."""
        callback(self)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """None of a server's."""
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """None of a server's."""
        return grpc.aio.Metadata()

    async def code(self) -> grpc.StatusCode:
        """OK."""
        return grpc.StatusCode.OK

    async def details(self) -> str:
        """Nothing to say."""
        return ""

    async def debug_error_string(self) -> str:
        """Nothing to say."""
        return ""

    async def wait_for_connection(self) -> None:
        """It needs none."""

    def __await__(self) -> Generator[Any, None, Any]:
        yield from ()
        return self._response


class IteratedCall(grpc.aio.StreamStreamCall[Any, Any], grpc.aio.UnaryStreamCall[Any, Any]):
    """`call`, except that its responses come from `responses`."""

    def __init__(self, call: Any, responses: AsyncIterable[Any]) -> None:
        self._call = call
        self._responses = responses
        self._iterator: AsyncIterator[Any] | None = None

    def beneath(self) -> Any:
        """The call whose responses were replaced."""
        return self._call

    def cancelled(self) -> bool:
        """Whether the call was cancelled here."""
        return bool(self._call.cancelled())

    def done(self) -> bool:
        """Whether the call has a status; there may still be responses to read."""
        return bool(self._call.done())

    def cancel(self) -> bool:
        """Ends the call; False if it has ended already."""
        return bool(self._call.cancel())

    def time_remaining(self) -> float | None:
        """Seconds until the deadline of the call; None without one."""
        remaining: float | None = self._call.time_remaining()
        return remaining

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls `callback(self)` when the call ends, at once if it has."""
        self._call.add_done_callback(lambda _: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """As grpc.aio.Call."""
        metadata: grpc.aio.Metadata = await self._call.initial_metadata()
        return metadata

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """As grpc.aio.Call."""
        metadata: grpc.aio.Metadata = await self._call.trailing_metadata()
        return metadata

    async def code(self) -> grpc.StatusCode:
        """As grpc.aio.Call."""
        code: grpc.StatusCode = await self._call.code()
        return code

    async def details(self) -> str:
        """As grpc.aio.Call."""
        return str(await self._call.details())

    async def debug_error_string(self) -> str:
        """As gRPC's call objects have it."""
        return str(await self._call.debug_error_string() or "")

    async def wait_for_connection(self) -> None:
        """As grpc.aio.Call."""
        await self._call.wait_for_connection()

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._iterator is None:
            self._iterator = aiter(self._responses)
        return self._iterator

    async def read(self) -> Any:
        """The next response, or grpc.aio.EOF."""
        return await anext(aiter(self), grpc.aio.EOF)

    async def write(self, request: Any) -> None:
        """As the call's own."""
        await self._call.write(request)

    async def done_writing(self) -> None:
        """As the call's own."""
        await self._call.done_writing()
