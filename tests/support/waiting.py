"""Waits on conditions, with a deadline and never for a fixed time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

import grpc

WAIT_S = 10.0
POLL_S = 0.005
POLL_MAX_S = 0.05
# Of what was waited for already: looks are seldom where a little more makes no difference.
_POLL_SHARE = 0.01


async def eventually(
    condition: Callable[[], object | Awaitable[object]],
    timeout_s: float = WAIT_S,
    *,
    what: str = "the condition",
) -> None:
    """Returns when `condition()` is true and does not raise; fails after `timeout_s`, for good.

    The condition may be a coroutine function; one that is still busy at the deadline has
    not come true in time either.
    """
    reason: object = "it was not true"
    started = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    value = condition()
                    if inspect.isawaitable(value):
                        value = await value
                    if value:
                        return
                except (AssertionError, grpc.aio.AioRpcError) as error:
                    reason = error
                waited_s = time.monotonic() - started
                await asyncio.sleep(min(POLL_MAX_S, max(POLL_S, _POLL_SHARE * waited_s)))
    except TimeoutError:
        raise AssertionError(f"{what} did not hold within {timeout_s:g} s: {reason}") from None
