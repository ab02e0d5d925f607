"""A coordinator's stream of batches to one replica of a participant."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from tallystick.txn.v1 import participant_service_pb2

from txn.errors import Unreachable

if TYPE_CHECKING:
    _Call = grpc.aio.StreamStreamCall[
        participant_service_pb2.ExchangeRequest, participant_service_pb2.ExchangeResponse
    ]

# A stream's deadline; well before it, new batches go on another one.
STREAM_MAX_AGE_S = 3_600.0
RETIRE_AGE_S = 0.9 * STREAM_MAX_AGE_S


class NotOffered(Unreachable):
    """The participant knows no batches: nothing was done."""


class ExchangeStream:
    """Batches go out and answers come in until the stream breaks; then all hear of it."""

    def __init__(self, call: _Call) -> None:
        """Takes over a call that was just started with STREAM_MAX_AGE_S as its timeout."""
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._retire_at_s = self._loop.time() + RETIRE_AGE_S
        self._next_id = 0
        self._waiting: dict[int, asyncio.Future[participant_service_pb2.ExchangeResponse]] = {}
        self._writing = asyncio.Lock()
        self._broken: Unreachable | None = None
        self._reading = asyncio.ensure_future(self._read())

    @property
    def usable(self) -> bool:
        """Whether it takes new batches."""
        return self._broken is None and self._loop.time() < self._retire_at_s

    @property
    def why(self) -> Unreachable:
        """What ended it."""
        return self._broken or Unreachable("STREAM_CLOSED")

    async def ask(
        self, request: participant_service_pb2.ExchangeRequest, timeout_s: float
    ) -> participant_service_pb2.ExchangeResponse:
        """Sends a batch and waits for its answer. Raises Unreachable, and NotOffered.

        A replica that is silent for `timeout_s` may hang: the stream is given up, so that
        the next one can be to another.
        """
        if self._broken is not None:
            raise self.why
        self._next_id += 1
        number = request.batch_id = self._next_id
        answer: asyncio.Future[participant_service_pb2.ExchangeResponse]
        answer = self._waiting[number] = self._loop.create_future()
        try:
            async with asyncio.timeout(timeout_s):
                async with self._writing:
                    await self._call.write(request)
                return await answer
        except TimeoutError:
            self._break(Unreachable("DEADLINE_EXCEEDED"))
            raise Unreachable("DEADLINE_EXCEEDED") from None
        except (grpc.aio.UsageError, asyncio.InvalidStateError, grpc.RpcError) as error:
            # It ended while this was being written; the reader knows how.
            await asyncio.wait({self._reading}, timeout=timeout_s)
            raise self.why from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # gRPC says so of a write whose call has ended, although nobody cancelled this task.
            self._break(Unreachable("CALL_CANCELLED"))
            raise self.why from None
        finally:
            del self._waiting[number]
            if not answer.done():
                answer.cancel()

    async def close(self) -> None:
        """Ends the stream; what waits for an answer is told that none will come."""
        self._break(Unreachable("STREAM_CLOSED"))
        # A read of a cancelled call does not always end by itself.
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def retire(self) -> None:
        """Waits for the answers that are still to come, then closes."""
        waiting = [answer for answer in self._waiting.values() if not answer.done()]
        if waiting:
            await asyncio.wait(waiting)
        await self.close()

    async def _read(self) -> None:
        try:
            while True:
                response: Any = await self._call.read()
                if response is grpc.aio.EOF:
                    break
                if response is None:
                    # That is how gRPC for Python says that it could not be read.
                    self._break(Unreachable("UNREADABLE_REPLY"))
                    return
                answer = self._waiting.get(response.batch_id)
                if answer is not None and not answer.done():
                    answer.set_result(response)
            code = await self._call.code()
        except asyncio.CancelledError:
            # gRPC says so of a call that was cancelled, although nobody cancelled this task.
            self._break(Unreachable("CALL_CANCELLED"))
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return
        except grpc.aio.AioRpcError as error:
            code = error.code()
        except grpc.aio.UsageError:
            code = grpc.StatusCode.UNAVAILABLE
        kind = NotOffered if code is grpc.StatusCode.UNIMPLEMENTED else Unreachable
        self._break(kind(code.name))

    def _break(self, why: Unreachable) -> None:
        if self._broken is not None:
            return
        self._broken = why
        self._call.cancel()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(why)
