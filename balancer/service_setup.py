"""A channel's policy and config from gRPC's own service config.

    policy, config = from_service_config(text, base=ChannelConfig(...))
    channel = balancer.channel("ledger", resolver=resolver, policy=policy, config=config)

What the document says takes the place of what `base` says, and the rest stays: gRPC has no
words for breakers, zones or slow starts. `balancer.service_config` has what is read and how;
here the names of gRPC meet those of this balancer.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any, Final, NamedTuple

from balancer.config import ChannelConfig
from balancer.errors import InvalidConfigError, shown
from balancer.hash_key import from_metadata
from balancer.health import HealthConfig
from balancer.lb_config import LoadBalancing, OutlierParameters
from balancer.method_config import MethodConfigs
from balancer.outlier import FailurePercentageEjection, OutlierConfig, SuccessRateEjection
from balancer.policies import PickFirst, RingHash
from balancer.policies.ring_hash import RingHashConfig
from balancer.policy import Policy, PolicyContext
from balancer.service_config import load_service_config
from balancer.subsetting import SubsetConfig

BUILT_IN: Final = frozenset(
    {
        "hash",
        "least_connections",
        "p2c_ewma",
        "pick_first",
        "random",
        "ring_hash",
        "round_robin",
        "weighted_round_robin",
    }
)
"""Policies that a document may name besides those that gRPC has."""

_HEADER: Final = "request_hash_header"
# gRPC bounds the size of the whole ring; a unit of weight gets at least one, all at most the other.
_RING_FIELDS: Final = {"min_ring_size": "virtual_nodes", "max_ring_size": "max_points"}
# What has no effect: of two is what this balancer chooses (gRFC A48's default).
_IGNORED: Final = {"least_connections": frozenset({"choice_count"})}


class ServiceSetup(NamedTuple):
    """What `channel` and `sync_channel` take as `policy` and `config`.

    `policy` is a name, or a Policy where the document has parameters for it; such a one is
    for one channel.
    """

    policy: str | Policy
    config: ChannelConfig


def from_service_config(
    text: str | bytes,
    *,
    base: ChannelConfig | None = None,
    policy: str = "round_robin",
    policies: Collection[str] = (),
    rng: random.Random | None = None,
) -> ServiceSetup:
    """Reads a service config of gRPC's over `base`.

    `policy` is used if the document names none; `policies` are registered ones of your own
    that it may name. A method that both have an entry for has the document's. A subset has
    the `client_id` of `base`, else one made up here.

    Raises InvalidConfigError, which names the field.
    """
    base = ChannelConfig() if base is None else base
    document = load_service_config(text, policies={*BUILT_IN, *policies})
    balancing = document.load_balancing or LoadBalancing(policy=policy)
    config = replace(
        base,
        methods=MethodConfigs({**base.methods.by_name, **document.methods.by_name}),
        throttle=document.throttle or base.throttle,
        health=_health(document.health_service_name, base.health),
        outlier=_outlier(balancing.outlier) or base.outlier,
        subset=_subset(balancing.subset_size, base.subset),
    )
    header = balancing.parameters.get(_HEADER)
    if isinstance(header, str):
        config = replace(config, hash_key=from_metadata(header))
    context = PolicyContext(rng=rng or random.Random(), hash_key=config.hash_key)  # noqa: S311 - as in `channel`
    return ServiceSetup(_policy(balancing, context), config)


def _health(service: str | None, base: HealthConfig | None) -> HealthConfig | None:
    return base if service is None else replace(base or HealthConfig(), service=service)


def _subset(size: int | None, base: SubsetConfig | None) -> SubsetConfig | None:
    if size is None:
        return base
    return SubsetConfig(client_id=base.client_id if base else uuid.uuid4().hex, size=size)


def _outlier(asked: OutlierParameters | None) -> OutlierConfig | None:
    if asked is None:
        return None
    rate, percentage = asked.success_rate, asked.failure_percentage
    return OutlierConfig(
        interval_s=asked.interval_s,
        base_ejection_time_s=asked.base_ejection_time_s,
        max_ejection_time_s=asked.max_ejection_time_s,
        max_ejection_percent=asked.max_ejection_percent,
        success_rate=None if rate is None else SuccessRateEjection(**asdict(rate)),
        failure_percentage=(
            None if percentage is None else FailurePercentageEjection(**asdict(percentage))
        ),
    )


def _policy(balancing: LoadBalancing, context: PolicyContext) -> str | Policy:
    """The name, unless there is something to tell the policy."""
    name = balancing.policy
    without_effect = {_HEADER, *_IGNORED.get(name, ())}
    parameters = {k: v for k, v in balancing.parameters.items() if k not in without_effect}
    if name == "pick_first" and parameters.keys() <= {"shuffle_address_list"}:
        is_shuffled = bool(parameters.get("shuffle_address_list"))
        return PickFirst(context, shuffle=True) if is_shuffled else name
    if name == "ring_hash" and parameters:
        return RingHash(context, _ring(parameters))
    if parameters:
        raise InvalidConfigError(f"policy {name!r} has no parameter {shown(min(parameters))}")
    return name


def _ring(parameters: Mapping[str, Any]) -> RingHashConfig:
    named = {_RING_FIELDS.get(name, name): value for name, value in parameters.items()}
    try:
        return RingHashConfig(**named)
    except TypeError as error:
        raise InvalidConfigError(f"policy 'ring_hash': {error}") from None
