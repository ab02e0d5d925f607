"""Outlier ejection as gRFC A50 has it."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from balancer.errors import InvalidConfigError
from balancer.outlier import (
    FailurePercentageEjection,
    OutlierConfig,
    OutlierDetector,
    SuccessRateEjection,
    Sweep,
    verdict,
)

Outcomes = Mapping[str, tuple[int, int]]
"""By address: successes and failures."""


def names(count: int) -> list[str]:
    """That many addresses, ordered."""
    return [f"10.0.0.{index:03}:1" for index in range(count)]


def detector(seed: int = 1, **config: Any) -> OutlierDetector:
    """A detector with A50's defaults but for `config`."""
    return OutlierDetector(OutlierConfig(**config), random.Random(seed))


def observe(watched: OutlierDetector, outcomes: Outcomes) -> None:
    """Records these outcomes."""
    for address, (successes, failures) in outcomes.items():
        for turn in range(successes + failures):
            watched.record(address, turn < successes)


def swept(watched: OutlierDetector, outcomes: Outcomes, now_s: float = 0.0) -> Sweep:
    """The sweep after these outcomes, over their addresses."""
    observe(watched, outcomes)
    return watched.sweep(tuple(outcomes), now_s)


def all_well_but(bad: Sequence[str], count: int, failures: int = 100) -> dict[str, tuple[int, int]]:
    """`count` addresses with 100 successes each, but those in `bad` have `failures` of 100."""
    return {each: (100 - failures, failures) if each in bad else (100, 0) for each in names(count)}


@pytest.mark.parametrize("algorithm", ["success_rate", "failure_percentage"])
def test_who_fails_is_ejected(algorithm: str) -> None:
    """Each algorithm alone ejects the one that fails all its calls, and says why."""
    off: dict[str, Any] = {"success_rate": None, "failure_percentage": None}
    del off[algorithm]
    bad = names(5)[3]
    sweep = swept(detector(**off), all_well_but([bad], 5))
    assert frozenset([bad]) == sweep.ejected
    assert "of 100 calls" in sweep.newly_ejected[bad]
    assert frozenset() == sweep.returned


def test_without_algorithms_nobody_is_ejected() -> None:
    """With both off the detector is, and says so."""
    config = OutlierConfig(success_rate=None, failure_percentage=None)
    assert (True, False) == (OutlierConfig().is_on, config.is_on)
    watched = OutlierDetector(config, random.Random(1))
    assert frozenset() == swept(watched, all_well_but(names(3), 5)).ejected


@pytest.mark.parametrize(
    ("hosts", "volume", "expected"), [(5, 100, 1), (4, 100, 0), (5, 99, 0)], ids=str
)
def test_success_rate_needs_hosts_with_volume(hosts: int, volume: int, expected: int) -> None:
    """Five addresses must have 100 calls each, else nobody is compared."""
    outcomes = dict.fromkeys(names(hosts), (volume, 0)) | {names(1)[0]: (0, volume)}
    assert expected == len(swept(detector(failure_percentage=None), outcomes).ejected)


def test_success_rate_ignores_who_has_little_volume() -> None:
    """An address with few calls is neither judged nor part of the mean."""
    outcomes = dict.fromkeys(names(5), (100, 0)) | {"quiet:1": (0, 99)}
    assert frozenset() == swept(detector(failure_percentage=None), outcomes).ejected


@pytest.mark.parametrize(("stdev_factor", "expected"), [(1900, 1), (2100, 0)])
def test_success_rate_threshold(stdev_factor: int, expected: int) -> None:
    """One of five lies two deviations below the mean, whatever its rate."""
    watched = detector(
        failure_percentage=None, success_rate=SuccessRateEjection(stdev_factor=stdev_factor)
    )
    assert expected == len(swept(watched, all_well_but(names(1), 5, failures=10)).ejected)


@pytest.mark.parametrize(
    ("hosts", "outcome", "expected"),
    [
        (5, (7, 43), 1),
        (5, (15, 85), 0),
        (5, (14, 86), 1),
        (5, (0, 49), 0),
        (4, (0, 100), 0),
    ],
    ids=["50 calls", "85 %", "86 %", "49 calls", "4 hosts"],
)
def test_failure_percentage_limits(hosts: int, outcome: tuple[int, int], expected: int) -> None:
    """More than 85 % of at least 50 calls, among at least five addresses with or without calls."""
    watched = detector(success_rate=None)
    observe(watched, {names(1)[0]: outcome})
    assert expected == len(watched.sweep(names(hosts), 0.0).ejected)


