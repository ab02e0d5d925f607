"""The policies that come with the package, and the names they go by."""

from __future__ import annotations

from balancer.policies.hash import Hash
from balancer.policies.least_connections import LeastConnections
from balancer.policies.p2c_ewma import P2cEwma
from balancer.policies.pick_first import PickFirst
from balancer.policies.random import Random
from balancer.policies.ring_hash import RingHash
from balancer.policies.round_robin import RoundRobin
from balancer.policies.weighted_round_robin import WeightedRoundRobin
from balancer.policy import register_policy

__all__ = [
    "Hash",
    "LeastConnections",
    "P2cEwma",
    "PickFirst",
    "Random",
    "RingHash",
    "RoundRobin",
    "WeightedRoundRobin",
]

register_policy("hash", Hash)
register_policy("least_connections", LeastConnections)
register_policy("p2c_ewma", P2cEwma)
register_policy("pick_first", PickFirst)
register_policy("random", Random)
register_policy("ring_hash", RingHash)
register_policy("round_robin", RoundRobin)
register_policy("weighted_round_robin", WeightedRoundRobin)
