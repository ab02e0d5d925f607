"""The types of balancer's public API. mypy checks this file; nothing runs it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import assert_type

import grpc
import grpc.aio
from tallystick.ledger.v1 import ledger_service_pb2, ledger_service_pb2_grpc

import balancer
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
