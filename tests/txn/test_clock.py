"""Clock and backoff."""

from __future__ import annotations

from random import Random

from txn.clock import Backoff, SystemClock


def test_backoff_grows_up_to_its_limit() -> None:
    """Waits are within the doubled interval, and never over the limit, however late the retry."""
    backoff = Backoff(initial_s=0.1, max_s=2.0)
    rng = Random(3)
    for attempt, limit_s in [(0, 0.1), (1, 0.2), (3, 0.8), (5, 2.0), (100_000, 2.0)]:
        assert all(0 <= backoff.wait_s(attempt, rng) <= limit_s for _ in range(50))


async def test_system_clock_moves_forward() -> None:
    """Both faces of the system clock advance across a sleep."""
    clock = SystemClock()
    monotonic, utc_us = clock.monotonic(), clock.utc_us()
    await clock.sleep(0.002)
    assert clock.monotonic() > monotonic
    assert clock.utc_us() != utc_us
