"""A channel in words."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from balancer.describe import (
    MAX_ENDPOINTS_SHOWN,
    ChannelFacts,
    EndpointFacts,
    as_dict,
    as_text,
)

_SERVES = EndpointFacts(
    address="10.0.0.1:1",
    zone="a",
    weight=100,
    state="READY",
    health="SERVING",
    in_flight=2,
    calls=1_204,
)
_SICK = EndpointFacts(
    address="10.0.0.12:1",
    zone="b",
    state="READY",
    health="NOT_SERVING",
    calls=17,
    last_error="it says NOT_SERVING",
    not_picked="unhealthy: it says NOT_SERVING",
)
_EJECTED = EndpointFacts(
    address="10.0.0.3:1",
    zone="b",
    state="READY",
    health="SERVING",
    ejected_for_s=12.34,
    not_picked="outlier",
    last_error="UNAVAILABLE: gone",
)


def channel(*endpoints: EndpointFacts, **facts: Any) -> ChannelFacts:
    """A channel to these."""
    return ChannelFacts(
        **{"target": "ledger", "policy": "round_robin", "state": "READY"} | facts,
        endpoints=endpoints,
    )


def test_a_channel_is_a_table() -> None:
    """One line per endpoint, numbers to the right, and why some get no calls."""
    assert as_text(channel(_SERVES, _SICK, _EJECTED)).splitlines() == [
        "ledger: READY, 1 of 3 endpoints take calls, policy round_robin",
        "  ADDRESS      ZONE  WEIGHT  STATE  HEALTH       IN FLIGHT  CALLS  NOTE",
        "  10.0.0.1:1   a        100  READY  SERVING              2  1,204",
        "  10.0.0.12:1  b          1  READY  NOT_SERVING          0     17"
        "  unhealthy: it says NOT_SERVING",
        "  10.0.0.3:1   b          1  READY  SERVING              0      0"
        "  outlier; ejected for 12.3 s more; last error: UNAVAILABLE: gone",
    ]


def test_columns_that_say_nothing_are_left_out() -> None:
    """Without zones, health checks or errors there is no such column."""
    bare = EndpointFacts(address="a:1", state="READY")
    assert as_text(channel(bare)).splitlines()[1:] == [
        "  ADDRESS  WEIGHT  STATE  IN FLIGHT  CALLS",
        "  a:1           1  READY          0      0",
    ]


def test_a_channel_without_endpoints_says_why() -> None:
    """Calls that wait and what the resolver complains of are told, without a table."""
    facts = channel(state="TRANSIENT_FAILURE", waiting=1_500, error="etcd is away")
    assert as_text(facts).splitlines() == [
        "ledger: TRANSIENT_FAILURE, 0 of 0 endpoints take calls, policy round_robin, "
        "1,500 calls wait",
        "  resolver: etcd is away",
    ]


def test_a_large_fleet_is_shortened() -> None:
    """Those that get no calls are shown first, and the rest is counted."""
    fleet = [EndpointFacts(address=f"a:{port}", state="READY") for port in range(1_200)]
    lines = as_text(channel(*fleet, _SICK)).splitlines()
    assert MAX_ENDPOINTS_SHOWN + 3 == len(lines)
    assert lines[2].strip().startswith("10.0.0.12:1")
    assert lines[3].strip().startswith("a:0 ")
    assert lines[-1].strip() == "and 1,151 more"


def test_hostile_text_stays_on_its_line() -> None:
    """Escape codes, line breaks, direction marks and long messages cannot deface the table."""
    hostile = EndpointFacts(
        address="a:1", state="READY", last_error="\x1b[2J\r\nfine\u202e" + "x" * 10_000
    )
    row = as_text(channel(hostile)).splitlines()[-1]
    assert "last error: \\x1b[2J\\r\\nfine\\u202exxx" in row
    assert len(row) < 250


_TEXT = st.text(max_size=20)
_FACTS = st.builds(
    EndpointFacts,
    address=_TEXT,
    state=st.sampled_from(["READY", "IDLE"]),
    zone=_TEXT,
    last_error=_TEXT,
    not_picked=_TEXT,
    ejected_for_s=st.none() | st.floats(0, 1e6),
)


@given(st.lists(_FACTS, max_size=5))
def test_every_line_is_printable(endpoints: list[EndpointFacts]) -> None:
    """Whatever the facts say: a headline, one for the headings, one per endpoint."""
    lines = as_text(channel(*endpoints)).split("\n")
    assert (2 + len(endpoints) if endpoints else 1) == len(lines)
    assert all(line.isprintable() for line in lines)


def test_the_dict_is_json_and_complete() -> None:
    """Every fact survives a round through JSON, unshortened."""
    facts = channel(_SERVES, _EJECTED, waiting=3)
    read = json.loads(json.dumps(as_dict(facts)))
    assert facts == ChannelFacts(
        **read | {"endpoints": tuple(EndpointFacts(**each) for each in read["endpoints"])}
    )
