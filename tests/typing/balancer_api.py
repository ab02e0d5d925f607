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
