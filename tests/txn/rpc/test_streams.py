"""What is logged of messages that could not be answered."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from tallystick.txn.v1 import participant_service_pb2

from txn.rpc.streams import StreamTasks

Request = participant_service_pb2.ExchangeRequest


class OneMessage:
    """The server's end of a stream on which one message comes."""

    def __init__(self) -> None:
        self._messages: list[Any] = [Request(), grpc.aio.EOF]

    async def read(self) -> Any:
        """See grpc.aio.ServicerContext.read."""
        return self._messages.pop(0)


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        # What grpc raises when the call is over and its task has not been told yet.
        (grpc.aio.InternalError("Failed grpc_call_start_batch"), 0),
        (grpc.aio.UsageError("the RPC is over"), 0),
        (RuntimeError("what nobody has thought of"), 1),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_nobody_to_answer_is_no_error(
    error: Exception, logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A caller that has died while it was answered is not logged; anything else is."""

    async def answer(_: Request) -> None:
        raise error

    context: Any = OneMessage()
    assert await StreamTasks().serve(context, answer, 1, lambda _: True) is None
    assert logged == len(caplog.records)


async def test_a_stream_that_begins_during_a_drain_is_not_read() -> None:
    """It ends at once, and nothing that was written to it is begun."""
    tasks, answered = StreamTasks(), []

    async def answer(request: Request) -> None:
        answered.append(request)

    await tasks.drain(1.0)
    context: Any = OneMessage()
    assert await tasks.serve(context, answer, 1, lambda _: True) is None
    assert [] == answered
