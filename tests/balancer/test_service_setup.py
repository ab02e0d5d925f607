"""gRPC's service config becomes what a channel takes."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

import balancer.policies
from balancer import (
    ChannelConfig,
    FailurePercentageEjection,
    HealthConfig,
    InvalidConfigError,
    MethodConfig,
    MethodConfigs,
    OutlierConfig,
    PickInfo,
    PolicyContext,
    SubsetConfig,
    SuccessRateEjection,
    ThrottleConfig,
    from_field,
)
from balancer.policies import PickFirst, RingHash, RoundRobin
from balancer.policies.ring_hash import RingHashConfig
from balancer.policy import policy_named
from balancer.service_setup import BUILT_IN, ServiceSetup, from_service_config
from balancer.testing import check_policy


def load(base: ChannelConfig | None = None, **document: Any) -> ServiceSetup:
    """That document, over `base`."""
    return from_service_config(json.dumps(document), base=base, policies=("mine",))


def balancing(name: str, base: ChannelConfig | None = None, **parameters: Any) -> ServiceSetup:
    """A document that asks for that policy."""
    return load(base, loadBalancingConfig=[{name: parameters}])


def test_an_empty_document_changes_nothing() -> None:
    """All is as `base` and the default policy are."""
    base = ChannelConfig(default_timeout_s=3.0, health=HealthConfig(service="ledger"))
    assert ("round_robin", base) == load(base)
    assert ("round_robin", ChannelConfig()) == load()
    assert "p2c_ewma" == from_service_config("{}", policy="p2c_ewma").policy


def test_methods_of_the_document_come_before_those_of_the_base() -> None:
    """One that both name has the document's entry, whole."""
    base = ChannelConfig(
        methods=MethodConfigs({"a": MethodConfig(idempotent=True), "b": MethodConfig()})
    )
    config = load(base, methodConfig=[{"name": [{"service": "a"}], "timeout": "2s"}]).config
    assert {"a": MethodConfig(timeout_s=2.0), "b": MethodConfig()} == dict(config.methods.by_name)


def test_throttle_is_the_documents_else_the_bases() -> None:
    """A document without one leaves it."""
    base = ChannelConfig(throttle=ThrottleConfig(max_tokens=7))
    asked = {"maxTokens": 10, "tokenRatio": 0.5}
    assert ThrottleConfig(max_tokens=7) == load(base).config.throttle
    assert (
        ThrottleConfig(max_tokens=10, token_ratio=0.5)
        == load(base, retryThrottling=asked).config.throttle
    )


def test_a_health_service_turns_health_on() -> None:
    """With the limits of the base; one that is disabled stays so (gRFC A17)."""
    asked: dict[str, Any] = {"healthCheckConfig": {"serviceName": "ledger"}}
    base = ChannelConfig(health=HealthConfig(enabled=False, answer_timeout_s=1.0))
    assert HealthConfig(service="ledger") == load(**asked).config.health
    assert (
        HealthConfig(enabled=False, service="ledger", answer_timeout_s=1.0)
        == load(base, **asked).config.health
    )


def test_outlier_detection_is_taken_over_in_full() -> None:
    """An algorithm that it does not name is off, as in gRFC A50."""
    found = balancing(
        "outlier_detection_experimental",
        interval="1s",
        baseEjectionTime="2s",
        maxEjectionTime="3s",
        maxEjectionPercent=40,
        successRateEjection={
            "stdevFactor": 5,
            "enforcementPercentage": 6,
            "minimumHosts": 7,
            "requestVolume": 8,
        },
        childPolicy=[{"weighted_round_robin": {}}],
    )
    expected = OutlierConfig(
        interval_s=1.0,
        base_ejection_time_s=2.0,
        max_ejection_time_s=3.0,
        max_ejection_percent=40,
        success_rate=SuccessRateEjection(
            stdev_factor=5, enforcement_percentage=6, minimum_hosts=7, request_volume=8
        ),
        failure_percentage=None,
    )
    assert ("weighted_round_robin", expected) == (found.policy, found.config.outlier)


def test_failures_by_percentage_are_taken_over() -> None:
    """The other algorithm alone."""
    found = balancing(
        "outlier_detection_experimental",
        failurePercentageEjection={"threshold": 50, "requestVolume": 9},
        childPolicy=[{"round_robin": {}}],
    ).config.outlier
    expected = FailurePercentageEjection(threshold=50, request_volume=9)
    assert found is not None
    assert (None, expected) == (found.success_rate, found.failure_percentage)


