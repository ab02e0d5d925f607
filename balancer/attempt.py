"""One attempt of a call: how it ended, and what its server said about another one.

Shared by retries and hedges. The rule on which both stand: an attempt surely did nothing
if it never left this process, or if the server says that it did not begin with it. The
second is said by the trailer `tallystick-unprocessed`, which a server sets on a call that it
turns away (shed, draining) before any handler ran.

Sources: gRFC A6, sections Pushback, Transparent Retries and Exposed Retry Metadata.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias
from urllib.parse import unquote

import grpc

from balancer.errors import InvalidConfigError

MAX_ATTEMPTS: Final = 5
"""Attempts of one call, the first included, whatever is configured (gRFC A6)."""

PUSHBACK_TRAILER: Final = "grpc-retry-pushback-ms"
UNPROCESSED_TRAILER: Final = "tallystick-unprocessed"
PREVIOUS_ATTEMPTS: Final = "grpc-previous-rpc-attempts"

Trailers: TypeAlias = Collection[tuple[str, str | bytes]]

# Of a channel's pick_first, which a subchannel's one address is picked by.
_NO_CONNECTION: Final = "failed to connect to all addresses; last error: "
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,9})")
_INT32_MAX: Final = 2**31 - 1
_SAYS_NO: Final = frozenset({"", "0", "false"})
# What was given up here, or came too late, does not become right elsewhere.
_OVER: Final = frozenset({grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED})


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOutcome:
    """How an attempt ended.

    `endpoint` is the address it went to, None if there was none. `seen_by_server` is False
    only if the attempt cannot have left this process, since gRPC had no connection for it
    from its start to its end (`found_no_connection`). In doubt it is True.
    """

    code: grpc.StatusCode
    endpoint: str | None = None
    trailers: Trailers = ()
    seen_by_server: bool = True

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.code is grpc.StatusCode.OK

    @property
    def surely_undone(self) -> bool:
        """Whether no handler can have run, so that anyone may do it again."""
        if self.code in _OVER:
            return False
        return not self.seen_by_server or said_unprocessed(self.trailers)


Pushback: TypeAlias = float | Literal["never"] | None
"""Seconds after which the server wants the next attempt; None if it does not say."""


def pushback(trailers: Trailers) -> Pushback:
    """What a server asks for; "never" if it is negative, unreadable or said twice."""
    values = [value for key, value in trailers if key == PUSHBACK_TRAILER]
    if not values:
        return None
    value = values[0]
    if len(values) > 1 or not isinstance(value, str) or not _INTEGER.fullmatch(value):
        return "never"
    milliseconds = int(value)
    return milliseconds / 1000 if 0 <= milliseconds <= _INT32_MAX else "never"


def said_unprocessed(trailers: Trailers) -> bool:
    """Whether the server says that it did not begin with the call."""
    return any(
        key == UNPROCESSED_TRAILER and isinstance(value, str) and value.lower() not in _SAYS_NO
        for key, value in trailers
    )


def outcome_of(
    code: grpc.StatusCode, details: str, trailers: Trailers, endpoint: str | None
) -> AttemptOutcome:
    """How an attempt ended, of which gRPC says so much."""
    seen = endpoint is None or not found_no_connection(code, details, endpoint)
    return AttemptOutcome(code=code, endpoint=endpoint, trailers=trailers, seen_by_server=seen)


def found_no_connection(code: grpc.StatusCode, details: str, endpoint: str) -> bool:
    """Whether gRPC says that it could not connect to the address `endpoint` for an attempt.

    An attempt starts where its subchannel is READY, and that may be over before gRPC gets to it:
    then it waits for a new connection, and fails with the attempt to make that, unsent. Only
    gRPC's own words tell this from an attempt that was lost on its way. A server that passes on
    such words, of a server behind it, passes on the address of that; where a name stands for the
    address there is no telling.
    """
    if code is not grpc.StatusCode.UNAVAILABLE or not details.startswith(_NO_CONNECTION):
        return False
    return f":{endpoint}: " in unquote(details)


def attempt_metadata(previous_attempts: int) -> tuple[tuple[str, str], ...]:
    """Metadata to add to an attempt that follows others; none on the first."""
    return ((PREVIOUS_ATTEMPTS, str(previous_attempts)),) if previous_attempts else ()


def check_max_attempts(value: int) -> None:
    """Raises InvalidConfigError unless 1 to MAX_ATTEMPTS."""
    if not 1 <= value <= MAX_ATTEMPTS:
        raise InvalidConfigError(f"max_attempts is not 1 to {MAX_ATTEMPTS}: {value}")


def check_codes(name: str, codes: frozenset[grpc.StatusCode]) -> None:
    """Raises InvalidConfigError if success is among what is tried again."""
    if grpc.StatusCode.OK in codes:
        raise InvalidConfigError(f"{name} has OK in it")
