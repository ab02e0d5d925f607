"""The less busy of two."""

from __future__ import annotations

import pytest

from balancer.policies import LeastConnections
from balancer.testing import FakeSubchannel, check_policy
from tests.balancer.policies.simulation import (
    INFO,
    Clock,
    backends,
    context,
    fakes,
    shares,
    simulate,
)


def pick(policy: LeastConnections, given: tuple[FakeSubchannel, ...]) -> FakeSubchannel:
    """The next pick, which then is in flight for ever."""
    subchannel = policy.build(given).pick(INFO).subchannel
    assert isinstance(subchannel, FakeSubchannel)
    subchannel.in_flight += 1
    return subchannel


def test_the_contract() -> None:
    """It keeps the contract of a policy."""
    check_policy(LeastConnections(context()))


def test_of_two_the_less_busy() -> None:
    """With two subchannels it is always the one with fewer calls."""
    busy, free = given = fakes(1, 1)
    busy.in_flight = 3
    assert {free: 1.0} == shares(LeastConnections(context()).build(given), 100)


def test_the_busiest_gets_nothing() -> None:
    """Two different ones are drawn, so that the busiest of any number always loses."""
    given = fakes(1, 1, 1, 1)
    given[2].in_flight = 1
    assert given[2] not in shares(LeastConnections(context()).build(given), 500)


def test_calls_in_flight_follow_the_weights() -> None:
    """Where calls do not end, each has its part of them, within 2 %."""
    given, policy = fakes(3, 1, 2), LeastConnections(context())
    for _ in range(1200):
        pick(policy, given)
    assert [each.in_flight for each in given] == pytest.approx([600, 200, 400], rel=0.02)


def test_idle_endpoints_get_their_shares() -> None:
    """One call at a time: nobody is busy, and the shares are those of the weights."""
    given = fakes(3, 1)
    spread = shares(LeastConnections(context()).build(given), 4000)
    assert spread[given[0]] == pytest.approx(0.75, abs=0.03)


def test_who_was_away_starts_anew() -> None:
    """The calls that died with a connection are not held against the next one."""
    clock, given = Clock(), backends(0.05, 0.05)
    given[0].failing = 1.0
    policy = LeastConnections(context(clock))
    simulate(policy.build(given), clock, calls=200, per_s=100)
    policy.build(given[1:])
    assert 0.4 < shares(policy.build(given), 1000)[given[0]] < 0.6


def test_calls_in_flight_are_even() -> None:
    """Two choices leave no endpoint far above the others."""
    given, policy = fakes(*[1] * 50), LeastConnections(context())
    for _ in range(1000):
        pick(policy, given)
    assert max(each.in_flight for each in given) <= 23


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("per_s", [20, 2000])
def test_failing_at_once_attracts_nothing(count: int, per_s: float) -> None:
    """A backend that refuses in a millisecond gets a tenth of its even share at most."""
    clock, given = Clock(), backends(*[0.05] * count)
    given[0].failing = 1.0
    picker = LeastConnections(context(clock)).build(given)
    outcome = simulate(picker, clock, calls=3000, per_s=per_s)
    assert 0 < outcome.calls[given[0]] < 3000 / count / 10


@pytest.mark.parametrize("failing", [0.1, 0.25, 0.5])
def test_failing_at_times_attracts_nothing(failing: float) -> None:
    """Nor does a backend that refuses some calls at once get more than the others."""
    clock, given = Clock(), backends(*[0.5] * 4)
    given[0].failing = failing
    picker = LeastConnections(context(clock)).build(given)
    outcome = simulate(picker, clock, calls=5000, per_s=200)
    assert outcome.calls[given[0]] < 5000 / 4 * 1.05


def test_a_repaired_backend_is_found() -> None:
    """It gets its share again, some time after it stopped to fail."""
    clock, given = Clock(), backends(0.05, 0.05)
    picker = LeastConnections(context(clock)).build(given)
    given[0].failing = 1.0
    simulate(picker, clock, calls=1000, per_s=100)
    given[0].failing = 0.0
    simulate(picker, clock, calls=8000, per_s=100)
    outcome = simulate(picker, clock, calls=2000, per_s=100)
    assert outcome.calls[given[0]] == pytest.approx(1000, rel=0.1)


def test_what_failed_is_remembered() -> None:
    """A rebuilt picker knows what the old one learnt."""
    clock, given = Clock(), backends(0.05, 0.05)
    given[0].failing = 1.0
    policy = LeastConnections(context(clock))
    simulate(policy.build(given), clock, calls=200, per_s=100)
    assert {given[1]: 1.0} == shares(policy.build(given), 100)
