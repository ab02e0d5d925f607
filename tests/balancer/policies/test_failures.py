"""A failure makes an endpoint look busy, for a while."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from balancer.policies.failures import DECAY_S, FAULTS, GROWTH, MAX_FACTOR, Failures
from tests.balancer.policies.simulation import Clock


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_counts(code: StatusCode) -> None:
    """Each code by which a server speaks of itself multiplies the load."""
    failures = Failures(Clock())
    failures.ended(code)
    assert GROWTH == failures.factor()


@pytest.mark.parametrize("code", [StatusCode.OK, StatusCode.NOT_FOUND, StatusCode.ABORTED])
def test_an_answer_halves(code: StatusCode) -> None:
    """An answer, whatever it says, takes back half, and never more than there was."""
    failures = Failures(Clock())
    failures.ended(StatusCode.UNAVAILABLE)
    factors = []
    for _ in range(3):
        failures.ended(code)
        factors.append(failures.factor())
    assert [2.0, 1.0, 1.0] == factors


@pytest.mark.parametrize("code", [None, StatusCode.CANCELLED, StatusCode.DEADLINE_EXCEEDED])
def test_a_call_without_end_says_nothing(code: StatusCode | None) -> None:
    """A call that was never started or that its caller left changes nothing."""
    failures = Failures(Clock())
    failures.ended(code)
    assert 1.0 == failures.factor()
    failures.ended(StatusCode.UNAVAILABLE)
    failures.ended(code)
    assert GROWTH == failures.factor()


def test_time_heals() -> None:
    """Without news, what a fault added fades with the time constant."""
    clock = Clock()
    failures = Failures(clock)
    failures.ended(StatusCode.RESOURCE_EXHAUSTED)
    clock.now = DECAY_S
    assert 1 + (GROWTH - 1) / 2.718281828 == pytest.approx(failures.factor())
    clock.now = 100 * DECAY_S
    assert pytest.approx(1.0) == failures.factor()


def test_there_is_a_limit() -> None:
    """However many calls fail, the factor has an end."""
    failures = Failures(Clock())
    for _ in range(5000):
        failures.ended(StatusCode.UNAVAILABLE)
    assert MAX_FACTOR == failures.factor()
