"""The facts that `channel.describe()` tells, gathered from a channel of either kind."""

from __future__ import annotations

from balancer.connection import Connection
from balancer.describe import ChannelFacts, EndpointFacts
from balancer.policy import Policy
from balancer.pool import Pool


def survey(pool: Pool, *, policy: str, waiting: int) -> ChannelFacts:
    """The channel over `pool` at this moment; may be called from any thread."""
    endpoints = pool.connections()
    return ChannelFacts(
        target=pool.target,
        policy=policy,
        state=pool.state.name,
        waiting=waiting,
        error=pool.resolver_error,
        endpoints=tuple(_facts(pool, each) for each in endpoints),
    )


def name_of(policy: str | Policy) -> str:
    """What people know a policy by: its registered name, else that of its class."""
    return policy if isinstance(policy, str) else type(policy).__name__


def _facts(pool: Pool, connection: Connection) -> EndpointFacts:
    endpoint, health = connection.endpoint, connection.health
    return EndpointFacts(
        address=endpoint.address,
        state=connection.state.name,
        zone=endpoint.zone,
        weight=endpoint.weight,
        health="" if health is None else health.health.name,
        ejected_for_s=pool.ejected_for_s(endpoint.address),
        in_flight=connection.in_flight,
        calls=connection.calls,
        last_error=connection.last_error,
        not_picked=pool.why_not_picked(connection),
    )
