"""Counters, gauges and histograms of transactions for Prometheus: `tallystick[metrics]`.

    Coordinator(..., metrics=PrometheusCoordinatorMetrics(prometheus_client.REGISTRY))

As in `balancer.metrics_prometheus` they count in plain numbers of their own, which become
series when they are scraped. There are no locks: the numbers are changed on one event
loop, and a scrape from another thread may see a histogram in the midst of one change.
docs/metrics.md lists the series.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from txn.metrics import Activity, Phase

BUCKETS_S: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
BUCKETS_OF_SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

_Labels = tuple[str, ...]


class _Histogram:
    """Observations by the smallest bound that is not below them, and their sum."""

    __slots__ = ("_bounds", "_buckets", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._buckets = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._buckets[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: _Labels = ()) -> None:
        names = (*map(str, self._bounds), "+Inf")
        family.add_metric(
            labels, list(zip(names, accumulate(self._buckets), strict=True)), self._sum
        )


class PrometheusCoordinatorMetrics(Collector):
    """CoordinatorMetrics of which `registry` collects the series, named `tallystick_txn_...`.

    Raises ValueError if the registry has one already.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._activity: Callable[[], Activity] = lambda: Activity(0, 0.0, 0)
        self._outcomes = Counter[str]()
        self._phases = {phase: _Histogram(BUCKETS_S) for phase in Phase}
        self._sizes: dict[str, _Histogram] = {}
        self._retries = Counter[str]()
        self._alarms = Counter[str]()
        self._truncated = 0
        self._takeovers = 0
        registry.register(self)

    def watch(self, activity: Callable[[], Activity]) -> None:
        """See CoordinatorMetrics."""
        self._activity = activity

    def sent(self, participant: str, messages: int) -> None:
        """See CoordinatorMetrics."""
        sizes = self._sizes.get(participant)
        if sizes is None:
            sizes = self._sizes[participant] = _Histogram(BUCKETS_OF_SIZES)
        sizes.observe(messages)

    def retried(self, participant: str, messages: int) -> None:
        """See CoordinatorMetrics."""
        self._retries[participant] += messages

    def alarmed(self, participant: str, messages: int) -> None:
        """See CoordinatorMetrics."""
        self._alarms[participant] += messages

    def decided(self, committed: int, aborted: int) -> None:
        """See CoordinatorMetrics."""
        self._outcomes["committed"] += committed
        self._outcomes["aborted"] += aborted

    def took(self, phase: Phase, latency_s: float) -> None:
        """See CoordinatorMetrics."""
        self._phases[phase].observe(latency_s)

    def truncated(self, rows: int) -> None:
        """See CoordinatorMetrics."""
        self._truncated += rows

    def took_over(self, transactions: int) -> None:
        """See CoordinatorMetrics."""
        del transactions
        self._takeovers += 1

    def collect(self) -> Iterator[Metric]:
        """The series of this moment. Called by the registry."""
        activity = self._activity()
        prefix = "tallystick_txn"
        yield GaugeMetricFamily(f"{prefix}_active", "Not finished.", activity.total)
        yield GaugeMetricFamily(
            f"{prefix}_oldest_age_seconds", "Age of the oldest active.", activity.oldest_age_s
        )
        yield _counters(f"{prefix}_decided", "Outcomes durable.", "outcome", self._outcomes)
        phases = HistogramMetricFamily(
            f"{prefix}_phase_duration_seconds", "Of one in each group.", labels=("phase",)
        )
        for phase, histogram in self._phases.items():
            histogram.add_to(phases, (phase.value,))
        yield phases
        sizes = HistogramMetricFamily(
            f"{prefix}_batch_messages", "Messages of a batch sent.", labels=("participant",)
        )
        for participant, histogram in tuple(self._sizes.items()):
            histogram.add_to(sizes, (participant,))
        yield sizes
        yield _counters(f"{prefix}_retries", "Messages sent again.", "participant", self._retries)
        yield _counters(f"{prefix}_alarms", "Promises broken.", "participant", self._alarms)
        yield CounterMetricFamily(f"{prefix}_truncated", "Outcomes deleted.", self._truncated)
        yield GaugeMetricFamily(f"{prefix}_coordinators", "That may decide.", activity.coordinators)
        yield CounterMetricFamily(f"{prefix}_takeovers", "Of other coordinators.", self._takeovers)

    def describe(self) -> Iterator[Metric]:
        """The names of the series, so that a registry refuses a second set of them at once."""
        return self.collect()


