"""Counters, gauges and histograms of channels for Prometheus: `tallystick[metrics]`.

    metrics = PrometheusMetrics(prometheus_client.REGISTRY)

It counts in plain integers of its own and turns them into series when it is scraped. The
client's own counters take a lock each, six and more to a call; here it is one per event.
Two channels to one target are counted together. What its limits leave no room for
is counted together as well, under the label "(other)", so that no registry that
misbehaves can fill a monitoring system. An endpoint that left takes its series with it.

The client's multi-process mode reads files and not collectors: it does not see these.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate
from threading import Lock
from typing import Final, NamedTuple

import grpc
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

MAX_TARGETS: Final = 100
MAX_ENDPOINTS: Final = 1_024
OTHER: Final = "(other)"
BUCKETS_S: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)

_BOUNDS = (*(str(bound) for bound in BUCKETS_S), "+Inf")
_OK: Final = grpc.StatusCode.OK


class _Totals(NamedTuple):
    """What had happened at one moment."""

    started: int
    ended: dict[grpc.StatusCode, int]
    buckets: list[int]
    seconds: float
    events: dict[str, int]


class _Tally:
    """What happens to calls, or to attempts; `users` are those that still report it."""

    __slots__ = ("_buckets", "_events", "_failed", "_lock", "_ok", "_seconds", "_started", "users")

    def __init__(self) -> None:
        self.users = 0
        self._lock = Lock()
        self._started = 0
        # Apart from the failures, since to hash a code costs more than all the rest here.
        self._ok = 0
        self._failed: dict[grpc.StatusCode, int] = {}
        self._buckets = [0] * len(_BOUNDS)
        self._seconds = 0.0
        self._events: Counter[str] = Counter()

    def started(self) -> None:
        with self._lock:
            self._started += 1

    def ended(self, code: grpc.StatusCode, latency_s: float) -> None:
        with self._lock:
            if code is _OK:
                self._ok += 1
            else:
                self._failed[code] = self._failed.get(code, 0) + 1
            self._buckets[bisect_left(BUCKETS_S, latency_s)] += 1
            self._seconds += latency_s

    def event(self, name: str, step: int = 1) -> None:
        with self._lock:
            self._events[name] += step

    def totals(self) -> _Totals:
        with self._lock:
            return _Totals(
                self._started,
                ({_OK: self._ok} if self._ok else {}) | self._failed,
                list(self._buckets),
                self._seconds,
                dict(self._events),
            )


class _EndpointMetrics:
    """An EndpointMetrics over the tally of its endpoint."""

    __slots__ = ("_key", "_owner", "_tally", "attempt_ended", "attempt_started")

    def __init__(self, owner: PrometheusMetrics, key: tuple[str, ...], tally: _Tally) -> None:
        self._owner = owner
        self._key = key
        self._tally = tally
        # Called per attempt: bound here, which saves a Python frame each.
        self.attempt_started = tally.started
        self.attempt_ended = tally.ended

    def ejected(self) -> None:
        self._tally.event("ejected")

    def state_changed(self, state: grpc.ChannelConnectivity) -> None:
        self._tally.event(state.name)

    def left(self) -> None:
        self._owner._release(self._key)  # noqa: SLF001 - one unit


class _ChannelMetrics:
    """A ChannelMetrics over the tally of its target."""

    __slots__ = ("_owner", "_tally", "_target", "call_ended", "call_started")

    def __init__(self, owner: PrometheusMetrics, target: str, tally: _Tally) -> None:
        self._owner = owner
        self._target = target
        self._tally = tally
        self.call_started = tally.started
        self.call_ended = tally.ended

    def wait_began(self) -> None:
        self._tally.event("waiting")

    def wait_ended(self) -> None:
        self._tally.event("waiting", -1)

    def retried(self) -> None:
        self._tally.event("retried")

    def hedged(self) -> None:
        self._tally.event("hedged")

    def endpoint(self, address: str) -> _EndpointMetrics:
        key, tally = self._owner._hold((self._target, address))  # noqa: SLF001 - one unit
        return _EndpointMetrics(self._owner, key, tally)

    def closed(self) -> None:
        self._owner._release((self._target,))  # noqa: SLF001 - one unit


class PrometheusMetrics(Collector):
    """A Metrics of which `registry` collects the series, named `tallystick_...`.

    `max_targets` and `max_endpoints` (of all targets together) have series of their own
    at a time. Raises ValueError if the registry has one of these already.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        max_targets: int = MAX_TARGETS,
        max_endpoints: int = MAX_ENDPOINTS,
    ) -> None:
        self._limits = {1: max_targets, 2: max_endpoints}
        self._tallies: dict[tuple[str, ...], _Tally] = {}
        self._held = Counter[int]()
        self._lock = Lock()
        registry.register(self)

    def channel(self, target: str) -> _ChannelMetrics:
        """Who is told about a channel to `target`."""
        (name, *_), tally = self._hold((target,))
        return _ChannelMetrics(self, name, tally)

    def collect(self) -> Iterator[Metric]:
        """The series of this moment. Called by the registry."""
        with self._lock:
            tallies = dict(self._tallies)
        totals = {key: tally.totals() for key, tally in tallies.items()}
        of_channels = [(key, each) for key, each in totals.items() if len(key) == 1]
        of_endpoints = [(key, each) for key, each in totals.items() if len(key) == 2]
        yield from _common("tallystick_channel_call", "Calls", ("target",), of_channels)
        yield from _of_channels(of_channels)
        labels = ("target", "endpoint")
        yield from _common("tallystick_endpoint_attempt", "Attempts", labels, of_endpoints)
        yield from _of_endpoints(labels, of_endpoints)

    def describe(self) -> Iterator[Metric]:
        """The names of the series, so that a registry refuses a second set of them at once."""
        return self.collect()

    def _hold(self, key: tuple[str, ...]) -> tuple[tuple[str, ...], _Tally]:
        """The tally of `key`, or of the others if there are too many, and its key."""
        size = len(key)
        with self._lock:
            if key not in self._tallies and self._held[size] >= self._limits[size]:
                key = (*key[:-1], OTHER)
            tally = self._tallies.get(key)
            if tally is None:
                tally = self._tallies[key] = _Tally()
                self._held[size] += key[-1] != OTHER
            tally.users += 1
            return key, tally

    def _release(self, key: tuple[str, ...]) -> None:
        with self._lock:
            tally = self._tallies[key]
            tally.users -= 1
            if not tally.users:
                del self._tallies[key]
                self._held[len(key)] -= key[-1] != OTHER


