"""Clock and backoff."""

from __future__ import annotations

from random import Random

from txn.clock import Backoff, SteadyUtc, SystemClock


def test_backoff_grows_up_to_its_limit() -> None:
    """Waits are within the doubled interval, and never over the limit, however late the retry."""
    backoff = Backoff(initial_s=0.1, max_s=2.0)
    rng = Random(3)
    for attempt, limit_s in [(0, 0.1), (1, 0.2), (3, 0.8), (5, 2.0), (100_000, 2.0)]:
        assert all(0 <= backoff.wait_s(attempt, rng) <= limit_s for _ in range(50))


class _Moved:
    """A wall clock that somebody moves while time passes."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.us = 1_000_000_000

    def monotonic(self) -> float:
        """See Clock."""
        return self.now_s

    def utc_us(self) -> int:
        """See Clock."""
        return self.us

    async def sleep(self, seconds: float) -> None:
        """See Clock."""
        self.now_s += seconds


def test_a_wall_clock_that_is_moved_makes_nothing_old() -> None:
    """What was written while it was set back is as young as it is, once it is right again."""
    clock = _Moved()
    utc = SteadyUtc(clock)
    assert (1_000_000_000, 1_000_000_000) == (utc.written_us(), utc.looked_us())
    clock.now_s += 5.0
    clock.us -= 900_000_000
    assert 1_005_000_000 == utc.written_us()
    assert 100_000_000 == utc.looked_us()
    clock.us += 9_000_000_000
    assert 1_005_000_000 == utc.looked_us()


def test_a_wall_clock_that_was_moved_between_two_starts_is_noticed_where_it_is_behind() -> None:
    """What is written goes on from what was written last, and with the wall clock once that is."""
    clock = _Moved()
    utc = SteadyUtc(clock)
    assert 0.0 == utc.resume(999_000_000)
    assert 1_000_000_000 == utc.written_us()
    assert 500.0 == utc.resume(1_500_000_000)
    clock.now_s += 5.0
    assert 1_505_000_000 == utc.written_us()
    assert 1_000_000_000 == utc.looked_us()
    clock.us = 1_600_000_000
    assert 1_600_000_000 == utc.written_us()
    assert 1_005_000_000 == utc.looked_us()


async def test_system_clock_moves_forward() -> None:
    """Both faces of the system clock advance across a sleep."""
    clock = SystemClock()
    monotonic, utc_us = clock.monotonic(), clock.utc_us()
    await clock.sleep(0.002)
    assert clock.monotonic() > monotonic
    assert clock.utc_us() != utc_us
