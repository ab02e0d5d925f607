"""One call as one attempt: a status came, a reply came, or nobody knows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from txn.errors import Unreachable

T = TypeVar("T")


async def attempt(start: Callable[[], Awaitable[T | None]]) -> T:
    """The reply of the call that `start` makes. Raises AioRpcError for a status.

    Raises Unreachable where gRPC for Python says it in other ways: a closed channel raises
    UsageError for a new call and CancelledError for one in flight, although nobody
    cancelled the task that waits, and a reply that cannot be read is None.
    """
    try:
        reply = await start()
    except grpc.aio.UsageError as error:
        raise Unreachable("CHANNEL_CLOSED") from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Unreachable("CALL_CANCELLED") from None
    if reply is None:
        raise Unreachable("UNREADABLE_REPLY")
    return reply
