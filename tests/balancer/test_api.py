import balancer


def test_the_public_names_are_these() -> None:
    """Whoever adds or removes a public name does so on purpose."""
    assert sorted(balancer.__all__) == [
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


def test_every_public_name_is_there() -> None:
    """__all__ promises nothing that is missing."""
    assert [name for name in balancer.__all__ if not hasattr(balancer, name)] == []
