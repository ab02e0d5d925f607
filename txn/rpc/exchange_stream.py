"""A coordinator's stream of batches to one replica of a participant."""

from __future__ import annotations

import asyncio

import grpc
from tallystick.txn.v1 import participant_service_pb2

from txn.errors import Unreachable
from txn.rpc.numbered_stream import NumberedStream


class ExchangeStream(
    NumberedStream[
        participant_service_pb2.ExchangeRequest,
        participant_service_pb2.ExchangeResponse,
        participant_service_pb2.ExchangeResponse,
    ]
):
    """Batches go out and answers come in until the stream breaks; then all hear of it."""

    def __init__(
        self,
        call: grpc.aio.StreamStreamCall[
            participant_service_pb2.ExchangeRequest, participant_service_pb2.ExchangeResponse
        ],
    ) -> None:
        """See NumberedStream."""
        super().__init__(call)
        self._next_id = 0
        # Whether the replica has said that it knows one phase.
        self.one_phase = False
        self._turn = asyncio.Lock()
        self._written: asyncio.Future[None] | None = None

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
                await self._write(request)
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
        """See NumberedStream. What was being written ends, too."""
        await super().close()
        await asyncio.gather(*filter(None, (self._written,)), return_exceptions=True)

    async def _write(self, request: participant_service_pb2.ExchangeRequest) -> None:
        """One that was begun goes on without who asked for it, and no other.

        With a write that is cancelled gRPC would cancel the call of all.
        """
        await self._turn.acquire()
        if self._broken is not None:
            self._turn.release()
            raise self.why
        self._written = asyncio.ensure_future(self._call.write(request))
        self._written.add_done_callback(self._end_turn)
        await asyncio.shield(self._written)

    def _end_turn(self, written: asyncio.Future[None]) -> None:
        self._written = None
        self._turn.release()
        if not written.cancelled():
            # Nobody may wait for it any more.
            written.exception()

    def _break(self, why: Unreachable) -> None:
        super()._break(why)
        if self._written is not None:
            # One to a call that has ended does not always end by itself.
            self._written.cancel()

    def _deliver(self, response: participant_service_pb2.ExchangeResponse) -> None:
        self.one_phase = response.one_phase
        self._answer(response.batch_id, response)