@pytest.mark.parametrize(
    ("hosts", "percent", "expected"),
    [(5, 10, 1), (10, 10, 1), (11, 10, 2), (4, 30, 2), (5, 1, 1), (5, 0, 0), (5, 100, 5)],
)
def test_the_largest_share(hosts: int, percent: int, expected: int) -> None:
    """Checked before each ejection: at least one goes, the last may overshoot, 0 is none."""
    watched = detector(
        max_ejection_percent=percent,
        success_rate=None,
        failure_percentage=FailurePercentageEjection(minimum_hosts=1),
    )
    assert expected == len(swept(watched, all_well_but(names(hosts), hosts)).ejected)


def test_the_worst_go_first() -> None:
    """With room for one, the one with the lowest success rate goes."""
    bad, worse = names(2)
    outcomes = all_well_but([bad], 6, failures=90) | {worse: (5, 95)}
    assert frozenset([worse]) == swept(detector(success_rate=None), outcomes).ejected


def test_both_algorithms_eject_once() -> None:
    """Whom both algorithms find is ejected once, so it stays out for one base time."""
    watched = detector(max_ejection_percent=100)
    bad = names(1)
    assert frozenset(bad) == swept(watched, all_well_but(bad, 5), 0.0).ejected
    assert frozenset(bad) == watched.sweep(names(5), 30.0).ejected
    assert frozenset(bad) == watched.sweep(names(5), 30.1).returned


def test_enforcement() -> None:
    """About as many of the outliers go as the enforcement percentage says."""
    outcomes = all_well_but(names(1), 5)
    half = FailurePercentageEjection(enforcement_percentage=50)
    ejections = [
        len(swept(detector(seed, success_rate=None, failure_percentage=half), outcomes).ejected)
        for seed in range(100)
    ]
    assert 30 < sum(ejections) < 70


def test_enforcement_of_zero() -> None:
    """At 0 % outliers are found and nobody is ejected."""
    none = FailurePercentageEjection(enforcement_percentage=0)
    watched = detector(success_rate=None, failure_percentage=none)
    assert frozenset() == swept(watched, all_well_but(names(1), 5)).ejected


def eject_until_back(watched: OutlierDetector, bad: str, now_s: float) -> float:
    """Ejects `bad` at `now_s`; when it returned, by a sweep each second."""
    assert bad in swept(watched, all_well_but([bad], 5), now_s).newly_ejected
    while bad not in watched.sweep(names(5), now_s).returned:
        now_s += 1.0
    return now_s


def test_ejections_grow_longer_up_to_a_limit() -> None:
    """Each lasts a base time longer than the one before, but not longer than the maximum."""
    watched, now_s, durations = detector(max_ejection_time_s=100.0), 0.0, []
    for _ in range(5):
        back_s = eject_until_back(watched, names(1)[0], now_s)
        durations.append(back_s - now_s)
        now_s = back_s
    assert [31.0, 61.0, 91.0, 101.0, 101.0] == durations


def test_the_limit_is_never_below_the_base() -> None:
    """A maximum that is smaller than the base time counts as the base time."""
    watched = detector(base_ejection_time_s=50.0, max_ejection_time_s=10.0)
    assert 51.0 == eject_until_back(watched, names(1)[0], 0.0)


def test_good_intervals_are_remembered() -> None:
    """Each sweep in service takes one from the multiplier, so the next ejection is shorter."""
    watched, bad = detector(), names(1)[0]
    now_s = eject_until_back(watched, bad, eject_until_back(watched, bad, 0.0))
    watched.sweep(names(5), now_s)
    assert 61.0 == eject_until_back(watched, bad, now_s) - now_s


def test_late_outcomes_do_not_prolong_an_ejection() -> None:
    """Calls that end badly after the ejection do not eject again."""
    watched, bad = detector(), names(1)
    swept(watched, all_well_but(bad, 5), 0.0)
    sweep = swept(watched, all_well_but(bad, 5), 20.0)
    assert (frozenset(bad), {}) == (sweep.ejected, sweep.newly_ejected)
    assert frozenset(bad) == watched.sweep(names(5), 31.0).returned


def test_outcomes_count_for_one_interval() -> None:
    """What one sweep has seen the next does not see again."""
    watched = detector(success_rate=None)
    for now_s in (0.0, 10.0):
        observe(watched, {names(1)[0]: (0, 49)})
        assert frozenset() == watched.sweep(names(5), now_s).ejected


def test_who_left_is_forgotten() -> None:
    """An ejected address that leaves frees its share, and starts anew when it returns."""
    watched, bad = detector(), names(1)
    swept(watched, all_well_but(bad, 5), 0.0)
    sweep = watched.sweep(names(5)[1:], 1.0)
    assert (frozenset(), frozenset()) == (sweep.ejected, sweep.returned)
    assert frozenset() == watched.sweep(names(5), 2.0).ejected
    assert 31.0 == eject_until_back(watched, bad[0], 0.0)


