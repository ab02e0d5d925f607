"""What one call may come to, as gRPC for Python says it."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

from tests.txn.helpers import turns
from txn.errors import Unreachable
from txn.rpc.attempt import attempt


async def test_a_reply_is_a_reply() -> None:
    """Nothing is made of it."""

    async def start() -> str:
        return "reply"

    assert "reply" == await attempt(start)


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (grpc.aio.UsageError("Channel is closed."), "CHANNEL_CLOSED"),
        (asyncio.CancelledError(), "CALL_CANCELLED"),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_a_channel_that_is_closed_is_no_answer(raised: BaseException, told: str) -> None:
    """Whichever way it is said: nobody has cancelled the task, which goes on."""

    async def start() -> str:
        raise raised

    with pytest.raises(Unreachable, match=told):
        await attempt(start)


async def test_what_cannot_be_read_is_no_answer() -> None:
    """GRPC gives None in its place."""

    async def start() -> str | None:
        return None

    with pytest.raises(Unreachable, match="UNREADABLE_REPLY"):
        await attempt(start)


async def test_a_task_that_is_cancelled_stays_cancelled() -> None:
    """Who gives up is not told that the other side was unreachable."""
    asking = asyncio.ensure_future(attempt(asyncio.Event().wait))
    await turns()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert asking.cancelled()
