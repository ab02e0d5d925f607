"""Which connections to etcd there can be: those to its members, or one of somebody else's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import grpc

from discovery.addresses import Reach, reach
from discovery.etcd_config import EtcdClientConfig, EtcdEndpoint, parse_endpoints
from discovery.sync_transport import SyncTransport
from discovery.transport import Transport

Connect: TypeAlias = Callable[[EtcdEndpoint, EtcdClientConfig], Transport]


@runtime_checkable
class HasChannel(Protocol):
    """A client of another library that speaks to etcd: `etcd3.Etcd3Client`.

    We use its channel and the metadata it sends, which holds its token; nothing else.
    """

    channel: grpc.Channel
    metadata: Any


Endpoints: TypeAlias = Sequence[str] | HasChannel


class Route(Protocol):
    """The connections there can be."""

    @property
    def renewable(self) -> bool:
        """Whether another connection may do better than one that failed."""

    @property
    def members(self) -> int:
        """How many different connections there are."""

    @property
    def local(self) -> bool:
        """Whether this etcd is reached over loopback, and so is this machine's own."""

    def connect(self, turn: int) -> Transport:
        """The connection for the `turn`-th try. Raises OSError, ValueError."""


def route_of(endpoints: Endpoints, config: EtcdClientConfig, connect: Connect) -> Route:
    """The way to `endpoints`. Raises ValueError when they are none."""
    if isinstance(endpoints, HasChannel):
        return _Borrowed(endpoints, config)
    return _Members(endpoints, config, connect)


class _Members:
    """Each member in turn."""

    def __init__(
        self, endpoints: Sequence[str], config: EtcdClientConfig, connect: Connect
    ) -> None:
        self._endpoints = parse_endpoints(endpoints, config)
        self._config = config
        self._connect = connect

    @property
    def renewable(self) -> bool:
        # A new connection also reads the certificates again; otherwise gRPC reconnects.
        encrypted = any(endpoint.encrypted for endpoint in self._endpoints)
        return encrypted or len(self._endpoints) > 1

    @property
    def members(self) -> int:
        return len(self._endpoints)

    @property
    def local(self) -> bool:
        return all(reach(each.address) is Reach.LOOPBACK for each in self._endpoints)

    def connect(self, turn: int) -> Transport:
        return self._connect(self._endpoints[turn % len(self._endpoints)], self._config)


class _Borrowed:
    """The one channel of `client`, which stays open when we are done."""

    renewable = False
    members = 1

    def __init__(self, client: HasChannel, config: EtcdClientConfig) -> None:
        if config.tls is not None:
            raise ValueError("tls is the business of the client whose channel is used")
        # With credentials of our own we sign in ourselves, and can do so again.
        metadata = () if config.username else tuple(client.metadata or ())
        self._transport = SyncTransport(client.channel, metadata=metadata, owned=False)
        # etcd3 keeps the address there, and a channel does not tell its own.
        self._address = str(getattr(client, "_url", ""))

    @property
    def local(self) -> bool:
        return reach(self._address) is Reach.LOOPBACK

    def connect(self, turn: int) -> Transport:  # noqa: ARG002 - there is only one
        return self._transport