def test_outcomes_of_strangers() -> None:
    """An address that is recorded and not swept is nobody, and later not remembered."""
    watched = detector(success_rate=None)
    observe(watched, {"stranger:1": (0, 1000)})
    assert frozenset() == watched.sweep(names(9), 0.0).ejected
    assert frozenset() == watched.sweep([*names(9), "stranger:1"], 10.0).ejected


def test_an_empty_target() -> None:
    """No addresses, no ejections."""
    assert Sweep(frozenset(), frozenset(), {}) == detector().sweep((), 0.0)


def test_recording_from_threads() -> None:
    """Threads that record while another sweeps never raise, and sweeps see their calls."""
    watched = detector(success_rate=None)
    bad = names(1)[0]

    def record() -> None:
        for turn in range(5_000):
            watched.record(names(5)[turn % 5], turn % 5 != 0)

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        watched.sweep(names(5), 0.0)
    observe(watched, {bad: (0, 50)})
    assert frozenset([bad]) == watched.sweep(names(5), 1.0).ejected


rounds = st.lists(
    st.dictionaries(
        st.sampled_from(names(12)), st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1
    ),
    min_size=1,
    max_size=8,
)


@given(rounds=rounds, percent=st.integers(0, 100), seed=st.integers(0, 9))
def test_never_more_than_the_share(
    rounds: list[dict[str, tuple[int, int]]], percent: int, seed: int
) -> None:
    """Whatever happens: nobody unknown is ejected, and no ejection starts beyond the share."""
    watched = detector(
        seed,
        base_ejection_time_s=15.0,
        max_ejection_percent=percent,
        success_rate=SuccessRateEjection(minimum_hosts=2, request_volume=1, stdev_factor=500),
        failure_percentage=FailurePercentageEjection(
            threshold=50, minimum_hosts=1, request_volume=1
        ),
    )
    before: frozenset[str] = frozenset()
    for turn, outcomes in enumerate(rounds):
        sweep = swept(watched, outcomes, turn * 10.0)
        new = frozenset(sweep.newly_ejected)
        assert sweep.ejected <= outcomes.keys()
        assert sweep.ejected == ((before & outcomes.keys()) | new) - sweep.returned
        if new:
            assert (len(sweep.ejected | sweep.returned) - 1) * 100 < percent * len(outcomes)
        before = sweep.ejected


@given(
    hosts=st.integers(1, 30),
    outcome=st.tuples(st.integers(0, 200), st.integers(0, 200)),
    stdev_factor=st.integers(0, 3000),
)
def test_equals_are_no_outliers(hosts: int, outcome: tuple[int, int], stdev_factor: int) -> None:
    """When all succeed equally often, success rate ejects nobody."""
    watched = detector(
        failure_percentage=None, success_rate=SuccessRateEjection(stdev_factor=stdev_factor)
    )
    assert frozenset() == swept(watched, dict.fromkeys(names(hosts), outcome)).ejected


def test_verdicts() -> None:
    """Only what speaks of the endpoint counts against it; a cancelled call says nothing."""
    failures = {code.name for code in StatusCode if verdict(code) is False}
    expected = {
        "DATA_LOSS",
        "DEADLINE_EXCEEDED",
        "INTERNAL",
        "RESOURCE_EXHAUSTED",
        "UNAVAILABLE",
        "UNIMPLEMENTED",
        "UNKNOWN",
    }
    assert expected == failures
    assert [None, None] == [verdict(StatusCode.CANCELLED), verdict(None)]
    assert len(StatusCode) - len(expected) - 1 == sum(verdict(code) is True for code in StatusCode)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (OutlierConfig, {"interval_s": 0}),
        (OutlierConfig, {"interval_s": float("nan")}),
        (OutlierConfig, {"base_ejection_time_s": -1}),
        (OutlierConfig, {"max_ejection_time_s": -1}),
        (OutlierConfig, {"max_ejection_percent": 101}),
        (OutlierConfig, {"max_ejection_percent": -1}),
        (SuccessRateEjection, {"stdev_factor": -1}),
        (SuccessRateEjection, {"enforcement_percentage": 101}),
        (SuccessRateEjection, {"minimum_hosts": -1}),
        (SuccessRateEjection, {"request_volume": -1}),
        (FailurePercentageEjection, {"threshold": 101}),
        (FailurePercentageEjection, {"enforcement_percentage": -1}),
        (FailurePercentageEjection, {"minimum_hosts": -1}),
        (FailurePercentageEjection, {"request_volume": -1}),
    ],
    ids=str,
)
def test_impossible_configs(kind: type[Any], wrong: dict[str, Any]) -> None:
    """A value that cannot be is refused by its name."""
    with pytest.raises(InvalidConfigError, match=next(iter(wrong))):
        kind(**wrong)
