"""Which endpoints do worse than their peers and are left out for a while (gRFC A50).

Outcomes are counted per address for one interval; then `sweep` looks at them. Two
algorithms may be on: *success rate* ejects who is far below the mean of all, *failure
percentage* who fails more than a fixed share. An ejection lasts `base_ejection_time_s`
times its multiplier, which grows with each ejection and shrinks with each interval spent
in service.

Where A50 leaves room, or its text and its implementations differ:

- The share is checked before each ejection and stops it when reached, as grpc-go and
  grpc-java do (`>=`; the text has "greater than", which would eject 2 of 10 at 10 %). So
  any share above 0 lets the first one go, however few endpoints there are, and the last
  ejection may overshoot by less than one endpoint. A share of 0 ejects nobody.
- The worst go first, where A50 names no order: with room for one, it is the right one.
- Who is ejected already is not ejected again, by calls that were under way: grpc-go would
  count it twice.
- `failure_percentage.minimum_hosts` counts all addresses, as the text (and Envoy) says,
  not only those with volume.

What is a failure: to A50 every status but OK. In a payment API that would eject endpoints
for saying INSUFFICIENT_FUNDS, so the codes that speak of the request and not of the
endpoint are successes here: those that gRPC itself never generates (grpc/doc/statuscodes.md)
and the two about who the caller is. Envoy draws nearly the same line by its mapping to
HTTP's 5xx. DATA_LOSS stays a failure as it is never the caller's doing. A cancelled call
says nothing: the loser of a hedge is cancelled, too.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from grpc import StatusCode

from balancer.errors import InvalidConfigError

_OK: Final = StatusCode.OK
_VERDICTS: Final[Mapping[StatusCode | None, bool]] = {
    _OK: True,
    StatusCode.INVALID_ARGUMENT: True,
    StatusCode.NOT_FOUND: True,
    StatusCode.ALREADY_EXISTS: True,
    StatusCode.FAILED_PRECONDITION: True,
    StatusCode.ABORTED: True,
    StatusCode.OUT_OF_RANGE: True,
    StatusCode.PERMISSION_DENIED: True,
    StatusCode.UNAUTHENTICATED: True,
    StatusCode.UNAVAILABLE: False,
    StatusCode.DEADLINE_EXCEEDED: False,
    StatusCode.RESOURCE_EXHAUSTED: False,
    StatusCode.INTERNAL: False,
    StatusCode.UNKNOWN: False,
    StatusCode.DATA_LOSS: False,
    StatusCode.UNIMPLEMENTED: False,
}

# Equal rates may differ from their own mean in the last bit.
_ROUNDING: Final = 1e-9


def verdict(code: StatusCode | None) -> bool | None:
    """Whether a call that ended with `code` speaks for its endpoint; None if it says nothing.

    `code` is None for a call that was picked and never started.
    """
    # Enum members are found and hashed in Python; most calls need not.
    return True if code is _OK else _VERDICTS.get(code)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessRateEjection:
    """Ejects who is below mean - stdev * `stdev_factor` / 1000 of the success rates.

    Only addresses with `request_volume` calls in the interval are compared, and only if
    they are at least `minimum_hosts`. Of those found, `enforcement_percentage` are ejected.

    Raises InvalidConfigError.
    """

    stdev_factor: int = 1900
    enforcement_percentage: int = 100
    minimum_hosts: int = 5
    request_volume: int = 100

    def __post_init__(self) -> None:
        _check_percentages(self, "enforcement_percentage")
        _check_not_negative(self, "stdev_factor", "minimum_hosts", "request_volume")


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePercentageEjection:
    """Ejects who fails more than `threshold` % of at least `request_volume` calls.

    With fewer than `minimum_hosts` addresses nobody is. Of those found,
    `enforcement_percentage` are ejected.

    Raises InvalidConfigError.
    """

    threshold: int = 85
    enforcement_percentage: int = 100
    minimum_hosts: int = 5
    request_volume: int = 50

    def __post_init__(self) -> None:
        _check_percentages(self, "threshold", "enforcement_percentage")
        _check_not_negative(self, "minimum_hosts", "request_volume")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierConfig:
    """A50's `OutlierDetectionLoadBalancingConfig`; an algorithm that is None is off.

    `interval_s` lies between sweeps. An ejection lasts `base_ejection_time_s` times the
    multiplier, but not longer than the larger of that and `max_ejection_time_s`.
    `max_ejection_percent` of the addresses are ejected at a time. They are found by
    `success_rate` and by `failure_percentage`, one after the other.

    Raises InvalidConfigError.
    """

    interval_s: float = 10.0
    base_ejection_time_s: float = 30.0
    max_ejection_time_s: float = 300.0
    max_ejection_percent: int = 10
    success_rate: SuccessRateEjection | None = field(default_factory=SuccessRateEjection)
    failure_percentage: FailurePercentageEjection | None = field(
        default_factory=FailurePercentageEjection
    )

    def __post_init__(self) -> None:
        if not self.interval_s > 0:
            raise InvalidConfigError(f"interval_s is not above 0: {self.interval_s}")
        _check_not_negative(self, "base_ejection_time_s", "max_ejection_time_s")
        _check_percentages(self, "max_ejection_percent")

    @property
    def is_on(self) -> bool:
        """Whether anything is looked at; if not, nothing need be counted."""
        return self.success_rate is not None or self.failure_percentage is not None


class Sweep(NamedTuple):
    """What a sweep changed. `newly_ejected` has the reason of each, for people."""

    ejected: frozenset[str]
    returned: frozenset[str]
    newly_ejected: Mapping[str, str]


class OutlierDetector:
    """Counts outcomes and decides, once an interval, who is left out.

    `record` may be called from any thread; an outcome may get lost to another thread's.
    `sweep` belongs to one. Addresses that are recorded and not swept are forgotten at the
    next sweep, so that nothing grows beyond the endpoints called in one interval.
    """

    def __init__(self, config: OutlierConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._counts = _no_counts()
        self._ejected_at_s: dict[str, float] = {}
        self._multipliers: dict[str, int] = {}

    def record(self, address: str, succeeded: bool) -> None:
        """Counts a call to `address` that ended; see `verdict`."""
        self._counts[address][succeeded] += 1

    def sweep(self, addresses: Collection[str], now_s: float) -> Sweep:
        """Judges `addresses`, all that the target has, by what was recorded since the last.

        `now_s` is monotonic. Run it every `interval_s`.
        """
        counts, self._counts = self._counts, _no_counts()
        self._forget_all_but(set(addresses))
        tallies = [
            _Tally(address, *count)
            for address in addresses
            if (count := counts.get(address)) is not None
        ]
        newly_ejected: dict[str, str] = {}
        for outliers, enforcement_percentage in self._outliers(tallies, len(addresses)):
            # Chance may spare an outlier, and then the next may take its place.
            for tally in sorted(outliers, key=_Tally.success_rate):
                if self._is_share_reached(len(addresses)):
                    break
                if tally.address in self._ejected_at_s or not self._hits(enforcement_percentage):
                    continue
                self._eject(tally.address, now_s)
                newly_ejected[tally.address] = outliers[tally]
        returned = self._return_and_forgive(now_s)
        return Sweep(frozenset(self._ejected_at_s), returned, newly_ejected)

    def ejected_for_s(self, address: str, now_s: float) -> float | None:
        """Seconds until a sweep may let `address` in again; None if it is not ejected."""
        ejected_at_s = self._ejected_at_s.get(address)
        if ejected_at_s is None:
            return None
        until_s = ejected_at_s + self._duration_s(self._multipliers.get(address, 0))
        return max(0.0, until_s - now_s)

    def _outliers(
        self, tallies: list[_Tally], hosts: int
    ) -> Iterator[tuple[dict[_Tally, str], int]]:
        success_rate = self._config.success_rate
        if success_rate is not None:
            yield _below_the_others(tallies, success_rate), success_rate.enforcement_percentage
        failures = self._config.failure_percentage
        if failures is not None and hosts >= failures.minimum_hosts:
            yield _failing(tallies, failures), failures.enforcement_percentage

    def _is_share_reached(self, hosts: int) -> bool:
        return len(self._ejected_at_s) * 100 >= self._config.max_ejection_percent * hosts

    def _hits(self, percent: int) -> bool:
        return self._rng.randrange(100) < percent

    def _eject(self, address: str, now_s: float) -> None:
        self._ejected_at_s[address] = now_s
        self._multipliers[address] = self._multipliers.get(address, 0) + 1

    def _return_and_forgive(self, now_s: float) -> frozenset[str]:
        returned = set()
        for address, multiplier in tuple(self._multipliers.items()):
            ejected_at_s = self._ejected_at_s.get(address)
            if ejected_at_s is None:
                self._multipliers[address] = multiplier - 1
            elif now_s > ejected_at_s + self._duration_s(multiplier):
                del self._ejected_at_s[address]
                returned.add(address)
        self._multipliers = {a: m for a, m in self._multipliers.items() if m}
        return frozenset(returned)

    def _duration_s(self, multiplier: int) -> float:
        base_s, max_s = self._config.base_ejection_time_s, self._config.max_ejection_time_s
        return min(base_s * multiplier, max(base_s, max_s))

    def _forget_all_but(self, addresses: set[str]) -> None:
        for known in (self._ejected_at_s, self._multipliers):
            for address in known.keys() - addresses:
                del known[address]


class _Tally(NamedTuple):
    """The outcomes of one address in one interval; at least one."""

    address: str
    failures: int
    successes: int

    def volume(self) -> int:
        return self.failures + self.successes

    def success_rate(self) -> float:
        return self.successes / (self.failures + self.successes)


def _below_the_others(tallies: list[_Tally], config: SuccessRateEjection) -> dict[_Tally, str]:
    """Who is an outlier by its success rate, and why."""
    compared = [each for each in tallies if each.volume() >= config.request_volume]
    if not compared or len(compared) < config.minimum_hosts:
        return {}
    mean, deviation = _mean_and_deviation([each.success_rate() for each in compared])
    required = mean - deviation * config.stdev_factor / 1000
    return {
        each: (
            f"{each.success_rate():.1%} of {each.volume()} calls succeeded, less than"
            f" {required:.1%} (mean {mean:.1%}, deviation {deviation:.1%})"
        )
        for each in compared
        if each.success_rate() < required - _ROUNDING
    }


def _failing(tallies: list[_Tally], config: FailurePercentageEjection) -> dict[_Tally, str]:
    """Who fails more often than anyone may, and why."""
    return {
        each: f"{each.failures} of {each.volume()} calls failed, more than {config.threshold} %"
        for each in tallies
        if each.volume() >= config.request_volume
        and each.failures * 100 > config.threshold * each.volume()
    }


def _mean_and_deviation(rates: Collection[float]) -> tuple[float, float]:
    """The mean and the deviation of the whole population, as A50's implementations have it."""
    mean = math.fsum(rates) / len(rates)
    return mean, math.sqrt(math.fsum((rate - mean) ** 2 for rate in rates) / len(rates))


def _no_counts() -> defaultdict[str, list[int]]:
    # Indexed by success: [failures, successes].
    return defaultdict(lambda: [0, 0])


def _check_percentages(config: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) <= 100:
            raise InvalidConfigError(f"{name} is not from 0 to 100: {getattr(config, name)}")


def _check_not_negative(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) >= 0:
            raise InvalidConfigError(f"{name} is below 0: {getattr(config, name)}")
