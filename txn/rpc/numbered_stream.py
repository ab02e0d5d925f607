"""What streams have in common whose answers come in any order: who waits, and how they end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import grpc

from txn.errors import Unreachable

# A stream's deadline; well before it, what is new goes on another one.
STREAM_MAX_AGE_S = 3_600.0
RETIRE_AGE_S = 0.9 * STREAM_MAX_AGE_S

Req = TypeVar("Req")
Res = TypeVar("Res")
Answer = TypeVar("Answer")


class NotOffered(Unreachable):
    """The other side knows no such stream: nothing was done."""


class NumberedStream(ABC, Generic[Req, Res, Answer]):
    """A client's stream until it breaks; then all who wait for an answer hear of it."""

    def __init__(self, call: grpc.aio.StreamStreamCall[Req, Res]) -> None:
        """Takes over a call that was just started with STREAM_MAX_AGE_S as its timeout."""
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._retire_at_s = self._loop.time() + RETIRE_AGE_S
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._broken: Unreachable | None = None
        self._reading = asyncio.ensure_future(self._read())

    @property
    def usable(self) -> bool:
        """Whether it takes anything new."""
        return self._broken is None and self._loop.time() < self._retire_at_s

    async def retire(self) -> None:
        """Waits for the answers that are still to come, then closes."""
        while waiting := [answer for answer in self._waiting.values() if not answer.done()]:
            await asyncio.wait(waiting)
        await self.close()

    async def close(self) -> None:
        """Ends the stream; what waits for an answer is told that none will come."""
        self._break(Unreachable("STREAM_CLOSED"))
        # A read of a cancelled call does not always end by itself.
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    @abstractmethod
    def _deliver(self, response: Res) -> None:
        """Something was answered."""

    def _answer(self, number: int, with_: Answer) -> None:
        answer = self._waiting.get(number)
        if answer is not None and not answer.done():
            answer.set_result(with_)

    async def _read(self) -> None:
        try:
            why = await self._end()
        except asyncio.CancelledError:
            self._break(Unreachable("CALL_CANCELLED"))
            raise
        self._break(why)

    async def _end(self) -> Unreachable:
        """Delivers answers until the stream ends; returns why it did."""
        try:
            while True:
                response: Any = await self._call.read()
                if response is grpc.aio.EOF:
                    break
                if response is None:
                    # That is how gRPC for Python says that it could not be read.
                    return Unreachable("UNREADABLE_REPLY")
                self._deliver(response)
            code = await self._call.code()
        except asyncio.CancelledError:
            # gRPC says so of a call that was cancelled, although nobody cancelled this task.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return Unreachable("CALL_CANCELLED")
        except grpc.aio.AioRpcError as error:
            code = error.code()
        except grpc.aio.UsageError:
            code = grpc.StatusCode.UNAVAILABLE
        kind = NotOffered if code is grpc.StatusCode.UNIMPLEMENTED else Unreachable
        return kind(code.name)

    def _break(self, why: Unreachable) -> None:
        if self._broken is not None:
            return
        self._broken = why
        self._call.cancel()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(why)
                # Who is still writing hears of it from the write, and asks no answer.
                answer.exception()


class Retiring:
    """Streams that were left for others, and end when all that they owe is answered."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, stream: NumberedStream[Any, Any, Any]) -> None:
        """Nobody asks anything on it any more."""
        task = asyncio.ensure_future(stream.retire())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def ended(self) -> None:
        """Waits until the last one has."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
