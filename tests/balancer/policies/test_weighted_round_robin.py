"""Turns by weight: exact over a round, even at any time."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.policies import WeightedRoundRobin
from balancer.policies.weighted_round_robin import WeightedRoundRobinPicker, golden_step
from balancer.testing import check_policy
from discovery.endpoint import MAX_WEIGHT
from tests.balancer.policies.simulation import INFO, context, fakes, shares

ANY_WEIGHT = st.one_of(st.integers(1, 9), st.integers(1, MAX_WEIGHT))


def test_the_contract() -> None:
    """It keeps the contract of a policy."""
    check_policy(WeightedRoundRobin(context()))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.floats(0, 1, exclude_max=True))
def test_a_round_is_exact(weights: list[int], start: float) -> None:
    """Over as many picks as the weights add up to, each has as many as it weighs."""
    given = fakes(*weights)
    picker = WeightedRoundRobinPicker(given, start=start)
    counts = Counter(picker.pick(INFO).subchannel for _ in range(sum(weights)))
    assert weights == [counts[each] for each in given]


@settings(max_examples=30)
@given(st.lists(ANY_WEIGHT, min_size=1, max_size=30), st.floats(0, 1, exclude_max=True))
def test_it_is_even_at_any_time(weights: list[int], start: float) -> None:
    """After any number of picks nobody is more than 5 picks off: 2 % of 250."""
    given = fakes(*weights)
    picker = WeightedRoundRobinPicker(given, start=start)
    counts: Counter[object] = Counter()
    total = sum(weights)
    for picks in range(1, 1001):
        subchannel = picker.pick(INFO).subchannel
        counts[subchannel] += 1
        due = picks * subchannel.endpoint.weight / total
        assert abs(counts[subchannel] - due) < 5
    for each in given:
        assert abs(counts[each] - 1000 * each.endpoint.weight / total) < 5


@pytest.mark.parametrize("weights", [(1, 2, 3), (5, 1, 1), (100, 1), (999_983, 500_009, 77_777)])
def test_the_spread_follows_the_weights(weights: tuple[int, ...]) -> None:
    """Within 2 % of the weights, also where their sum is far larger than the picks."""
    given = fakes(*weights)
    spread = shares(WeightedRoundRobin(context()).build(given), 20_200)
    for each in given:
        assert spread[each] == pytest.approx(each.endpoint.weight / sum(weights), rel=0.02)


def test_turns_are_not_in_a_row() -> None:
    """Half of the calls go to the heaviest, and never three in a row."""
    given = fakes(4, 2, 1, 1)
    picker = WeightedRoundRobin(context()).build(given)
    picked = [picker.pick(INFO).subchannel is given[0] for _ in range(80)]
    runs = [len(list(run)) for heavy, run in itertools.groupby(picked) if heavy]
    assert max(runs) <= 2


def test_a_first_pick_is_by_weight() -> None:
    """Even if a picker lives for one call, the spread follows the weights."""
    given, policy = fakes(3, 1), WeightedRoundRobin(context())
    firsts = Counter(policy.build(given).pick(INFO).subchannel for _ in range(2000))
    assert 1400 < firsts[given[0]] < 1600


@given(st.integers(1, MAX_WEIGHT * 1024))
def test_a_step_visits_every_slot(slots: int) -> None:
    """Whatever the number of slots, there is a step that is coprime to it."""
    step = golden_step(slots)
    assert math.gcd(step, slots) == 1
    assert 1 <= step <= slots


def test_a_step_for_the_hardest_number() -> None:
    """The number with the longest row of neighbours that share a factor with it."""
    assert math.gcd(golden_step(223_092_870), 223_092_870) == 1
