"""The policies that come with the package, and the names they go by."""

from __future__ import annotations

from balancer.policies.random import Random
from balancer.policies.round_robin import RoundRobin
from balancer.policy import register_policy

__all__ = ["Random", "RoundRobin"]

register_policy("random", Random)
register_policy("round_robin", RoundRobin)
