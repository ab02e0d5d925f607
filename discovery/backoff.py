"""How often to try again: full jitter, so that a fleet does not come back in step.

After AWS's "Exponential Backoff And Jitter": each wait is drawn evenly between nothing
and a bound that doubles up to a cap. tenacity has this too, but on the global random
generator; ours takes one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import tenacity

FIRST_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 2.0
# Beyond this many doublings every cap is reached; 2**attempt would overflow a float.
_MAX_DOUBLINGS = 30

Sleep = Callable[[float], Awaitable[None]]
Clock = Callable[[], float]


def backoff_s(failures: int, rng: random.Random, max_backoff_s: float = MAX_BACKOFF_S) -> float:
    """How long to wait after so many failures in a row, at least one."""
    doublings = min(failures - 1, _MAX_DOUBLINGS)
    return rng.uniform(0, min(max_backoff_s, FIRST_BACKOFF_S * 2**doublings))


def retrying(
    on: Callable[[BaseException], bool],
    *,
    until: Callable[[], bool] = lambda: False,
    max_backoff_s: float = MAX_BACKOFF_S,
    sleep: Sleep = asyncio.sleep,
    rng: random.Random,
) -> tenacity.AsyncRetrying:
    """Tries again after each error that `on` accepts, unless `until` says to stop.

    The last error is raised as it is.
    """

    def wait(attempt: tenacity.RetryCallState) -> float:
        return backoff_s(attempt.attempt_number, rng, max_backoff_s)

    def stop(_: tenacity.RetryCallState) -> bool:
        return until()

    options: dict[str, Any] = {"sleep": sleep, "wait": wait, "stop": stop}
    return tenacity.AsyncRetrying(retry=tenacity.retry_if_exception(on), reraise=True, **options)
