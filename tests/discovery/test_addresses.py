from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.addresses import Reach, reach

_ANYWHERE = [
    "10.0.0.7",
    "192.168.1.1",
    "172.16.0.1",
    "100.64.0.1",
    "8.8.8.8",
    "126.255.255.255",
    "128.0.0.1",
    "169.253.255.255",
    "223.255.255.255",
    "240.0.0.1",
    "[2001:db8::1]",
    "[fd00::1]",
    "[64:ff9b::8.8.8.8]",
    "[::ffff:10.0.0.7]",
    "[::ffff:0a00:0007]",
    "ledger",
    "ledger-0.ledger.svc.cluster.local",
    "ledger.example.com.",
    "my_host",
    "localhost.example.com",
    "notlocalhost",
    "0x7f.example",
    "1.2.3.4.example",
    "3com",
    "0xledger",
]
_LOOPBACK = [
    "127.0.0.1",
    "127.0.0.0",
    "127.1.2.3",
    "127.255.255.255",
    "localhost",
    "LOCALHOST",
    "LocalHost.",
    "ledger.localhost",
    "a.b.localhost.",
    "localhost.localdomain",
    "localhost4",
    "localhost6",
    "localhost4.localdomain4",
    "localhost6.localdomain6",
    "ip6-localhost",
    "ip6-loopback",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::FFFF:7F00:0001]",
    "[0:0:0:0:0:ffff:127.9.9.9]",
    "[::127.0.0.1]",
    "[::1%lo]",
    "[::1%1]",
]
_LINK_LOCAL = [
    "169.254.0.0",
    "169.254.169.254",
    "[fe80::1]",
    "[febf::1]",
    "[fe80::1%eth0]",
    "[fe80::1%25eth0]",
    "[fe80::1%2]",
    "[::ffff:169.254.1.1]",
    "[2001:db8::1%eth0]",
]
_UNSPECIFIED = [
    "0.0.0.0",
    "0.0.0.1",
    "0.255.255.255",
    "[::]",
    "[0:0:0:0:0:0:0:0]",
    "[::%eth0]",
    "[::ffff:0.0.0.0]",
    "[::ffff:0:0]",
]
_MULTICAST = [
    "224.0.0.1",
    "239.255.255.255",
    "255.255.255.255",
    "[ff02::1]",
    "[ff02::1%eth0]",
    "[ff0e::1]",
    "[::ffff:224.0.0.1]",
    "[::ffff:255.255.255.255]",
]
_OTHER_FORMS_OF_A_NUMBER = [
    "2130706433",
    "127.1",
    "127.0.1",
    "0x7f.0.0.1",
    "0X7F.1",
    "0x7f000001",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.01",
    "127.0.0.0x1",
    "010.0.0.1",
    "10.1",
    "0",
    "00.0.0.0",
    "1",
    "4294967295",
]
_MALFORMED_HOSTS = [
    *_OTHER_FORMS_OF_A_NUMBER,
    "0x",
    "127.0x",
    "08",
    "256.0.0.1",
    "1.2.3",
    "1.2.3.4.5",
    "4294967296",
    "127.0.0.1.",
    "127..1",
    "example.1",
    "::1",
    "fe80::1",
    "[127.0.0.1]",
    "[::g]",
    "[1::2::3]",
    "[]",
    "[::ffff:127.0.0.01]",
    "[::ffff:127.1]",
    "[fe80::1%]",
    "[fe80::1%eth0%eth1]",
    "[fe80::1%e/th]",
    "127.0.0.1%lo",
    "user@127.0.0.1",
    "127.0.0.1/8",
    "127\u30020\u30020\u30021",
    "\uff11\uff12\uff17.0.0.1",
    "\u0661\u0662\u0667.0.0.1",
    "loc\u00adalhost",
    "localhost\n",
    " localhost",
    "local host",
    "local\0host",
    ".localhost",
    "-a",
    "a" * 254,
    "",
]
_TABLE = [
    *((host, Reach.ANYWHERE) for host in _ANYWHERE),
    *((host, Reach.LOOPBACK) for host in _LOOPBACK),
    *((host, Reach.LINK_LOCAL) for host in _LINK_LOCAL),
    *((host, Reach.UNSPECIFIED) for host in _UNSPECIFIED),
    *((host, Reach.MULTICAST) for host in _MULTICAST),
    *((host, Reach.MALFORMED) for host in _MALFORMED_HOSTS),
]


@pytest.mark.parametrize(("host", "expected"), _TABLE)
def test_reach_of_a_host(host: str, expected: Reach) -> None:
    """By the text, whatever the port."""
    assert expected == reach(f"{host}:50051")


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.7",
        "10.0.0.7:",
        "10.0.0.7:0",
        "10.0.0.7:65536",
        "10.0.0.7:-1",
        "10.0.0.7:+1",
        "10.0.0.7:http",
        "10.0.0.7:1:2",
        "10.0.0.7:\uff18\uff10",
        "10.0.0.7:50051\n",
        "[::1]",
        "[::1]50051",
        ":50051",
        "unix:/run/ledger",
        "dns:///ledger:50051",
        "http://10.0.0.7:50051",
        "",
        "1" * 100_000,
        ":" * 100_000,
    ],
)
def test_what_is_not_host_and_port(address: str) -> None:
    """MALFORMED, however long it is."""
    assert reach(address) is Reach.MALFORMED


@pytest.mark.parametrize("host", _OTHER_FORMS_OF_A_NUMBER)
def test_the_other_forms_are_ones_that_the_system_would_connect_to(host: str) -> None:
    """Each is an address to inet_aton, which is why it must not pass for a name."""
    assert socket.inet_aton(host)


@given(st.ip_addresses())
def test_no_ip_address_is_malformed_in_its_own_form(ip: IPv4Address | IPv6Address) -> None:
    """Whatever the standard library writes is read."""
    host = f"[{ip}]" if ip.version == 6 else str(ip)

    assert reach(f"{host}:1") is not Reach.MALFORMED


@given(st.ip_addresses(v=4))
def test_it_agrees_with_the_standard_library(ip: IPv4Address) -> None:
    """On every IPv4 address that it names; 0.0.0.0/8 and broadcast are this table's own."""
    expected = Reach.ANYWHERE
    if ip.packed[0] == 0:
        expected = Reach.UNSPECIFIED
    elif ip.is_loopback:
        expected = Reach.LOOPBACK
    elif ip.is_link_local:
        expected = Reach.LINK_LOCAL
    elif ip.is_multicast or str(ip) == "255.255.255.255":
        expected = Reach.MULTICAST

    assert expected is reach(f"{ip}:1") is reach(f"[::ffff:{ip}]:1")


_PARTS = st.builds(
    lambda number, form: form.format(number),
    st.sampled_from([0, 1, 8, 10, 127, 128, 255, 256, 65535, 16777215, 2130706433, 4294967295]),
    st.sampled_from(["{}", "{:02}", "{:#x}", "{:#X}", "0{:o}", "0x0{:x}"]),
)


@given(st.lists(_PARTS, min_size=1, max_size=5))
def test_what_the_system_takes_for_an_address_is_never_taken_for_a_name(parts: list[str]) -> None:
    """Either it is in canonical form, or it is MALFORMED."""
    host = ".".join(parts)
    try:
        ip = IPv4Address(socket.inet_aton(host))
    except OSError:
        return

    assert reach(f"{host}:1") is (reach(f"{ip}:1") if str(ip) == host else Reach.MALFORMED)


@given(st.text(max_size=40))
def test_it_never_raises(address: str) -> None:
    """Whatever stands in the registry."""
    assert isinstance(reach(address), Reach)
