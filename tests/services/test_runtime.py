"""What a process is told, checked before anything is opened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from services.coordinator.__main__ import ONE_PHASE, takes_one_phase
from services.runtime import METRICS_PORT_OFFSET, CannotStart, RuntimeConfig, metrics_address

GOOD = RuntimeConfig(
    service="ledger", replica=1, address="127.0.0.1:50061", etcd=("e:1",), home=Path("home")
)


def test_names_follow_from_it() -> None:
    """The process and its data are named after the service; replicas share the data."""
    assert ("ledger-1", Path("home/data")) == (GOOD.id, GOOD.data)
    assert GOOD.data == replace(GOOD, replica=2).data


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "127.1.2.3:50051", "[::1]:50051", "localhost:1"]
)
def test_loopback_addresses(address: str) -> None:
    """Every name of this machine for itself will do."""
    assert address == replace(GOOD, address=address).address


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:50051", "10.0.0.7:50051", "[::]:50051", "example.com:50051", ":50051", "50051"],
)
def test_other_addresses_are_refused_with_the_reason(address: str) -> None:
    """Callers are not authenticated, so nobody outside may be one."""
    with pytest.raises(CannotStart, match="not authenticated yet"):
        replace(GOOD, address=address)


def test_another_address_may_be_registered() -> None:
    """There may be a proxy before it; a proxy of another machine is refused as well."""
    assert "127.0.0.1:50061" == GOOD.advertised
    assert "127.0.0.1:9" == replace(GOOD, advertise="127.0.0.1:9").advertised
    with pytest.raises(CannotStart, match="not authenticated yet"):
        replace(GOOD, advertise="10.0.0.7:50051")


@pytest.mark.parametrize("port", ["", "x", "0", "65536", "-1", "\u00b2", "\u0661", "9" * 5000])
def test_ports_are_checked(port: str) -> None:
    """From 1 to 65535."""
    with pytest.raises(CannotStart, match="port"):
        replace(GOOD, address=f"127.0.0.1:{port}")


def test_metrics_are_served_on_loopback_only() -> None:
    """They say how much is paid, and when."""
    assert "127.0.0.1:9000" == replace(GOOD, metrics="127.0.0.1:9000").metrics
    with pytest.raises(CannotStart, match="not a loopback address"):
        replace(GOOD, metrics="0.0.0.0:9000")


def test_one_rule_says_where_all_of_a_mesh_serve_metrics() -> None:
    """Each as many ports above its own; nowhere if nothing is said."""
    assert "" == metrics_address("127.0.0.1:50061", {})
    variables = {METRICS_PORT_OFFSET: "1000"}
    assert "127.0.0.1:51061" == metrics_address("127.0.0.1:50061", variables)
    for offset in ("-1", "\u00b2", "9" * 5000):
        with pytest.raises(CannotStart, match=METRICS_PORT_OFFSET):
            metrics_address("127.0.0.1:50061", {METRICS_PORT_OFFSET: offset})


def test_a_registry_is_needed() -> None:
    """Without one nobody would find the service."""
    with pytest.raises(CannotStart, match="etcd"):
        replace(GOOD, etcd=())


def test_one_phase_is_on_or_off() -> None:
    """What is neither is refused: it may have been meant to turn it off."""
    assert takes_one_phase({})
    assert takes_one_phase({ONE_PHASE: "1"})
    assert not takes_one_phase({ONE_PHASE: "0"})
    with pytest.raises(CannotStart, match=f"{ONE_PHASE} is neither 0 nor 1"):
        takes_one_phase({ONE_PHASE: "false"})
