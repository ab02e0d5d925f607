"""A sync channel picks from several threads at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from grpc import StatusCode

from balancer.policy import Picker, policy_named
from balancer.slow_start import SlowStart, SlowStartConfig
from tests.balancer.policies.simulation import INFO, context, fakes

NAMES = (
    "least_connections",
    "p2c_ewma",
    "pick_first",
    "random",
    "round_robin",
    "weighted_round_robin",
)
THREADS, PICKS = 4, 2000


@pytest.fixture(autouse=True)
def eager_switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def use(picker: Picker) -> list[object]:
    """Picks and ends calls, half of them in failure."""
    picked: list[object] = []
    for turn in range(PICKS):
        result = picker.pick(INFO)
        picked.append(result.subchannel)
        if result.on_done is not None:
            result.on_done(StatusCode.UNAVAILABLE if turn % 2 else StatusCode.OK)
    return picked


def use_in_threads(picker: Picker) -> list[object]:
    """All picks of some threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        return [each for picked in pool.map(use, [picker] * THREADS) for each in picked]


@pytest.mark.parametrize("name", NAMES)
def test_picks_from_threads(name: str) -> None:
    """Nothing is raised, and each pick is one of the given."""
    given = fakes(1, 2, 3)
    picked = use_in_threads(policy_named(name, context()).build(given))
    assert THREADS * PICKS == len(picked)
    assert set(picked) <= set(given)


@pytest.mark.parametrize("name", NAMES)
def test_slow_start_from_threads(name: str) -> None:
    """The same around a policy whose endpoints warm up."""
    given = fakes(1, 2, 3)
    policy = SlowStart(policy_named(name, context()), SlowStartConfig(), context())
    assert set(use_in_threads(policy.build(given))) <= set(given)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("round_robin", [2400] * 3), ("weighted_round_robin", [1200, 2400, 3600])],
)
def test_turns_from_threads(name: str, expected: list[int]) -> None:
    """No turn is lost or taken twice: the counts stay exact."""
    given = fakes(1, 2, 3)
    picker = policy_named(name, context()).build(given)
    with ThreadPoolExecutor(THREADS) as pool:
        picked = list(pool.map(lambda _: picker.pick(INFO).subchannel, range(7200)))
    assert expected == [picked.count(each) for each in given]
