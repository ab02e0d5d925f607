"""How the shipped policies spread calls."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from balancer.policies import Random, RoundRobin
from balancer.policy import Picker, PickInfo, PolicyContext, Subchannel
from balancer.testing import FakeSubchannel
from discovery.endpoint import Endpoint

INFO = PickInfo("/pkg.Service/Method", (), b"")


def subchannels(count: int) -> tuple[Subchannel, ...]:
    """As many as asked for."""
    return tuple(FakeSubchannel(Endpoint(f"10.0.0.{index}:1")) for index in range(count))


def spread(picker: Picker, picks: int) -> list[int]:
    """How often each was picked, the rarest first."""
    return sorted(Counter(picker.pick(INFO).subchannel for _ in range(picks)).values())


@pytest.mark.parametrize(
    ("count", "picks", "expected"),
    [(1, 5, [5]), (3, 9, [3, 3, 3]), (3, 10, [3, 3, 4]), (4, 2, [1, 1])],
)
def test_round_robin_is_exact(count: int, picks: int, expected: list[int]) -> None:
    """The counts differ by at most 1, after any number of picks."""
    picker = RoundRobin(PolicyContext(rng=random.Random(3))).build(subchannels(count))
    assert expected == spread(picker, picks)


def test_round_robin_keeps_the_order() -> None:
    """The turns follow the order of the subchannels."""
    given = subchannels(3)
    picker = RoundRobin(PolicyContext(rng=random.Random(3))).build(given)
    first, second, third, again = (picker.pick(INFO).subchannel for _ in range(4))
    start = given.index(first)
    assert (*given[start:], *given[:start]) == (first, second, third)
    assert first is again


def test_round_robin_starts_anywhere() -> None:
    """Many clients do not all send their first call to the same endpoint."""
    given = subchannels(4)
    firsts = {
        RoundRobin(PolicyContext(rng=random.Random(seed))).build(given).pick(INFO)[0]
        for seed in range(50)
    }
    assert set(given) == firsts


def test_random_is_even() -> None:
    """Over many picks each has about its share."""
    picker = Random(PolicyContext(rng=random.Random(3))).build(subchannels(4))
    assert all(900 < count < 1100 for count in spread(picker, 4000))


def test_random_is_reproducible() -> None:
    """The same seed makes the same choices."""
    given = subchannels(5)
    one, two = (Random(PolicyContext(rng=random.Random(11))).build(given) for _ in range(2))
    assert [one.pick(INFO) for _ in range(20)] == [two.pick(INFO) for _ in range(20)]
