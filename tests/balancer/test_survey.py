"""What a channel tells of itself: `describe`, debug logs and metrics, by calls that are made."""

from __future__ import annotations

import logging

import pytest
from grpc import StatusCode
from grpc_health.v1._async import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from prometheus_client import CollectorRegistry

import balancer
from balancer import BreakerConfig, ChannelConfig, HealthConfig, MethodConfig, MethodConfigs
from balancer.describe import as_dict
from balancer.hedging import HedgingPolicy
from balancer.metrics_prometheus import PrometheusMetrics
from tests.balancer.calls import call, only, unary_unary
from tests.balancer.conftest import StartServer
from tests.balancer.echo import HANG, EchoServer
from tests.support.waiting import eventually


async def healthy(name: bytes) -> EchoServer:
    """A server that says SERVING."""
    server = EchoServer(name)
    server.health = HealthServicer()
    await server.health.set("", HealthCheckResponse.SERVING)
    return await server.start()


async def test_describe_says_who_gets_calls_and_why_the_others_do_not() -> None:
    """A table of the endpoints, with what each server says of itself."""
    a, b = await healthy(b"a"), await healthy(b"b")
    config = ChannelConfig(health=HealthConfig())
    async with balancer.channel(f"static:///{a.address},{b.address}", config=config) as channel:
        await only(channel, "a", "b")
        assert b.health is not None
        await b.health.set("", HealthCheckResponse.NOT_SERVING)
        await only(channel, "a")
        lines = channel.describe().splitlines()
        assert lines[0].endswith("READY, 1 of 2 endpoints take calls, policy round_robin")
        (of_b,) = [line for line in lines[1:] if b.address in line]
        assert "NOT_SERVING" in of_b
        assert of_b.endswith("it says NOT_SERVING")
        facts = as_dict(channel.facts())
        assert {a.address: "", b.address: "it says NOT_SERVING"} == {
            each["address"]: each["not_picked"] for each in facts["endpoints"]
        }
        assert all(each["calls"] >= 1 for each in facts["endpoints"])
    await a.stop()
    await b.stop()


async def test_describe_of_nobody(server: EchoServer) -> None:
    """An endpoint that cannot be reached is told with the reason."""
    await server.stop()
    async with balancer.channel(f"static:///{server.address}") as channel:
        await eventually(lambda: "TRANSIENT_FAILURE" in channel.describe())
        assert "not connected" in channel.describe()
        assert "last error: failed to connect" in channel.describe()


async def test_debug_logs_say_why_an_endpoint_is_not_picked(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Each change is logged with the address and the reason."""
    server = await start_server()
    with caplog.at_level(logging.DEBUG, logger="balancer.pool"):
        async with balancer.channel(f"static:///{server.address}") as channel:
            await channel.channel_ready()
            assert f"{server.address} may be picked" in caplog.text
            await server.stop()
            await eventually(
                lambda: f"{server.address} is not picked: not connected" in caplog.text
            )


async def test_metrics_count_calls_and_attempts(start_server: StartServer) -> None:
    """Counters and a histogram for the channel and for each endpoint, gone when it is closed."""
    registry = CollectorRegistry()
    a, b = await start_server(b"a"), await start_server(b"b")
    target = f"static:///{a.address},{b.address}"

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"target": target, **labels})

    config = ChannelConfig(breaker=BreakerConfig(consecutive_failures=3))
    async with balancer.channel(
        target, config=config, metrics=PrometheusMetrics(registry)
    ) as channel:
        await only(channel, "a", "b")
        before = value("tallystick_channel_calls_started_total")
        assert before is not None
        a.refusal, a.refusal_trailers = StatusCode.UNAVAILABLE, (("tallystick-unprocessed", "1"),)
        for _ in range(8):
            await call(channel)
        assert before + 8 == value("tallystick_channel_calls_started_total")
        assert before + 8 == value("tallystick_channel_calls_ended_total", code="OK")
        assert before + 8 == value("tallystick_channel_call_duration_seconds_count")
        assert 3 == value("tallystick_channel_retries_total")
        failed = {"endpoint": a.address, "code": "UNAVAILABLE"}
        assert 3 == value("tallystick_endpoint_attempts_ended_total", **failed)
        assert 1 == value("tallystick_endpoint_ejections_total", endpoint=a.address)
        changed = {"endpoint": b.address, "state": "READY"}
        assert 1 == value("tallystick_endpoint_state_changes_total", **changed)
        seconds = value("tallystick_endpoint_attempt_duration_seconds_count", endpoint=b.address)
        assert b.calls == seconds
    assert value("tallystick_channel_calls_started_total") is None
    assert value("tallystick_endpoint_attempts_started_total", endpoint=b.address) is None


async def test_metrics_of_calls_that_wait(server: EchoServer) -> None:
    """A call that waits for a connection is counted as long as it does."""
    registry = CollectorRegistry()
    await server.stop()
    target = f"static:///{server.address}"
    async with balancer.channel(target, metrics=PrometheusMetrics(registry)) as channel:
        waiting = unary_unary(channel)(b"x", wait_for_ready=True)
        labels = {"target": target}
        assert 1 == registry.get_sample_value("tallystick_channel_picks_waiting", labels)
        await server.start()
        assert b"server:x" == await waiting
        assert 0 == registry.get_sample_value("tallystick_channel_picks_waiting", labels)


async def test_metrics_of_hedges(start_server: StartServer) -> None:
    """Each attempt beside the first is counted."""
    registry = CollectorRegistry()
    a, b = await start_server(b"a"), await start_server(b"b")
    target = f"static:///{a.address},{b.address}"
    hedged = MethodConfig(idempotent=True, hedging=HedgingPolicy(hedging_delay_s=0.0))
    config = ChannelConfig(methods=MethodConfigs({"": hedged}))
    async with balancer.channel(
        target, config=config, metrics=PrometheusMetrics(registry)
    ) as channel:
        await channel.channel_ready()
        waiting = unary_unary(channel)(HANG)
        await eventually(lambda: a.hanging + b.hanging == 2)
        labels = {"target": target}
        assert 1 == registry.get_sample_value("tallystick_channel_hedges_total", labels)
        for server in (a, b):
            server.release()
        await waiting
