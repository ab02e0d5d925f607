"""The faster of two."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from balancer.policies import P2cEwma, RoundRobin
from balancer.policies.p2c_ewma import DECAY_S, MAX_LATENCY_S, PeakEwma, Record
from balancer.policy import PickInfo
from balancer.testing import check_policy
from tests.balancer.policies.simulation import (
    Clock,
    backends,
    context,
    fakes,
    p99,
    shares,
    simulate,
)

STREAM = PickInfo("/pkg.Service/Stream", (), None)


def test_the_contract() -> None:
    """It keeps the contract of a policy."""
    check_policy(P2cEwma(context()))


@pytest.mark.parametrize("per_s", [20, 200, 2000])
def test_one_slow_backend_is_not_felt(per_s: float) -> None:
    """One of four is 10 times slower: p99 is at most half of round robin's."""
    clock, given = Clock(), backends(0.01, 0.01, 0.01, 0.1)
    even = simulate(RoundRobin(context()).build(given), clock, calls=4000, per_s=per_s)
    chosen = simulate(P2cEwma(context(clock)).build(given), clock, calls=4000, per_s=per_s)
    assert p99(chosen.latencies_s) <= p99(even.latencies_s) / 2


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("per_s", [20, 2000])
def test_failing_at_once_attracts_nothing(count: int, per_s: float) -> None:
    """A backend that refuses in a millisecond gets a tenth of its even share at most."""
    clock, given = Clock(), backends(*[0.05] * count)
    given[0].failing = 1.0
    picker = P2cEwma(context(clock)).build(given)
    outcome = simulate(picker, clock, calls=3000, per_s=per_s)
    assert 0 < outcome.calls[given[0]] < 3000 / count / 10


def test_beginning_to_fail_attracts_nothing() -> None:
    """Nor does one that was known for good answers."""
    clock, given = Clock(), backends(*[0.05] * 4)
    picker = P2cEwma(context(clock)).build(given)
    simulate(picker, clock, calls=1000, per_s=200)
    given[0].failing = 1.0
    outcome = simulate(picker, clock, calls=3000, per_s=200)
    assert outcome.calls[given[0]] < 3000 / 4 / 10


def test_a_new_backend_is_not_flooded() -> None:
    """A backend nobody has measured gets about its share of the calls, not all."""
    clock, known, new = Clock(), backends(0.05, 0.05, 0.05), backends(*[0.05] * 4)[3]
    policy = P2cEwma(context(clock))
    simulate(policy.build(known), clock, calls=1000, per_s=400)
    # Fewer calls than it takes until the first answer of the new one.
    outcome = simulate(policy.build((*known, new)), clock, calls=12, per_s=400)
    assert 1 <= outcome.calls[new] <= 6


def test_a_backend_that_recovered_is_found() -> None:
    """The estimate of a slow backend fades, so that it is tried again and seen to be fast."""
    clock, given = Clock(), backends(0.1, 0.01)
    picker = P2cEwma(context(clock)).build(given)
    simulate(picker, clock, calls=500, per_s=100)
    given[0].latency_s = 0.01
    simulate(picker, clock, calls=10_000, per_s=100)
    outcome = simulate(picker, clock, calls=2000, per_s=100)
    assert outcome.calls[given[0]] > 600


def test_what_is_in_flight_counts() -> None:
    """Of two equally fast ones the less busy is picked."""
    busy, free = given = fakes(1, 1)
    busy.in_flight = 1
    assert {free: 1.0} == shares(P2cEwma(context()).build(given), 100)


def test_what_was_slow_is_remembered() -> None:
    """A rebuilt picker knows what the old one learnt."""
    clock, given = Clock(), backends(0.5, 0.01)
    policy = P2cEwma(context(clock))
    simulate(policy.build(given), clock, calls=200, per_s=100)
    assert {given[1]: 1.0} == shares(policy.build(given), 100)


def test_who_was_away_starts_anew() -> None:
    """The calls that died with a connection are not held against the next one."""
    clock, given = Clock(), backends(0.05, 0.05)
    given[0].failing = 1.0
    policy = P2cEwma(context(clock))
    simulate(policy.build(given), clock, calls=200, per_s=100)
    policy.build(given[1:])
    assert 0.4 < shares(policy.build(given), 1000)[given[0]] < 0.6


def test_a_stream_is_no_latency() -> None:
    """How long a stream of requests lasted says nothing about the endpoint."""
    clock, (one, other) = Clock(), fakes(1, 1)
    policy = P2cEwma(context(clock))
    picked = policy.build((one,)).pick(STREAM)
    clock.now = 3600.0
    assert picked.on_done is not None
    picked.on_done(StatusCode.OK)
    assert 0.4 < shares(policy.build((one, other)), 1000)[one] < 0.6


def test_an_estimate_peaks_and_falls_slowly() -> None:
    """A worse latency counts at once, a better one with the time constant."""
    latency = PeakEwma()
    assert latency.at(0.0) is None
    latency.observe(0.1, 0.0)
    latency.observe(0.5, 1.0)
    assert 0.5 == latency.at(1.0)
    latency.observe(0.1, 1.0 + DECAY_S)
    assert 0.1 + 0.4 / 2.718281828 == pytest.approx(latency.at(1.0 + DECAY_S))
    latency.observe(1e9, 2.0 + DECAY_S)
    assert MAX_LATENCY_S == latency.at(2.0 + DECAY_S)


@pytest.mark.parametrize(
    ("code", "took_s", "expected"),
    [
        (StatusCode.OK, 0.4, 0.4),
        (StatusCode.NOT_FOUND, 0.4, 0.4),
        (StatusCode.OK, 0.1, 0.1 + 0.1 / 2.718281828),
        (StatusCode.CANCELLED, 0.4, 0.4),
        (StatusCode.CANCELLED, 0.1, 0.2 / 2.718281828),
        (StatusCode.DEADLINE_EXCEEDED, 0.4, 0.4),
        (StatusCode.DEADLINE_EXCEEDED, 0.1, 0.2 / 2.718281828),
        (StatusCode.UNAVAILABLE, 0.4, 0.4),
        (StatusCode.UNAVAILABLE, 0.1, 0.2 / 2.718281828),
        (None, 0.4, 0.2 / 2.718281828),
    ],
)
def test_who_ends_without_answer_never_looks_faster(
    code: StatusCode | None, took_s: float, expected: float
) -> None:
    """From 0.2 s: only an answer can lower the estimate, by more than fading does."""
    clock = Clock()
    record = Record(clock)
    record.latency.observe(0.2, 0.0)
    clock.now = DECAY_S
    record.ended(DECAY_S - took_s, code)
    assert expected == pytest.approx(record.latency.at(DECAY_S))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (StatusCode.OK, 0.5),
        (StatusCode.DEADLINE_EXCEEDED, 0.5),
        (StatusCode.CANCELLED, None),
        (StatusCode.UNAVAILABLE, None),
    ],
)
def test_a_first_estimate(code: StatusCode, expected: float | None) -> None:
    """A refusal or cancellation does not make a new endpoint look fast."""
    clock = Clock()
    record = Record(clock)
    clock.now = 0.5
    record.ended(0.0, code)
    assert expected == record.latency.at(0.5)
