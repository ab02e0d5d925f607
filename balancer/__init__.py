"""Which endpoint gets this call: a grpc.aio channel over everyone who serves a target.

    channel = balancer.channel("ledger", resolver=resolver)
    stub = LedgerServiceStub(channel)
    await stub.GetAccount(request, timeout=1.0)

Policies are registered by name; one of your own is a class and a line (`balancer.policy`).
"""

from __future__ import annotations

import balancer.policies as _builtin_policies  # noqa: F401 - registers them
from balancer.channel import BalancedChannel, channel
from balancer.config import ChannelConfig
from balancer.errors import (
    BalancerError,
    InvalidConfigError,
    MissingResolverError,
    PolicyNameTakenError,
    UnknownPolicyError,
)
from balancer.policy import (
    CompletionHook,
    HashKey,
    Picker,
    PickInfo,
    PickResult,
    Policy,
    PolicyContext,
    Subchannel,
    policy_named,
    register_policy,
)

__all__ = [
    "BalancedChannel",
    "BalancerError",
    "ChannelConfig",
    "CompletionHook",
    "HashKey",
    "InvalidConfigError",
    "MissingResolverError",
    "PickInfo",
    "PickResult",
    "Picker",
    "Policy",
    "PolicyContext",
    "PolicyNameTakenError",
    "Subchannel",
    "UnknownPolicyError",
    "channel",
    "policy_named",
    "register_policy",
]
