"""How to reach etcd and how long to wait for it; checked once, before anything is opened."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from discovery.addresses import Reach, reach
from discovery.variables import (
    CA_VARIABLE,
    CERT_VARIABLE,
    KEY_VARIABLE,
    PASSWORD_VARIABLE,
    USER_VARIABLE,
)

MAX_ENDPOINTS: Final = 16
MAX_PEM_BYTES: Final = 1024 * 1024
MAX_SHOWN_CHARS: Final = 200
_ETCD_MIN_PING_S: Final = 5.0
_FIRST_RECONNECT_MS: Final = 100
_PLAIN, _ENCRYPTED = "http://", "https://"


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdTls:
    """Encrypted connections: whom to trust, and who we are.

    `ca` is a PEM file of the authorities that may vouch for etcd; without it those of
    gRPC count. `certificate` and `key` are PEM files for an etcd that asks for a client
    certificate. `server_name` is what etcd's certificate has to say, where that is not
    the host of the endpoint. The files are read whenever a connection is made, so
    renewed ones are found. Raises ValueError for a certificate without its key.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files. Raises OSError, and ValueError for one over MAX_PEM_BYTES."""
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca),
            private_key=_read(self.key),
            certificate_chain=_read(self.certificate),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdClientConfig:
    """Limits of an EtcdClient; raises ValueError on nonsense.

    `request_timeout_s` bounds each unary call and the opening of each stream.
    `connect_timeout_s` bounds one attempt to connect; between attempts the back-off grows to
    `reconnect_backoff_max_s`.
    `page_size` is the number of keys asked for at once. A connection that is silent for
    `ping_after_s` is pinged, and dropped after `ping_timeout_s` without an answer.
    `tls` encrypts; `username` and `password` sign in. A token is renewed when etcd no
    longer takes it; refused credentials are not shown again for `refused_pause_s`, since
    each try costs etcd a password hash.
    """

    request_timeout_s: float = 3.0
    page_size: int = 1000
    connect_timeout_s: float = 3.0
    reconnect_backoff_max_s: float = 2.0
    ping_after_s: float = 10.0
    ping_timeout_s: float = 5.0
    refused_pause_s: float = 10.0
    tls: EtcdTls | None = None
    username: str = ""
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.page_size < 1:
            raise ValueError("page_size must be at least 1")
        for name in _INTERVALS:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite")
        # etcd closes connections that ping more often (--grpc-keepalive-min-time).
        if self.ping_after_s < _ETCD_MIN_PING_S:
            raise ValueError(f"ping_after_s must be at least {_ETCD_MIN_PING_S}")
        if bool(self.username) != bool(self.password):
            raise ValueError("username and password go together")

    def channel_options(self) -> list[tuple[str, int | str]]:
        """The same, as gRPC's channel arguments."""
        options: list[tuple[str, int | str]] = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", _FIRST_RECONNECT_MS),
            ("grpc.min_reconnect_backoff_ms", _ms(self.connect_timeout_s)),
            ("grpc.max_reconnect_backoff_ms", _ms(self.reconnect_backoff_max_s)),
            ("grpc.keepalive_time_ms", _ms(self.ping_after_s)),
            ("grpc.keepalive_timeout_ms", _ms(self.ping_timeout_s)),
            # gRPC Core heeds this one instead, which is a minute unless it is set (grpc#39239),
            ("grpc.http2.ping_timeout_ms", _ms(self.ping_timeout_s)),
            # and a silent watch would be pinged twice, and then once a minute.
            ("grpc.http2.max_pings_without_data", 0),
        ]
        if self.tls is not None and self.tls.server_name:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return options


def config_from(environ: Mapping[str, str]) -> EtcdClientConfig:
    """The way to etcd as the environment describes it: files of TLS, user and password.

    Raises ValueError for half of a pair.
    """
    files = {name: environ.get(name) for name in (CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE)}
    ca, certificate, key = (Path(file) if file else None for file in files.values())
    tls = EtcdTls(ca=ca, certificate=certificate, key=key) if any(files.values()) else None
    return EtcdClientConfig(
        tls=tls,
        username=environ.get(USER_VARIABLE, ""),
        password=environ.get(PASSWORD_VARIABLE, ""),
    )


@dataclass(frozen=True, slots=True)
class EtcdEndpoint:
    """One member of the cluster: `host:port`, and whether connections are encrypted."""

    address: str
    encrypted: bool


def parse_endpoints(endpoints: Sequence[str], config: EtcdClientConfig) -> tuple[EtcdEndpoint, ...]:
    """Reads `host:port`, `http://host:port` and `https://host:port`.

    Without a scheme `config.tls` decides. Raises ValueError for nonsense, for none or more
    than MAX_ENDPOINTS, and where only some would be encrypted: a failure of those would
    send in the clear what was meant to be secret.
    """
    if isinstance(endpoints, str) or not 1 <= len(endpoints) <= MAX_ENDPOINTS:
        raise ValueError(f"a list of 1 to {MAX_ENDPOINTS} etcd endpoints is needed")
    parsed = tuple(_endpoint(each, config.tls is not None) for each in endpoints)
    if len({endpoint.encrypted for endpoint in parsed}) > 1:
        raise ValueError("some etcd endpoints are encrypted and some are not")
    return parsed


def _endpoint(text: str, tls: bool) -> EtcdEndpoint:
    shown = repr(text[:MAX_SHOWN_CHARS])
    if tls and text.startswith(_PLAIN):
        raise ValueError(f"etcd endpoint {shown} is not encrypted, but tls is configured")
    address = text.removeprefix(_PLAIN).removeprefix(_ENCRYPTED).rstrip("/")
    if reach(address) is Reach.MALFORMED:
        raise ValueError(f"not an etcd endpoint (host:port): {shown}")
    return EtcdEndpoint(address, tls or text.startswith(_ENCRYPTED))


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    with path.open("rb") as file:
        content = file.read(MAX_PEM_BYTES + 1)
    if len(content) > MAX_PEM_BYTES:
        raise ValueError(f"{path} is no PEM file: more than {MAX_PEM_BYTES} bytes")
    return content


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


_INTERVALS = (
    "request_timeout_s",
    "connect_timeout_s",
    "reconnect_backoff_max_s",
    "ping_after_s",
    "ping_timeout_s",
    "refused_pause_s",
)
