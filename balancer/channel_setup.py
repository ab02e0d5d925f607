"""What a channel of either kind is made of, from what its maker says."""

from __future__ import annotations

import random
from typing import TypeVar

from balancer.config import ChannelConfig
from balancer.errors import MissingResolverError
from balancer.policy import Policy, PolicyContext, policy_named
from balancer.slow_start import SlowStart
from discovery.static_resolver import StaticResolver
from discovery.target import Target

R = TypeVar("R")


def policy_of(policy: str | Policy, config: ChannelConfig, rng: random.Random) -> Policy:
    """The policy by that name, or as given; starting slowly where `config` says so.

    Raises UnknownPolicyError, InvalidConfigError.
    """
    context = PolicyContext(rng=rng, hash_key=config.hash_key)
    if isinstance(policy, str):
        policy = policy_named(policy, context)
    if config.slow_start is None:
        return policy
    return SlowStart(policy, config.slow_start, context)


def resolver_of(target: Target, resolver: R | None) -> R | StaticResolver:
    """Who resolves `target`: itself if it is a list. Raises MissingResolverError."""
    if target.scheme == "static":
        return StaticResolver(target.addresses)
    if resolver is None:
        raise MissingResolverError(f"{target} needs a resolver: resolver=...")
    return resolver
