"""Who serves what, and where: endpoints in etcd, registered, watched and resolved.

client = EtcdClient(["127.0.0.1:2379"])
registrar = Registrar(client)
await registrar.register("tallystick/ledger", Endpoint("10.0.0.7:50051", zone="a"))

resolver = EtcdResolver(client)
resolver.subscribe("tallystick/ledger", lambda state: print(state.endpoints))
"""

from discovery.endpoint import (
    Endpoint,
    InvalidServiceNameError,
    MalformedEndpointError,
    NamingError,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
    service_prefix,
)
from discovery.etcd_client import EtcdClient
from discovery.etcd_config import EtcdClientConfig, EtcdTls
from discovery.etcd_resolver import EtcdResolver
from discovery.etcd_types import (
    CompactedError,
    EtcdError,
    GapError,
    LeaseNotFoundError,
    PermissionDeniedError,
    RejectedError,
    ResourceExhaustedError,
    StoreRolledBackError,
    UnauthenticatedError,
    UnavailableError,
)
from discovery.file_resolver import FileResolver, FileResolverConfig
from discovery.registrar import Registrar
from discovery.registration import Registration
from discovery.resolver import Listener, Resolver, ResolverState, Subscription
from discovery.resolver_config import EtcdResolverConfig
from discovery.session import Session
from discovery.static_resolver import StaticResolver
from discovery.sync import SyncRegistrar, SyncRegistration, SyncResolver
from discovery.target import NAMESPACE, InvalidTargetError, Target, parse_target

__all__ = [
    "NAMESPACE",
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
