"""The types of balancer's public API. mypy checks this file; nothing runs it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, assert_type

import grpc
import grpc.aio
import prometheus_client
from tallystick.ledger.v1 import ledger_service_pb2, ledger_service_pb2_grpc

import balancer
from balancer.describe import ChannelFacts, EndpointFacts, as_dict
from balancer.metrics import ChannelMetrics, EndpointMetrics, Metrics
from balancer.metrics_prometheus import PrometheusMetrics
from discovery.resolver import Resolver
from discovery.sync import SyncResolver


class First:
    """A policy is any class with `build`, its picker any with `pick`."""

    def build(self, subchannels: Sequence[balancer.Subchannel]) -> FirstPicker:
        """Over `subchannels`."""
        return FirstPicker(subchannels[0])


class FirstPicker:
    """Always the same."""

    def __init__(self, first: balancer.Subchannel) -> None:
        self._first = first

    def pick(self, info: balancer.PickInfo) -> balancer.PickResult:
        """The first, and its end is nobody's business."""
        assert_type(info.method, str)
        return balancer.PickResult(self._first, on_done=self._on_done)

    def _on_done(self, code: grpc.StatusCode | None) -> None: ...


def a_first(context: balancer.PolicyContext) -> balancer.Policy:
    """A factory for the registry."""
    return First()


async def use(resolver: Resolver) -> None:
    """As a user would write it."""
    balancer.register_policy("first", a_first)
    assert_type(
        balancer.policy_named("first", balancer.PolicyContext(rng=random.Random(1))),
        balancer.Policy,
    )
    config = balancer.ChannelConfig(default_timeout_s=5.0)
    channel = balancer.channel("ledger", resolver=resolver, policy=First(), config=config)
    assert_type(channel, balancer.BalancedChannel)
    as_any_channel: grpc.aio.Channel = channel
    async with channel as entered:
        assert_type(entered, balancer.BalancedChannel)
        assert_type(channel.get_state(), grpc.ChannelConnectivity)
        stub: ledger_service_pb2_grpc.LedgerServiceAsyncStub
        stub = ledger_service_pb2_grpc.LedgerServiceStub(channel)
        account = await stub.GetAccount(ledger_service_pb2.GetAccountRequest(), timeout=1.0)
        assert_type(account, ledger_service_pb2.GetAccountResponse)
    await as_any_channel.close(grace=1.0)


def use_from_threads(resolver: SyncResolver) -> None:
    """The same without an event loop."""
    channel = balancer.sync_channel("ledger", resolver=resolver, policy=First())
    assert_type(channel, balancer.BalancedSyncChannel)
    as_any_channel: grpc.Channel = channel
    with channel as entered:
        assert_type(entered, balancer.BalancedSyncChannel)
        stub = ledger_service_pb2_grpc.LedgerServiceStub(channel)
        account = stub.GetAccount(ledger_service_pb2.GetAccountRequest(), timeout=1.0)
        assert_type(account, ledger_service_pb2.GetAccountResponse)
    as_any_channel.close()


class Passes(grpc.aio.UnaryUnaryClientInterceptor):
    """Passes calls of coroutines on."""

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        """As grpc.aio."""
        return await continuation(client_call_details, request)


class SyncPasses(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Passes calls of threads on."""

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """As grpc."""
        return continuation(client_call_details, request)

    def intercept_unary_stream(
        self, continuation: Any, client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """As grpc."""
        return continuation(client_call_details, request)


async def use_everything(resolver: Resolver) -> None:
    """What `channel` takes besides, and what the channel tells."""
    metrics: Metrics = PrometheusMetrics(prometheus_client.CollectorRegistry())
    channel = balancer.channel(
        "ledger",
        resolver=resolver,
        config=balancer.ChannelConfig(lazy=True),
        interceptors=[Passes()],
        metrics=metrics,
        rng=random.Random(1),
    )
    told(channel.facts(), channel.describe())
    unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/pkg.S/Read")
    call = unary(b"", timeout=1.0)
    assert_type(channel.when_draining(call, lambda moved: moved.cancel()), None)
    # A call of threads is not one of coroutines.
    channel.when_draining(None, print)  # type: ignore[arg-type]
    balancer.channel("ledger", interceptors=[SyncPasses()])  # type: ignore[list-item]
    assert_type(await channel.channel_ready(), None)


def use_everything_from_threads(resolver: SyncResolver, metrics: Metrics) -> None:
    """The same for threads."""
    channel = balancer.sync_channel(
        "ledger",
        resolver=resolver,
        config=balancer.ChannelConfig(lazy=True),
        interceptors=[SyncPasses()],
        metrics=metrics,
        rng=random.Random(1),
    )
    told(channel.facts(), channel.describe())
    assert_type(channel.get_state(try_to_connect=True), grpc.ChannelConnectivity)
    unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/pkg.S/Read")
    assert_type(channel.when_draining(unary.future(b""), lambda moved: moved.cancel()), None)
    channel.when_draining(None, print)  # type: ignore[arg-type]
    balancer.sync_channel("ledger", interceptors=[Passes()])  # type: ignore[list-item]


def told(facts: ChannelFacts, text: str) -> dict[str, Any]:
    """What a channel tells of itself, to programs and to people."""
    assert_type(facts.endpoints, tuple[EndpointFacts, ...])
    assert_type([each.ejected_for_s for each in facts.endpoints], list[float | None])
    assert_type(text, str)
    return as_dict(facts)


def count(metrics: Metrics) -> None:
    """Who counts is told of channels, calls and endpoints."""
    assert_type(metrics.channel("ledger"), ChannelMetrics)
    assert_type(metrics.channel("ledger").endpoint("a:1"), EndpointMetrics)


def configure(text: str) -> balancer.ServiceSetup:
    """Everything that can be set, and what a service config adds to it."""
    assert_type(balancer.from_metadata("x-account"), balancer.HashKey)
    assert_type(balancer.from_callable(lambda info: info.method), balancer.HashKey)
    reads = balancer.MethodConfig(
        timeout_s=1.0,
        idempotent=True,
        retry=balancer.RetryPolicy(
            max_attempts=3, retryable_codes=frozenset({grpc.StatusCode.UNAVAILABLE})
        ),
    )
    hedged = balancer.MethodConfig(
        idempotent=True, hedging=balancer.HedgingPolicy(hedging_delay_s=0.1)
    )
    config = balancer.ChannelConfig(
        health=balancer.HealthConfig(),
        breaker=balancer.BreakerConfig(),
        outlier=balancer.OutlierConfig(
            success_rate=balancer.SuccessRateEjection(),
            failure_percentage=balancer.FailurePercentageEjection(),
        ),
        eligibility=balancer.EligibilityConfig(),
        slow_start=balancer.SlowStartConfig(),
        zones=balancer.ZoneConfig(zone="a"),
        subset=balancer.SubsetConfig(client_id="order-0"),
        hash_key=balancer.from_field("account_id"),
        methods=balancer.MethodConfigs({"/pkg.Service/Read": reads, "pkg.Other": hedged}),
        throttle=balancer.ThrottleConfig(),
    )
    policy, merged = balancer.from_service_config(text, base=config, policies=("first",))
    assert_type(policy, str | balancer.Policy)
    assert_type(merged, balancer.ChannelConfig)
    return balancer.ServiceSetup(policy, merged)
