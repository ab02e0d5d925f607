"""Which endpoint gets this call: a gRPC channel over everyone who serves a target.

    channel = balancer.channel("ledger", resolver=resolver)             # grpc.aio
    channel = balancer.sync_channel("ledger", resolver=sync_resolver)   # threads
    stub = LedgerServiceStub(channel)

Policies are registered by name; one of your own is a class and a line (`balancer.policy`).
What holds for a channel is one frozen `ChannelConfig`, by hand or out of gRPC's service config
(`from_service_config`).
"""

from __future__ import annotations

import balancer.policies as _builtin_policies  # noqa: F401 - registers them
from balancer.breaker import BreakerConfig
from balancer.channel import BalancedChannel, channel
from balancer.config import ChannelConfig
from balancer.eligibility import EligibilityConfig
from balancer.errors import (
    BalancerError,
    InvalidConfigError,
    MissingResolverError,
    PolicyNameTakenError,
    UnknownPolicyError,
)
from balancer.hash_key import from_callable, from_field, from_metadata
from balancer.health import HealthConfig
from balancer.hedging import HedgingPolicy
from balancer.method_config import MethodConfig, MethodConfigs
from balancer.outlier import FailurePercentageEjection, OutlierConfig, SuccessRateEjection
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
from balancer.retry import RetryPolicy
from balancer.service_setup import ServiceSetup, from_service_config
from balancer.slow_start import SlowStartConfig
from balancer.subsetting import SubsetConfig
from balancer.sync_channel import BalancedSyncChannel, sync_channel
from balancer.throttle import ThrottleConfig
from balancer.zones import ZoneConfig

__all__ = [
    "BalancedChannel",
    "BalancedSyncChannel",
    "BalancerError",
    "BreakerConfig",
    "ChannelConfig",
    "CompletionHook",
    "EligibilityConfig",
    "FailurePercentageEjection",
    "HashKey",
    "HealthConfig",
    "HedgingPolicy",
    "InvalidConfigError",
    "MethodConfig",
    "MethodConfigs",
    "MissingResolverError",
    "OutlierConfig",
    "PickInfo",
    "PickResult",
    "Picker",
    "Policy",
    "PolicyContext",
    "PolicyNameTakenError",
    "RetryPolicy",
    "ServiceSetup",
    "SlowStartConfig",
    "Subchannel",
    "SubsetConfig",
    "SuccessRateEjection",
    "ThrottleConfig",
    "UnknownPolicyError",
    "ZoneConfig",
    "channel",
    "from_callable",
    "from_field",
    "from_metadata",
    "from_service_config",
    "policy_named",
    "register_policy",
    "sync_channel",
]
