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
from collections.abc import Sequence
from enum import Enum
from ipaddress import AddressValueError, IPv6Address
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
# By hand, since ipaddress takes four times as long and 10,000 endpoints come at once.
_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_V4 = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}")

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

_MULTICAST: Final = range(224, 240)
_BROADCAST: Final = (255, 255, 255, 255)
# The first 12 octets of a (deprecated) compatible and of a mapped address, RFC 4291
# section 2.5.5.
_V4_WITHIN: Final = (bytes(12), bytes(10) + b"\xff\xff")


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
    if match["v6"] is None:
        return _of_host(match["host"])
    found = _of_v6(match["v6"])
    return Reach.LINK_LOCAL if match["zone"] and found is Reach.ANYWHERE else found


def _of_host(host: str) -> Reach:
    quad = _V4.fullmatch(host)
    if quad is not None:
        return _of_v4([int(octet) for octet in quad.groups()])
    name = host.lower().removesuffix(".")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        return Reach.MALFORMED
    if name in _LOOPBACK_NAMES or name.endswith(_LOOPBACK_DOMAIN):
        return Reach.LOOPBACK
    return Reach.ANYWHERE


def _of_v4(octets: Sequence[int]) -> Reach:
    first, second, *_ = octets
    # RFC 1122 section 3.2.1.3: all of 0/8 is "this host". Linux connects 0.0.0.0 to itself.
    if first == 0:
        return Reach.UNSPECIFIED
    if first == 127:
        return Reach.LOOPBACK
    if (first, second) == (169, 254):
        return Reach.LINK_LOCAL
    broadcast = tuple(octets) == _BROADCAST
    return Reach.MULTICAST if broadcast or first in _MULTICAST else Reach.ANYWHERE


def _of_v6(host: str) -> Reach:
    try:
        ip = IPv6Address(host)
    except AddressValueError:
        return Reach.MALFORMED
    if ip.is_unspecified:
        return Reach.UNSPECIFIED
    if ip.is_loopback:
        return Reach.LOOPBACK
    if ip.packed[:12] in _V4_WITHIN:
        return _of_v4(ip.packed[12:])
    if ip.is_link_local:
        return Reach.LINK_LOCAL
    return Reach.MULTICAST if ip.is_multicast else Reach.ANYWHERE
