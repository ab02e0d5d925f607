import discovery


def test_the_public_names_are_these() -> None:
    """Whoever adds or removes a public name does so on purpose."""
    assert sorted(discovery.__all__) == [
        "CompactedError",
        "Endpoint",
        "EtcdClient",
        "EtcdClientConfig",
        "EtcdError",
        "EtcdResolver",
        "EtcdResolverConfig",
        "EtcdTls",
        "FileResolver",
        "FileResolverConfig",
        "GapError",
        "InvalidServiceNameError",
        "InvalidTargetError",
        "LeaseNotFoundError",
        "Listener",
        "MalformedEndpointError",
        "NAMESPACE",
        "NamingError",
        "PermissionDeniedError",
        "Registrar",
        "Registration",
        "RejectedError",
        "Resolver",
        "ResolverState",
        "ResourceExhaustedError",
        "Session",
        "StaticResolver",
        "StoreRolledBackError",
        "Subscription",
        "SyncRegistrar",
        "SyncRegistration",
        "SyncResolver",
        "Target",
        "UnauthenticatedError",
        "UnavailableError",
        "decode_key",
        "decode_value",
        "encode_key",
        "encode_value",
        "parse_target",
        "service_prefix",
    ]


def test_every_public_name_is_there() -> None:
    """__all__ promises nothing that is missing."""
    assert [name for name in discovery.__all__ if not hasattr(discovery, name)] == []
