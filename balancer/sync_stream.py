"""Reading a stream of a grpc.Channel on an event loop: what a health watch asks of a connection.

A stream of threads can only be read by a thread that blocks, so that each has one, which ends
with it. A grpc.aio channel beside would do without, but it would be another connection, and
what that one knows says nothing about the one that carries the calls.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Final

import grpc
import grpc.aio

from balancer.sync_link import post

# Messages that have arrived and are not read: who sends more has to wait (HTTP/2's flow control).
UNREAD_MAX: Final = 16


class SyncStreamOpener:
    """The streams of `channel`, with messages as bytes, for the loop it is made on."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()

    def unary_stream(self, method: str, /) -> Callable[[bytes], ReadOnLoop]:
        """Opens a stream of `method` for a request."""

        def open_stream(request: bytes) -> ReadOnLoop:
            multicallable: Any = self._channel.unary_stream(method)
            return ReadOnLoop(multicallable(request), self._loop)

        return open_stream


class ReadOnLoop:
    """A stream that has one reader. `call` is gRPC's own."""

    def __init__(self, call: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._call = call
        self._loop = loop
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._room = threading.Semaphore(UNREAD_MAX)
        self._is_over = False
        threading.Thread(target=self._pull, name="tallystick health", daemon=True).start()

    async def read(self) -> Any:
        """The next message, or grpc.aio.EOF. Raises AioRpcError if the stream has failed."""
        arrived = await self._arrived.get()
        self._room.release()
        if isinstance(arrived, grpc.aio.AioRpcError):
            raise arrived
        return arrived

    def cancel(self) -> None:
        """Ends it, and its thread."""
        self._is_over = True
        self._call.cancel()
        self._room.release()

    def _pull(self) -> None:
        try:
            for message in self._call:
                self._hand_over(message)
            self._hand_over(grpc.aio.EOF)
        except grpc.RpcError as error:
            failed: Any = error
            empty = grpc.aio.Metadata()
            self._hand_over(grpc.aio.AioRpcError(failed.code(), empty, empty, failed.details()))

    def _hand_over(self, arrived: Any) -> None:
        if not self._is_over:
            self._room.acquire()
        post(self._loop, lambda: self._arrived.put_nowait(arrived))