_Rows = Iterable[tuple[tuple[str, ...], _Totals]]


def _common(prefix: str, what: str, labels: tuple[str, ...], rows: _Rows) -> Iterator[Metric]:
    """Started, ended by code, in flight and how long: of calls and of attempts alike."""
    started = CounterMetricFamily(f"{prefix}s_started", f"{what} that have started.", labels=labels)
    ended = CounterMetricFamily(
        f"{prefix}s_ended", f"{what} that have ended, by code.", labels=(*labels, "code")
    )
    in_flight = GaugeMetricFamily(f"{prefix}s_in_flight", f"{what} under way.", labels=labels)
    seconds = HistogramMetricFamily(
        f"{prefix}_duration_seconds", f"How long {what.lower()} took.", labels=labels
    )
    for key, totals in rows:
        started.add_metric(key, totals.started)
        for code, count in totals.ended.items():
            ended.add_metric((*key, code.name), count)
        in_flight.add_metric(key, totals.started - sum(totals.ended.values()))
        below = list(zip(_BOUNDS, accumulate(totals.buckets), strict=True))
        seconds.add_metric(key, below, totals.seconds)
    return iter((started, ended, in_flight, seconds))


def _of_channels(rows: _Rows) -> Iterator[Metric]:
    prefix, labels = "tallystick_channel", ("target",)
    waiting = GaugeMetricFamily(
        f"{prefix}_picks_waiting", "Calls that wait for an endpoint.", labels=labels
    )
    retries = CounterMetricFamily(f"{prefix}_retries", "Attempts after a failure.", labels=labels)
    hedges = CounterMetricFamily(
        f"{prefix}_hedges", "Attempts beside one under way.", labels=labels
    )
    for key, totals in rows:
        waiting.add_metric(key, totals.events.get("waiting", 0))
        retries.add_metric(key, totals.events.get("retried", 0))
        hedges.add_metric(key, totals.events.get("hedged", 0))
    return iter((waiting, retries, hedges))


def _of_endpoints(labels: tuple[str, ...], rows: _Rows) -> Iterator[Metric]:
    prefix = "tallystick_endpoint"
    ejections = CounterMetricFamily(f"{prefix}_ejections", "Times taken out.", labels=labels)
    changes = CounterMetricFamily(
        f"{prefix}_state_changes", "Times a state was entered.", labels=(*labels, "state")
    )
    for key, totals in rows:
        ejections.add_metric(key, totals.events.get("ejected", 0))
        for state in grpc.ChannelConnectivity:
            if state.name in totals.events:
                changes.add_metric((*key, state.name), totals.events[state.name])
    return iter((ejections, changes))
