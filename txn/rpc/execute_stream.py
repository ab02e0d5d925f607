"""A caller's stream of requests to a coordinator: many in flight, answered in any order."""

from __future__ import annotations

import asyncio
from collections import deque

import grpc
from tallystick.txn.v1 import coordinator_service_pb2 as pb

from txn.rpc.numbered_stream import NumberedStream

# A message is closed once it holds so much; the last request is taken whole.
MESSAGE_REQUESTS_MAX = 64
MESSAGE_SIZE_BYTES = 1024 * 1024
# Who gives up on a stream that was silent for so long keeps others from using it.
SILENT_MAX_S = 5.0


class ExecuteStream(
    NumberedStream[pb.ExecuteStreamRequest, pb.ExecuteStreamResponse, pb.NumberedExecuteResponse]
):
    """Requests of one turn of the loop leave in one message; a break tells all who wait."""

    def __init__(
        self, call: grpc.aio.StreamStreamCall[pb.ExecuteStreamRequest, pb.ExecuteStreamResponse]
    ) -> None:
        """See NumberedStream."""
        super().__init__(call)
        # Since when nothing was heard although something is waited for.
        self._silent_since_s: float | None = None
        # What was sent and not answered, whether or not somebody still waits for it.
        self._unanswered: set[int] = set()
        self._next_number = 0
        self._queue: deque[pb.NumberedExecuteRequest] = deque()
        self._queued = asyncio.Event()
        self._writing = asyncio.ensure_future(self._write())
        # Of a stream that has ended nothing is left, whether or not somebody closes it.
        self._reading.add_done_callback(lambda _: self._writing.cancel())

    async def ask(self, request: pb.ExecuteRequest) -> pb.NumberedExecuteResponse:
        """Sends a request and waits, without end, for its answer.

        Raises Unreachable when the stream breaks, and NotOffered where there is none.
        """
        if self._broken is not None:
            raise self._broken
        self._next_number += 1
        number = self._next_number
        if not self._unanswered:
            self._silent_since_s = self._loop.time()
        self._unanswered.add(number)
        answer: asyncio.Future[pb.NumberedExecuteResponse] = self._loop.create_future()
        self._waiting[number] = answer
        self._queue.append(pb.NumberedExecuteRequest(number=number, request=request))
        self._queued.set()
        try:
            return await answer
        except asyncio.CancelledError:
            # Callers come and go; their patience adds up.
            since_s = self._silent_since_s
            if since_s is not None and self._loop.time() - since_s >= SILENT_MAX_S:
                self._retire_at_s = 0.0
            # Nobody wants it any more, should it still wait to be sent.
            unsent = len(self._queue)
            self._queue = deque(each for each in self._queue if each.number != number)
            if len(self._queue) < unsent:
                self._unanswered.discard(number)
            raise
        finally:
            del self._waiting[number]

    async def close(self) -> None:
        """See NumberedStream.close."""
        await super().close()
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)

    async def _write(self) -> None:
        try:
            while True:
                await self._queued.wait()
                self._queued.clear()
                while self._queue:
                    await self._call.write(self._message())
        except (grpc.aio.UsageError, asyncio.InvalidStateError, grpc.RpcError):
            # The call has ended; the reader knows how.
            return
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise

    def _message(self) -> pb.ExecuteStreamRequest:
        message, size = pb.ExecuteStreamRequest(), 0
        while self._queue and len(message.requests) < MESSAGE_REQUESTS_MAX:
            each = self._queue.popleft()
            size += each.ByteSize()
            message.requests.append(each)
            if size >= MESSAGE_SIZE_BYTES:
                break
        return message

    def _deliver(self, response: pb.ExecuteStreamResponse) -> None:
        self._unanswered.difference_update(each.number for each in response.responses)
        self._silent_since_s = self._loop.time() if self._unanswered else None
        for each in response.responses:
            self._answer(each.number, each)
