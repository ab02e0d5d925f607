"""New endpoints get their share little by little."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from balancer.errors import InvalidConfigError
from balancer.policies import PickFirst, Random, RoundRobin
from balancer.policy import PickInfo, PickResult
from balancer.slow_start import MAX_PICKS, Ramp, SlowStart, SlowStartConfig, SlowStartPicker
from balancer.testing import FakeSubchannel, check_policy
from tests.balancer.policies.simulation import INFO, Clock, context, fakes, shares

CONFIG = SlowStartConfig(window_s=10.0)


@pytest.mark.parametrize("field", ["window_s", "aggression", "min_weight"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_limits_that_cannot_be(field: str, value: float) -> None:
    """The error names the field."""
    with pytest.raises(InvalidConfigError, match=field):
        replace(CONFIG, **{field: value})


def test_a_start_above_the_full_share() -> None:
    """A share of more than all is refused."""
    with pytest.raises(InvalidConfigError, match="min_weight"):
        SlowStartConfig(min_weight=1.1)


@pytest.mark.parametrize(
    ("aggression", "age_s", "expected"),
    [
        (1.0, 0.0, 0.1),
        (1.0, 0.5, 0.1),
        (1.0, 5.0, 0.5),
        (1.0, 10.0, 1.0),
        (1.0, 1e9, 1.0),
        (2.0, 2.5, 0.5),
        (0.5, 5.0, 0.25),
    ],
)
def test_the_ramp_is_envoys(aggression: float, age_s: float, expected: float) -> None:
    """max(min_weight, (age / window) ** (1 / aggression)), and 1 after the window."""
    config = replace(CONFIG, aggression=aggression)
    assert expected == pytest.approx(config.factor(age_s))


@given(st.floats(0.01, 100), st.floats(0.01, 1), st.floats(-1, 20), st.floats(0, 20))
def test_the_ramp_only_rises(
    aggression: float, min_weight: float, age_s: float, later_s: float
) -> None:
    """It lies between min_weight and 1 and never falls."""
    config = SlowStartConfig(window_s=10.0, aggression=aggression, min_weight=min_weight)
    now, later = config.factor(age_s), config.factor(age_s + later_s)
    assert min_weight <= now <= later <= 1.0


def test_a_new_endpoint_gets_less() -> None:
    """Half way through the window it gets half of what the others get."""
    clock, given = Clock(), fakes(1, 1, 1)
    policy = SlowStart(Random(context()), CONFIG, context(clock))
    policy.build(given[:2])
    clock.now = 100.0
    picker = policy.build(given)
    clock.now = 105.0
    spread = shares(picker, 20_000)
    assert spread[given[2]] == pytest.approx(0.2, rel=0.1)
    clock.now = 110.0
    assert shares(picker, 20_000)[given[2]] == pytest.approx(1 / 3, rel=0.1)


def test_round_robin_around_a_new_endpoint() -> None:
    """What the new one does not take is spread over all others."""
    clock, given = Clock(), fakes(1, 1, 1)
    policy = SlowStart(RoundRobin(context()), CONFIG, context(clock))
    policy.build((given[0], given[2]))
    clock.now = 100.0
    spread = shares(policy.build(given), 6000)
    assert spread[given[1]] == pytest.approx(0.1 / 2.1, rel=0.2)
    assert spread[given[0]] == pytest.approx(spread[given[2]], rel=0.05)


def test_where_all_are_new_nobody_is_held_back() -> None:
    """At the start of a channel every pick is accepted."""
    clock, given = Clock(), fakes(1, 1, 1)
    policy = SlowStart(RoundRobin(context()), CONFIG, context(clock))
    spread = shares(policy.build(given), 300)
    assert [1 / 3] * 3 == pytest.approx([spread[each] for each in given])


def test_nothing_is_left_of_it_when_all_are_warm() -> None:
    """With no endpoint warming up, the picker is the policy's own."""
    clock, given = Clock(), fakes(1, 1)
    inner = PickFirst(context())
    policy = SlowStart(inner, CONFIG, context(clock))
    policy.build(given[:1])
    clock.now = 1.0
    assert isinstance(policy.build(given), SlowStartPicker)
    clock.now = 11.0
    assert type(inner.build(given)) is type(policy.build(given))


