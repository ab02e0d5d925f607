"""From how far an address can be reached, judged by its text alone. Pure.

An address in a registry is read on other hosts than the one that wrote it. There
`127.0.0.1:50051` is whatever that host runs on the port, and payments would go to it.

A numeric host counts only in its one canonical form. gRPC's resolver hands the text to
getaddrinfo, which takes `2130706433`, `127.1`, `0x7f.0.0.1` and `0177.0.0.1` for
127.0.0.1, while others read the last as 177.0.0.1 or refuse it: a text that two readers
take for two hosts is MALFORMED, whichever hosts they are.

A name is not looked up. That one resolves to a loopback address cannot be seen here.
"""

from __future__ import annotations

import re
from enum import Enum
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address
from typing import Final

_ADDRESS = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)(?:%(?P<zone>[A-Za-z0-9._~-]{1,32}))?\]"
    r"|(?P<host>[A-Za-z0-9_][A-Za-z0-9._-]{0,252})"
    r"):(?P<port>[0-9]{1,5})"
)
_MAX_PORT: Final = 65535
# What inet_aton may take for a number, when it ends a host (as in the URL standard,
# "ends in a number"). `0x` alone is zero to some.
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")

# RFC 6761 section 6.3, and what Debian, Red Hat and macOS put in /etc/hosts.
_LOOPBACK_NAMES: Final = frozenset(
    {
        "localhost",
        "localhost4",
        "localhost6",
        "localhost.localdomain",
        "localhost4.localdomain4",
        "localhost6.localdomain6",
        "ip6-localhost",
        "ip6-loopback",
    }
)
_LOOPBACK_DOMAIN = ".localhost"

# RFC 1122 section 3.2.1.3: all of it is "this host". Linux connects 0.0.0.0 to itself.
_THIS_NETWORK: Final = IPv4Network("0.0.0.0/8")
_BROADCAST: Final = IPv4Address("255.255.255.255")
_COMPATIBLE_BITS: Final = 32


class Reach(Enum):
    """Who can connect to an address and meet the server that registered it."""

    ANYWHERE = "anywhere"
    """Whoever has a route. Private networks are among these."""
    LOOPBACK = "loopback"
    """Its own host."""
    LINK_LOCAL = "link-local"
    """Its own network segment."""
    UNSPECIFIED = "unspecified"
    """Nobody: an address to listen on, which on most systems connects to oneself."""
    MULTICAST = "multicast"
    """Nobody in particular; broadcast is among these. gRPC runs over neither."""
    MALFORMED = "malformed"
    """Not host:port, or a numeric host that is not canonical."""


def reach(address: str) -> Reach:
    """How far `address` reaches: `host:port`, an IPv6 host in brackets.

    An IPv4 address within an IPv6 one (`::ffff:127.0.0.1`) counts as the former. An IPv6
    zone (`%eth0`) names an interface of one host, so with one nothing reaches ANYWHERE.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match["port"]) <= _MAX_PORT:
        return Reach.MALFORMED
    try:
        if match["v6"] is None:
            return _of_host(match["host"])
        found = _of_v6(IPv6Address(match["v6"]))
    except AddressValueError:
        return Reach.MALFORMED
    return Reach.LINK_LOCAL if match["zone"] and found is Reach.ANYWHERE else found


def _of_host(host: str) -> Reach:
    """Raises AddressValueError."""
    name = host.lower().removesuffix(".")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        return _of_v4(IPv4Address(host))
    if name in _LOOPBACK_NAMES or name.endswith(_LOOPBACK_DOMAIN):
        return Reach.LOOPBACK
    return Reach.ANYWHERE


def _of_v4(ip: IPv4Address) -> Reach:
    if ip in _THIS_NETWORK:
        return Reach.UNSPECIFIED
    if ip == _BROADCAST:
        return Reach.MULTICAST
    return _by_flags(ip)


def _of_v6(ip: IPv6Address) -> Reach:
    embedded = _embedded_v4(ip)
    return _by_flags(ip) if embedded is None else _of_v4(embedded)


def _embedded_v4(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address in a mapped or (deprecated) compatible one, RFC 4291 section 2.5.5."""
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    compatible = int(ip) >> _COMPATIBLE_BITS == 0 and not (ip.is_unspecified or ip.is_loopback)
    return IPv4Address(int(ip)) if compatible else None


def _by_flags(ip: IPv4Address | IPv6Address) -> Reach:
    if ip.is_unspecified:
        return Reach.UNSPECIFIED
    if ip.is_loopback:
        return Reach.LOOPBACK
    if ip.is_link_local:
        return Reach.LINK_LOCAL
    return Reach.MULTICAST if ip.is_multicast else Reach.ANYWHERE
