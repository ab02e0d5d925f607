"""Waits for a condition that is looked at again and again, as processes tell nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LOOK_S = 0.1


async def until(condition: Callable[[], object], timeout_s: float | None = None) -> bool:
    """Returns once it holds, or when the time is over; whether it holds."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - nobody sets an event
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        return False
    return True
