import asyncio
import random

import pytest

from discovery.backoff import FIRST_BACKOFF_S, MAX_BACKOFF_S, retrying


async def test_waits_are_jittered_and_capped() -> None:
    """Each wait lies between nothing and a bound that doubles up to the cap, for ever."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def fails() -> None:
        raise OSError("away")

    retry = retrying(
        lambda error: isinstance(error, OSError),
        until=lambda: len(waits) >= 2000,
        sleep=sleep,
        rng=random.Random(1),
    )
    with pytest.raises(OSError, match="away"):
        await retry(fails)

    bounds = [min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(n, 30)) for n in range(len(waits))]
    assert all(0 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))
    assert max(waits) > MAX_BACKOFF_S * 0.9
    assert min(waits[10:]) < MAX_BACKOFF_S * 0.1


async def test_other_errors_are_not_retried() -> None:
    """What is not accepted is raised at once."""

    async def fails() -> None:
        raise KeyError("defect")

    retry = retrying(lambda error: isinstance(error, OSError), rng=random.Random(1))

    with pytest.raises(KeyError):
        async with asyncio.timeout(5):
            await retry(fails)