def test_a_subset_has_the_name_of_its_client() -> None:
    """That of the base; without one each setup gets a name of its own."""
    wrapped: dict[str, Any] = {"subsetSize": 5, "childPolicy": [{"round_robin": {}}]}
    base = ChannelConfig(subset=SubsetConfig(client_id="me", size=9))
    asked = balancing("random_subsetting_experimental", base, **wrapped).config.subset
    assert SubsetConfig(client_id="me", size=5) == asked
    one, other = (
        balancing("random_subsetting_experimental", **wrapped).config.subset for _ in range(2)
    )
    assert one is not None
    assert other is not None
    assert one.client_id != other.client_id


def test_none_of_this_balancers_policies_is_missing() -> None:
    """As many names as there are policies."""
    assert len(balancer.policies.__all__) == len(BUILT_IN)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_policy_of_this_balancer_can_be_asked_for(name: str) -> None:
    """By its name, besides those of gRPC; each is registered."""
    base = ChannelConfig(hash_key=from_field("id"))
    assert name == balancing(name, base).policy
    policy_named(name, PolicyContext(rng=random.Random(1), hash_key=base.hash_key))


@pytest.mark.parametrize(
    ("grpc_name", "parameters", "name"),
    [
        ("least_request_experimental", {"choiceCount": 5}, "least_connections"),
        ("pick_first", {}, "pick_first"),
        ("mine", {}, "mine"),
    ],
)
def test_what_needs_no_parameters_is_a_name(
    grpc_name: str, parameters: dict[str, Any], name: str
) -> None:
    """So that it can be shared by channels."""
    assert name == balancing(grpc_name, **parameters).policy


def test_pick_first_can_be_shuffled() -> None:
    """As gRFC A62 has it."""
    policy = balancing("pick_first", shuffleAddressList=True).policy
    assert isinstance(policy, PickFirst)
    check_policy(policy)


def test_ring_hash_hashes_the_header_it_is_told() -> None:
    """The channel's hash key is that of the document (gRFC A76)."""
    found = balancing(
        "ring_hash_experimental",
        ChannelConfig(hash_key=from_field("id")),
        minRingSize=64,
        maxRingSize=256,
        requestHashHeader="X-Account",
    )
    assert isinstance(found.policy, RingHash)
    check_policy(found.policy)
    assert found.config.hash_key is not None
    assert b"7" == found.config.hash_key(PickInfo("/s/m", (("x-account", "7"),), None))
    expected = RingHashConfig(virtual_nodes=64, max_points=256)
    assert expected == found.policy._config


def test_ring_hash_of_this_balancer_has_its_own_parameters() -> None:
    """Those of RingHashConfig."""
    base = ChannelConfig(hash_key=from_field("id"))
    found = balancing("ring_hash", base, load_bound=1.5, virtual_nodes=50).policy
    assert isinstance(found, RingHash)
    assert RingHashConfig(load_bound=1.5, virtual_nodes=50) == found._config


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("random", {"sides": 6}, "policy 'random' has no parameter 'sides'"),
        ("mine", {"sides": 6}, "policy 'mine' has no parameter 'sides'"),
        ("ring_hash", {"sides": 6}, "sides"),
        ("ring_hash", {"load_bound": 0.5}, "load_bound is not above 1"),
        ("ring_hash", {"load_bound": "x"}, "policy 'ring_hash'"),
        ("unheard_of", {}, "unheard_of"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, parameters: dict[str, Any], said: str) -> None:
    """By its name, before any call."""
    with pytest.raises(InvalidConfigError, match=said):
        balancing(name, ChannelConfig(hash_key=from_field("id")), **parameters)


def test_ring_hash_without_anything_to_hash_is_refused() -> None:
    """At once, and not by the first call."""
    with pytest.raises(InvalidConfigError, match="hash_key is missing"):
        balancing("ring_hash_experimental")


async def test_a_channel_takes_both() -> None:
    """As they are."""
    policy, config = balancing("round_robin")
    async with balancer.channel("static:///127.0.0.1:1", policy=policy, config=config) as channel:
        assert isinstance(channel, balancer.BalancedChannel)
    assert isinstance(policy_named("round_robin", PolicyContext(rng=random.Random(1))), RoundRobin)
