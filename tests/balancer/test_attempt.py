"""What may be concluded from how an attempt ended."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from balancer.attempt import outcome_of

REFUSED = (
    "failed to connect to all addresses; last error: UNKNOWN: {}: "
    "Failed to connect to remote host: Connection refused"
)


@pytest.mark.parametrize(
    ("seen", "endpoint", "code", "details"),
    [
        pytest.param(
            False,
            "127.0.0.1:5",
            StatusCode.UNAVAILABLE,
            REFUSED.format("ipv4:127.0.0.1:5"),
            id="no connection",
        ),
        pytest.param(
            False,
            "[::1]:5",
            StatusCode.UNAVAILABLE,
            REFUSED.format("ipv6:%5B::1%5D:5"),
            id="no connection, IPv6",
        ),
        pytest.param(
            True,
            "127.0.0.1:5",
            StatusCode.UNAVAILABLE,
            REFUSED.format("ipv4:127.0.0.1:55"),
            id="of a server behind the server",
        ),
        pytest.param(
            True,
            "ledger.example:5",
            StatusCode.UNAVAILABLE,
            REFUSED.format("ipv4:127.0.0.1:5"),
            id="no telling whose address a name has",
        ),
        pytest.param(
            True,
            "127.0.0.1:5",
            StatusCode.UNAVAILABLE,
            "recvmsg:ipv4:127.0.0.1:5: Connection reset by peer",
            id="lost on its way",
        ),
        pytest.param(
            True,
            "127.0.0.1:5",
            StatusCode.UNAVAILABLE,
            "shop: " + REFUSED.format("ipv4:127.0.0.1:5"),
            id="quoted by a server",
        ),
        pytest.param(
            True,
            "127.0.0.1:5",
            StatusCode.INTERNAL,
            REFUSED.format("ipv4:127.0.0.1:5"),
            id="another code",
        ),
    ],
)
def test_only_what_had_no_connection_was_surely_not_seen(
    seen: bool, endpoint: str, code: StatusCode, details: str
) -> None:
    """The words of gRPC tell, if they are about this very address; else it is in doubt."""
    assert seen is outcome_of(code, details, (), endpoint).seen_by_server


def test_what_went_nowhere_says_nothing_about_a_server() -> None:
    """An attempt without an endpoint has the status that it was given here."""
    assert outcome_of(StatusCode.UNAVAILABLE, REFUSED, (), None).endpoint is None
