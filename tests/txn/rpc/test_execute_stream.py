"""A caller's stream of requests, to something that reads and answers when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from tallystick.txn.v1 import coordinator_service_pb2 as pb
from tallystick.txn.v1 import coordinator_service_pb2_grpc

from tests.support.waiting import eventually
from tests.txn.helpers import turns
from tests.txn.rpc.rig import TIMEOUT_S, served
from txn.errors import Unreachable
from txn.rpc import OPERATION_SIZE_MAX_BYTES
from txn.rpc.execute_stream import MESSAGE_SIZE_BYTES, ExecuteStream


class Reader(coordinator_service_pb2_grpc.CoordinatorServiceServicer):
    """Answers all that it reads, and reads nothing before its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.messages: list[pb.ExecuteStreamRequest] = []

    @property
    def keys(self) -> list[str]:
        """Of the requests that were read."""
        return [each.request.idempotency_key for one in self.messages for each in one.requests]

    async def ExecuteStream(  # type: ignore[override] # noqa: N802
        self, request_iterator: object, context: Any
    ) -> None:
        """See the proto."""
        await self.gate.wait()
        while (message := await context.read()) is not grpc.aio.EOF:
            self.messages.append(message)
            answers = [pb.NumberedExecuteResponse(number=each.number) for each in message.requests]
            await context.write(pb.ExecuteStreamResponse(responses=answers))

    def add(self, server: grpc.aio.Server) -> None:
        """Adds itself."""
        coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(self, server)


@asynccontextmanager
async def reading() -> AsyncIterator[tuple[Reader, ExecuteStream]]:
    """A stream, and its other end."""
    reader = Reader()  # type: ignore[abstract]
    async with served(reader.add) as channel:
        stub: coordinator_service_pb2_grpc.CoordinatorServiceAsyncStub = (
            coordinator_service_pb2_grpc.CoordinatorServiceStub(channel)
        )
        stream = ExecuteStream(stub.ExecuteStream(timeout=TIMEOUT_S))
        try:
            yield reader, stream
        finally:
            await stream.close()


def request(key: str, size: int = 0) -> pb.ExecuteRequest:
    """A request of about that many bytes."""
    made = pb.ExecuteRequest(idempotency_key=key)
    made.branches.add(branch_id="a", participant="p").operation.value = b"x" * size
    return made


async def test_who_holds_on_to_a_stream_that_has_ended_is_told_at_once() -> None:
    """Nobody reads it any more: an answer would be waited for in vain."""
    async with reading() as (_, stream):
        await stream.close()
        with pytest.raises(Unreachable, match="STREAM_CLOSED"):
            await stream.ask(request("a"))


async def test_large_requests_fit_into_the_messages_that_carry_them() -> None:
    """What is too much for one message goes in the next; each is as full as it may be."""
    async with reading() as (reader, stream):
        reader.gate.set()
        keys = [f"k{number}" for number in range(60)]
        size = OPERATION_SIZE_MAX_BYTES
        await asyncio.gather(*(stream.ask(request(key, size)) for key in keys))
    sizes = [message.ByteSize() for message in reader.messages]
    assert keys == reader.keys
    assert max(sizes) < MESSAGE_SIZE_BYTES + 2 * size
    assert min(sizes[:-1]) >= MESSAGE_SIZE_BYTES


async def test_what_nobody_wants_any_more_is_not_sent_and_not_waited_for() -> None:
    """Who gives up before it was written has begun nothing, and the stream is not silent for it."""
    async with reading() as (reader, stream):
        size = OPERATION_SIZE_MAX_BYTES
        wanted = [f"k{number}" for number in range(200)]
        asking = [asyncio.ensure_future(stream.ask(request(key, size))) for key in wanted]
        # Nothing is read, so that not all of it goes out.
        await turns(200)
        unwanted = asyncio.ensure_future(stream.ask(request("unwanted")))
        await turns()
        unwanted.cancel()
        await asyncio.gather(unwanted, return_exceptions=True)
        reader.gate.set()
        await asyncio.gather(*asking)
        assert wanted == reader.keys
        assert (None, True) == (stream._silent_since_s, stream.usable)


async def test_closing_tells_who_is_still_writing() -> None:
    """To a write of a call that somebody else has ended gRPC for Python says CancelledError."""
    async with reading() as (_, stream):
        asking = [
            asyncio.ensure_future(stream.ask(request(f"k{number}", OPERATION_SIZE_MAX_BYTES)))
            for number in range(200)
        ]
        await turns(200)
        await stream.close()
        for each in asking:
            with pytest.raises(Unreachable, match="STREAM_CLOSED"):
                await each
        await eventually(stream._writing.done)
