"""What a channel of threads tells of itself: `describe`, health and metrics."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from prometheus_client import CollectorRegistry

from balancer import ChannelConfig, HealthConfig
from balancer.metrics_prometheus import PrometheusMetrics
from balancer.sync_channel import sync_channel
from tests.balancer.echo import FAIL, HANG, UNARY_STREAM, UNARY_UNARY
from tests.balancer.sync.conftest import StartServer
from tests.balancer.sync.echo import EchoServer
from tests.balancer.sync.waiting import eventually, only, reaches, served_by

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
NOTICED_WITHIN_S = 1.0


@pytest.fixture
def healths() -> dict[str, health.HealthServicer]:
    """The health service of each server, by the server's name."""
    return {name: health.HealthServicer() for name in ("a", "b")}


@pytest.fixture
def target(healths: dict[str, health.HealthServicer]) -> Iterator[str]:
    """Two servers with the health service; each says SERVING."""
    servers = [EchoServer(name.encode()) for name in healths]
    for server, servicer in zip(servers, healths.values(), strict=True):
        servicer.set("", SERVING)
        server.health = servicer
        server.start()
    yield "static:///" + ",".join(server.address for server in servers)
    for server in servers:
        server.stop()


def test_who_does_not_serve_gets_nothing(
    target: str, healths: dict[str, health.HealthServicer]
) -> None:
    """A server that says NOT_SERVING is left out within a second, until it says otherwise."""
    with sync_channel(target, config=ChannelConfig(health=HealthConfig())) as channel:
        only(channel, "a", "b")
        said_at = time.monotonic()
        healths["a"].set("", NOT_SERVING)
        only(channel, "b")
        assert time.monotonic() - said_at < NOTICED_WITHIN_S
        assert "it says NOT_SERVING" in channel.describe()
        healths["a"].set("", SERVING)
        only(channel, "a", "b")


def test_a_server_without_the_health_service_counts_as_healthy(server: EchoServer) -> None:
    """It is asked, and used all the same."""
    target = f"static:///{server.address}"
    with sync_channel(target, config=ChannelConfig(health=HealthConfig())) as channel:
        assert {"server": 3} == served_by(channel, 3)
        assert "SERVING" in channel.describe()


def test_a_server_that_comes_back_is_asked_again(server: EchoServer) -> None:
    """What was known of the connection that is lost does not count for the next."""
    target = f"static:///{server.address}"
    with sync_channel(target, config=ChannelConfig(health=HealthConfig())) as channel:
        only(channel, "server")
        server.stop()
        eventually(lambda: channel.facts().endpoints[0].health == "UNKNOWN")
        server.start()
        reaches(channel, grpc.ChannelConnectivity.READY)
        only(channel, "server")


def test_metrics_count_calls_and_attempts(start_server: StartServer) -> None:
    """Blocking calls, futures and streams alike, those that nobody holds included."""
    registry = CollectorRegistry()
    server = start_server()
    target = f"static:///{server.address}"

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"target": target, **labels})

    def ended() -> float:
        codes = ("OK", "FAILED_PRECONDITION", "CANCELLED")
        of = [value("tallystick_channel_calls_ended_total", code=code) for code in codes]
        return sum(each or 0 for each in of)

    with sync_channel(target, metrics=PrometheusMetrics(registry)) as channel:
        unary: Any = channel.unary_unary(UNARY_UNARY)
        stream: Any = channel.unary_stream(UNARY_STREAM)
        unary(b"x")
        with pytest.raises(grpc.RpcError):
            unary(FAIL)
        assert b"server:x" == unary.future(b"x").result()
        list(stream(b"x"))
        dropped = stream(HANG)
        eventually(lambda: server.hanging == 1)
        del dropped
        gc.collect()
        eventually(lambda: ended() == 5)
        assert 5 == value("tallystick_channel_calls_started_total")
        assert 3 == value("tallystick_channel_calls_ended_total", code="OK")
        assert 1 == value("tallystick_channel_calls_ended_total", code="FAILED_PRECONDITION")
        eventually(
            lambda: (
                value("tallystick_endpoint_attempt_duration_seconds_count", endpoint=server.address)
                == 5
            )
        )
    assert value("tallystick_channel_calls_started_total") is None


def test_metrics_of_calls_that_wait(server: EchoServer) -> None:
    """A call that waits for a connection is counted as long as it does."""
    registry = CollectorRegistry()
    server.stop()
    target = f"static:///{server.address}"
    with (
        sync_channel(target, metrics=PrometheusMetrics(registry)) as channel,
        ThreadPoolExecutor(1) as threads,
    ):
        unary: Any = channel.unary_unary(UNARY_UNARY)
        waiting = threads.submit(unary, b"x", wait_for_ready=True)
        labels = {"target": target}

        def waits() -> float | None:
            return registry.get_sample_value("tallystick_channel_picks_waiting", labels)

        eventually(lambda: waits() == 1)
        assert 1 == channel.facts().waiting
        server.start()
        assert b"server:x" == waiting.result()
        assert 0 == waits()
