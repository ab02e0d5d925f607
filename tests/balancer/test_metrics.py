"""What a channel tells about its calls."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading

import grpc
import pytest
from grpc import ChannelConnectivity
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from balancer.metrics import NO_METRICS, ChannelMetrics, EndpointMetrics, Metrics
from balancer.metrics_prometheus import PrometheusMetrics

OK = grpc.StatusCode.OK
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
TARGET = "etcd:///tallystick/ledger"


@pytest.fixture
def registry() -> CollectorRegistry:
    """Where the series are collected."""
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> PrometheusMetrics:
    """Metrics with room for two targets and two endpoints."""
    return PrometheusMetrics(registry, max_targets=2, max_endpoints=2)


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """One sample of the target, as a scrape sees it; None if there is none."""
    return registry.get_sample_value(f"tallystick_{name}", {"target": TARGET} | labels)


def series(registry: CollectorRegistry, label: str) -> set[str]:
    """Every value that `label` has in a scrape."""
    text = generate_latest(registry).decode()
    samples = (
        sample for family in text_string_to_metric_families(text) for sample in family.samples
    )
    return {sample.labels[label] for sample in samples if label in sample.labels}


def test_calls_are_counted_by_code(registry: CollectorRegistry, metrics: Metrics) -> None:
    """Started, ended by code and in flight agree; what has not happened has no series."""
    channel = metrics.channel(TARGET)
    for _ in range(4):
        channel.call_started()
    for code in (OK, UNAVAILABLE, OK):
        channel.call_ended(code, 0.002)
    assert value(registry, "channel_calls_started_total") == 4
    assert value(registry, "channel_calls_ended_total", code="OK") == 2
    assert value(registry, "channel_calls_ended_total", code="UNAVAILABLE") == 1
    assert value(registry, "channel_calls_ended_total", code="ABORTED") is None
    assert value(registry, "channel_calls_in_flight") == 1


@pytest.mark.parametrize(
    ("latency_s", "smallest"), [(0.0, "0.0005"), (0.0005, "0.0005"), (0.3, "0.5"), (99.0, "+Inf")]
)
def test_durations_fall_into_buckets(
    registry: CollectorRegistry, metrics: Metrics, latency_s: float, smallest: str
) -> None:
    """A duration counts in the bucket of which it is at most the bound, and in all above."""
    metrics.channel(TARGET).call_ended(OK, latency_s)
    name = "channel_call_duration_seconds"
    buckets = ["0.0005", "0.25", "0.5", "10.0", "+Inf"]
    expected = [float(buckets.index(each) >= buckets.index(smallest)) for each in buckets]
    assert expected == [value(registry, f"{name}_bucket", le=each) for each in buckets]
    assert value(registry, f"{name}_sum") == latency_s
    assert value(registry, f"{name}_count") == 1


def test_attempts_are_counted_by_endpoint(registry: CollectorRegistry, metrics: Metrics) -> None:
    """Each endpoint of a target has its own attempts, ejections and state changes."""
    channel = metrics.channel(TARGET)
    first, second = channel.endpoint("a:1"), channel.endpoint("b:1")
    first.attempt_started()
    second.attempt_started()
    second.attempt_ended(UNAVAILABLE, 0.1)
    second.ejected()
    second.state_changed(ChannelConnectivity.READY)
    second.state_changed(ChannelConnectivity.TRANSIENT_FAILURE)
    second.state_changed(ChannelConnectivity.READY)
    assert value(registry, "endpoint_attempts_in_flight", endpoint="a:1") == 1
    assert value(registry, "endpoint_attempts_in_flight", endpoint="b:1") == 0
    failed = {"endpoint": "b:1", "code": "UNAVAILABLE"}
    assert value(registry, "endpoint_attempts_ended_total", **failed) == 1
    assert value(registry, "endpoint_attempt_duration_seconds_sum", endpoint="b:1") == 0.1
    assert value(registry, "endpoint_ejections_total", endpoint="b:1") == 1
    changes = {"endpoint": "b:1", "state": "READY"}
    assert value(registry, "endpoint_state_changes_total", **changes) == 2


def test_waits_retries_and_hedges(registry: CollectorRegistry, metrics: Metrics) -> None:
    """Waiting is what has begun and not ended; retries and hedges only grow."""
    channel = metrics.channel(TARGET)
    channel.wait_began()
    channel.wait_began()
    channel.wait_ended()
    channel.retried()
    channel.hedged()
    channel.hedged()
    assert value(registry, "channel_picks_waiting") == 1
    assert value(registry, "channel_retries_total") == 1
    assert value(registry, "channel_hedges_total") == 2


def test_an_endpoint_that_left_is_gone(registry: CollectorRegistry, metrics: Metrics) -> None:
    """Its series go when the last connection to it does, and what ends late brings none back."""
    channel = metrics.channel(TARGET)
    retiring, fresh = channel.endpoint("a:1"), channel.endpoint("a:1")
    retiring.left()
    assert {"a:1"} == series(registry, "endpoint")
    fresh.left()
    fresh.attempt_ended(OK, 0.1)
    assert set() == series(registry, "endpoint")


def test_the_number_of_series_is_bounded(registry: CollectorRegistry, metrics: Metrics) -> None:
    """What is above the limit is counted together, and has room again when others left."""
    channel = metrics.channel(TARGET)
    endpoints = [channel.endpoint(f"{name}:1") for name in "abcd"]
    for each in endpoints:
        each.attempt_started()
    assert {"a:1", "b:1", "(other)"} == series(registry, "endpoint")
    assert value(registry, "endpoint_attempts_started_total", endpoint="(other)") == 2
    for each in endpoints:
        each.left()
    channel.endpoint("e:1")
    assert {"e:1"} == series(registry, "endpoint")


def test_the_number_of_targets_is_bounded(registry: CollectorRegistry, metrics: Metrics) -> None:
    """Targets above the limit share a label, down to their endpoints."""
    channels = [metrics.channel(f"t{number}") for number in range(4)]
    assert {"t0", "t1", "(other)"} == series(registry, "target")
    channels[3].endpoint("a:1").attempt_started()
    labels = {"target": "(other)", "endpoint": "a:1"}
    assert registry.get_sample_value("tallystick_endpoint_attempts_started_total", labels) == 1
    for channel in channels:
        channel.closed()


def test_channels_of_one_target_are_counted_together(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    """Two channels add up; the series stay until both are closed."""
    first, second = metrics.channel(TARGET), metrics.channel(TARGET)
    first.call_started()
    second.call_started()
    first.closed()
    assert value(registry, "channel_calls_started_total") == 2
    second.closed()
    assert set() == series(registry, "target")


def test_threads_lose_no_count(registry: CollectorRegistry, metrics: Metrics) -> None:
    """What several threads count while a scrape reads adds up to the last one."""
    channel = metrics.channel(TARGET)

    def work() -> None:
        for _ in range(2_000):
            channel.call_started()
            channel.call_ended(OK, 0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert 0 <= (value(registry, "channel_calls_in_flight") or 0) <= len(threads)
    assert value(registry, "channel_calls_ended_total", code="OK") == 8_000


def test_the_default_takes_everything_and_keeps_nothing() -> None:
    """NO_METRICS answers each method of each Protocol, with itself where one is asked for."""
    arguments = {"code": OK, "latency_s": 0.1, "state": ChannelConnectivity.READY}
    arguments |= {"target": "t", "address": "a:1"}
    for protocol in (Metrics, ChannelMetrics, EndpointMetrics):
        for name, method in inspect.getmembers(protocol, inspect.isfunction):
            if name.startswith("_"):
                continue
            needed = list(inspect.signature(method).parameters)[1:]
            answer = getattr(NO_METRICS, name)(*(arguments[each] for each in needed))
            assert answer is (NO_METRICS if name in ("channel", "endpoint") else None)


def test_no_prometheus_is_needed() -> None:
    """The package and its seam for metrics import without prometheus-client."""
    program = (
        "import sys; sys.modules['prometheus_client'] = None; import balancer, balancer.metrics"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (b"", 0) == (done.stderr, done.returncode)


def test_one_registry_takes_one(registry: CollectorRegistry, metrics: Metrics) -> None:
    """A second set of the same series in one registry is refused when made, not at a scrape."""
    with pytest.raises(ValueError, match="tallystick"):
        PrometheusMetrics(registry)
