"""A server's end of streams whose messages are answered in any order, many at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from txn.errors import FieldViolation
from txn.rpc.status import violations_of

M = TypeVar("M", bound=Message)

MALFORMED = FieldViolation("", "malformed", "is not a readable message of its type")

_log = logging.getLogger(__name__)


class StreamTasks:
    """The streams of one service: each is read, its messages answered by tasks of their own."""

    def __init__(self) -> None:
        self._draining = False
        self._reading: set[asyncio.Task[Any]] = set()
        self._open: set[asyncio.Task[Any]] = set()

    async def drain(self, grace_s: float) -> None:
        """Stops reading, waits for what is being answered, and ends the streams."""
        self._draining = True
        for task in tuple(self._reading):
            task.cancel()
        if self._open:
            await asyncio.wait(self._open, timeout=grace_s)

    async def serve(
        self,
        context: grpc.aio.ServicerContext[M, Any],
        answer: Callable[[M], Awaitable[None]],
        at_once_max: int,
        surely_valid: Callable[[M], bool],
    ) -> Sequence[FieldViolation] | None:
        """Hands each message to `answer`, up to `at_once_max` at once; then reads no further.

        Returns when the other side, or a drain, has ended the stream and all is answered.
        Returns the violations of the first message that breaks a rule of its proto, unless
        it is `surely_valid`.
        """
        stream = _Stream(context, answer, at_once_max, surely_valid)
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        reading = asyncio.ensure_future(stream.read())
        self._reading.add(reading)
        if self._draining:
            reading.cancel()
        try:
            await asyncio.wait({reading})
        except asyncio.CancelledError:
            # The caller is gone: there is nobody to answer.
            stream.abandon()
            raise
        finally:
            reading.cancel()
            self._reading.discard(reading)
            await stream.answered()
            self._open.discard(task)
        return None if reading.cancelled() else reading.result()


class _Stream(Generic[M]):
    """One stream of them."""

    def __init__(
        self,
        context: grpc.aio.ServicerContext[M, Any],
        answer: Callable[[M], Awaitable[None]],
        at_once_max: int,
        surely_valid: Callable[[M], bool],
    ) -> None:
        self._context = context
        self._answer = answer
        self._places = asyncio.Semaphore(at_once_max)
        self._surely_valid = surely_valid
        self._answering: set[asyncio.Task[None]] = set()

    async def read(self) -> Sequence[FieldViolation] | None:
        """Reads until the end, or the first message that breaks a rule."""
        while True:
            await self._places.acquire()
            try:
                request: Any = await self._context.read()
            except DecodeError:
                return [MALFORMED]
            if request is grpc.aio.EOF:
                return None
            if not self._surely_valid(request) and (bad := violations_of(request)):
                return bad
            task = asyncio.ensure_future(self._one(request))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def answered(self) -> None:
        """Waits for the answers that are under way."""
        if self._answering:
            await asyncio.wait(self._answering)

    def abandon(self) -> None:
        """Answers nothing any more."""
        for task in self._answering:
            task.cancel()

    async def _one(self, request: M) -> None:
        try:
            await self._answer(request)
        except (asyncio.CancelledError, grpc.RpcError, grpc.aio.BaseError):
            # The stream has ended meanwhile: there is nobody to tell.
            pass
        except Exception:  # noqa: BLE001 - who asked hears nothing and asks again
            _log.exception("a message of a stream was not answered")
        finally:
            self._places.release()
