"""Requests written one by one, read as an iterator: how `write` passes through interceptors.

An interceptor gets the requests as an iterator and may put another around it. So a call with
interceptors never writes to the real call; it feeds this, which the real call iterates.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

_LAST: Final = object()
_HALF_CLOSED: Final = 'RPC is half closed after calling "done_writing".'


class RequestFeed(AsyncIterator[Any]):
    """At most one request waits in it: a writer is held up as far as the server is."""

    def __init__(self) -> None:
        self._requests: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_closed = False

    def end(self) -> None:
        """Lets every writer go: the call has ended and nobody reads any more."""
        if not self._ended.done():
            self._ended.set_result(None)

    async def write(self, request: Any) -> None:
        """Returns when there is room for `request`, or at the end of the call.

        Raises InvalidStateError after `done_writing`.
        """
        if self._is_closed:
            raise asyncio.InvalidStateError(_HALF_CLOSED)
        await self._put(request)

    async def done_writing(self) -> None:
        """No request follows. May be repeated."""
        if not self._is_closed:
            self._is_closed = True
            await self._put(_LAST)

    async def __anext__(self) -> Any:
        request = await self._requests.get()
        if request is _LAST:
            # For whoever asks again: an iterator that has ended stays so.
            self._requests.put_nowait(_LAST)
            raise StopAsyncIteration
        return request

    async def _put(self, request: Any) -> None:
        if not self._requests.full():
            self._requests.put_nowait(request)
            return
        putting = asyncio.ensure_future(self._requests.put(request))
        try:
            await asyncio.wait((putting, self._ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