def test_who_connects_with_the_oldest_is_not_held_back() -> None:
    """A hundredth less is not worth a draw for every call."""
    clock, given = Clock(), fakes(1, 1)
    inner = PickFirst(context())
    policy = SlowStart(inner, CONFIG, context(clock))
    policy.build(given[:1])
    clock.now = 0.01
    assert type(inner.build(given)) is type(policy.build(given))


@given(
    st.floats(0.1, 10), st.floats(0.01, 1), st.floats(0, 10), st.floats(0, 10), st.floats(0.01, 100)
)
def test_the_least_share_is_never_undercut(
    aggression: float, min_weight: float, younger_s: float, age_s: float, window_s: float
) -> None:
    """At no age has the younger one less than that part of the older one's share."""
    config = SlowStartConfig(window_s=window_s, aggression=aggression, min_weight=min_weight)
    share = config.factor(age_s) / config.factor(age_s + younger_s)
    assert share >= config.least_share(younger_s) - 1e-9


def test_the_least_share_is_reached() -> None:
    """When the younger one is no longer held at the start, it is furthest behind."""
    assert 0.5 == pytest.approx(CONFIG.factor(1.0) / CONFIG.factor(2.0))
    assert 0.5 == pytest.approx(CONFIG.least_share(1.0))
    assert 1.0 == CONFIG.least_share(0.0)


def test_a_start_too_small_for_a_number() -> None:
    """With next to nothing at the start, who is younger has next to nothing of the share."""
    config = SlowStartConfig(window_s=1.0, aggression=300.0, min_weight=0.01)
    assert [1.0, 0.0] == [config.least_share(0.0), config.least_share(1e-9)]


def test_a_picker_that_is_not_replaced_stops_drawing() -> None:
    """Once all are warm every pick is accepted without a look at the ramp."""
    clock, (old, new) = Clock(), fakes(1, 1)
    ramp = Ramp(CONFIG, clock)
    ramp.update((old,))
    clock.now = 5.0
    ramp.update((old, new))
    inner = _OneChoice(new)
    picker = SlowStartPicker(inner, (old, new), ramp, context().rng)
    clock.now = 15.0
    for _ in range(100):
        picker.pick(INFO)
    assert 100 == inner.picks
    assert not picker._held_back


def test_who_was_away_starts_anew() -> None:
    """An endpoint that lost its connection warms up again."""
    clock, (one, other) = Clock(), fakes(1, 1)
    ramp = Ramp(CONFIG, clock)
    ramp.update((one, other))
    clock.now = 20.0
    assert 1.0 == ramp.factor(other)
    ramp.update((one,))
    ramp.update((one, other))
    assert CONFIG.min_weight == ramp.factor(other)
    assert 1.0 == ramp.factor(one)


def test_the_unknown_are_not_held_back() -> None:
    """An old picker may ask about an endpoint that is gone."""
    (one, other) = fakes(1, 1)
    ramp = Ramp(CONFIG, Clock())
    ramp.update((one,))
    assert 1.0 == ramp.factor(other)
    assert not ramp.is_warming(other)


class _OneChoice:
    """A picker that has no second choice, and hears what became of its picks."""

    def __init__(self, subchannel: FakeSubchannel) -> None:
        self._subchannel = subchannel
        self.heard: list[StatusCode | None] = []
        self.picks = 0

    def pick(self, info: PickInfo) -> PickResult:
        self.picks += 1
        return PickResult(self._subchannel, self.heard.append)


def test_rejected_picks_are_told_and_bounded() -> None:
    """A rejected pick was never started; the last one stands and is the caller's to end."""
    clock, (old, new) = Clock(), fakes(1, 1)
    ramp = Ramp(replace(CONFIG, min_weight=1e-9), clock)
    ramp.update((old,))
    clock.now = 100.0
    ramp.update((old, new))
    inner = _OneChoice(new)
    result = SlowStartPicker(inner, (old, new), ramp, context().rng).pick(INFO)
    assert new is result.subchannel
    assert MAX_PICKS == inner.picks
    assert [None] * (MAX_PICKS - 1) == inner.heard


def test_the_contract() -> None:
    """A policy that warms endpoints up keeps the contract of the one inside."""
    check_policy(SlowStart(Random(context()), CONFIG, context()))