class PrometheusParticipantMetrics(Collector):
    """ParticipantMetrics of which `registry` collects the series, `tallystick_participant_...`.

    Raises ValueError if the registry has one already.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._sizes = _Histogram(BUCKETS_OF_SIZES)
        self._latencies = _Histogram(BUCKETS_S)
        self._alarms = 0
        self._in_doubt = (0, 0.0)
        self._forgotten = 0
        registry.register(self)

    def answered(self, messages: int, latency_s: float) -> None:
        """See ParticipantMetrics."""
        self._sizes.observe(messages)
        self._latencies.observe(latency_s)

    def alarmed(self, messages: int) -> None:
        """See ParticipantMetrics."""
        self._alarms += messages

    def in_doubt(self, branches: int, oldest_age_s: float) -> None:
        """See ParticipantMetrics."""
        self._in_doubt = (branches, oldest_age_s)

    def forgotten(self, branches: int) -> None:
        """See ParticipantMetrics."""
        self._forgotten += branches

    def collect(self) -> Iterator[Metric]:
        """The series of this moment. Called by the registry."""
        prefix = "tallystick_participant"
        total, oldest_age_s = self._in_doubt
        yield GaugeMetricFamily(f"{prefix}_in_doubt", "Branches prepared and undecided.", total)
        yield GaugeMetricFamily(
            f"{prefix}_in_doubt_oldest_age_seconds", "Age of the oldest.", oldest_age_s
        )
        yield _alone(f"{prefix}_batch_messages", "Messages of a batch answered.", self._sizes)
        yield _alone(f"{prefix}_batch_duration_seconds", "Until durable.", self._latencies)
        yield CounterMetricFamily(f"{prefix}_alarms", "Promises broken.", self._alarms)
        yield CounterMetricFamily(f"{prefix}_forgotten", "Branches swept up.", self._forgotten)

    def describe(self) -> Iterator[Metric]:
        """See PrometheusCoordinatorMetrics."""
        return self.collect()


class PrometheusStoreMetrics(Collector):
    """StoreMetrics of which `registry` collects the series, named `tallystick_store_...`.

    Raises ValueError if the registry has one already.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._sizes = _Histogram(BUCKETS_OF_SIZES)
        self._latencies = _Histogram(BUCKETS_S)
        registry.register(self)

    def forced(self, size: int, latency_s: float) -> None:
        """See StoreMetrics."""
        self._sizes.observe(size)
        self._latencies.observe(latency_s)

    def collect(self) -> Iterator[Metric]:
        """The series of this moment. Called by the registry."""
        prefix = "tallystick_store"
        yield _alone(f"{prefix}_group_size", "Inputs of a group.", self._sizes)
        yield _alone(f"{prefix}_force_duration_seconds", "Of a COMMIT.", self._latencies)

    def describe(self) -> Iterator[Metric]:
        """See PrometheusCoordinatorMetrics."""
        return self.collect()


def _counters(name: str, says: str, label: str, counts: Counter[str]) -> Metric:
    family = CounterMetricFamily(name, says, labels=(label,))
    for value, count in tuple(counts.items()):
        family.add_metric((value,), count)
    return family


def _alone(name: str, says: str, histogram: _Histogram) -> Metric:
    family = HistogramMetricFamily(name, says, labels=())
    histogram.add_to(family)
    return family
