"""What a user writes to say whom to call, and what it means.

    etcd:///tallystick/ledger     the service of that name in the registry
    static:///10.0.0.7:1,b:2      these addresses, and no registry
    ledger                        short for etcd:///tallystick/ledger

The forms are gRPC's (grpc/doc/naming.md: scheme, authority, endpoint); an authority is
refused because which etcd to ask is the resolver's business, not the target's.

Errors: InvalidTargetError, a NamingError and so a ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from discovery.endpoint import Endpoint, NamingError, service_prefix

NAMESPACE: Final = "tallystick"
MAX_STATIC_ADDRESSES: Final = 1024

Scheme = Literal["etcd", "static"]


class InvalidTargetError(NamingError):
    """The text names nobody who could be called."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to call: a `service` of the registry, or these `addresses` and no registry."""

    scheme: Scheme
    service: str = ""
    addresses: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The full form, which `parse_target` reads back as an equal Target."""
        return f"{self.scheme}:///{self.service or ','.join(self.addresses)}"


def parse_target(text: str) -> Target:
    """Reads a target in any of the three forms.

    Raises InvalidTargetError.
    """
    scheme, separator, path = text.partition(":///")
    try:
        if not separator:
            return _bare(text)
        if scheme == "etcd":
            return _etcd(path)
        if scheme == "static":
            return _static(path)
    except NamingError as error:
        raise InvalidTargetError(f"{text[:200]!r}: {error}") from None
    raise InvalidTargetError(f"{text[:200]!r}: the scheme is neither etcd nor static")


def _bare(name: str) -> Target:
    if "/" in name or ":" in name:
        raise InvalidTargetError("a name without etcd:/// or static:/// has no '/' or ':'")
    return _etcd(f"{NAMESPACE}/{name}")


def _etcd(service: str) -> Target:
    service_prefix(service)
    return Target("etcd", service=service)


def _static(path: str) -> Target:
    addresses = tuple(path.split(","))
    if len(addresses) > MAX_STATIC_ADDRESSES:
        raise InvalidTargetError(f"more than {MAX_STATIC_ADDRESSES} addresses")
    for address in addresses:
        Endpoint(address)
    return Target("static", addresses=addresses)
