"""A circuit breaker per endpoint: who fails time after time is left alone for a while.

The states are Nygard's (Release It!, chapter 5): CLOSED lets calls pass and counts
failures in a row; OPEN lets none pass; after a wait that doubles with each failed probe
HALF_OPEN lets one pass, and its outcome decides. Outlier ejection compares an endpoint
with its peers over many calls; a breaker needs no peers and five calls.

What counts as a failure is narrow, since an open breaker cuts off everybody:

- UNAVAILABLE: the endpoint could not be reached or sent the caller elsewhere.
- DEADLINE_EXCEEDED: without it an endpoint that accepts and never answers would cost each
  caller a whole deadline and never be found. A caller with a hopelessly short deadline can
  trip it only where nobody else gets an answer in between.

Every other status is an answer, so the endpoint lives: that ends a row of failures and
closes a half-open breaker. INTERNAL and UNKNOWN are among them because one poisonous
request, retried everywhere, would otherwise open one breaker after another. A call that
was cancelled or never started says nothing.

A call takes a ticket when it starts and hands it back when it ends. Each change of state,
and each new probe, makes older tickets void, so that late news of calls from before is
never taken for news of the probe.

Threads: no locks. Two that ask in the same instant may both get a probe, of which the
later counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from grpc import StatusCode

from balancer.errors import InvalidConfigError

Ticket: TypeAlias = int

_OK: Final = StatusCode.OK
FAILURES: Final = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED})
_SILENT: Final = frozenset({None, StatusCode.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerConfig:
    """When an endpoint is left alone, and how much it is given at most.

    `consecutive_failures` open the breaker for `open_s`, which doubles with every failed
    probe up to `max_open_s`; a probe that has not ended by then is joined by another.
    `max_in_flight` calls run at an endpoint at a time. gRFC A32 has the same limit, 1024,
    for a whole cluster; per endpoint it grows with the fleet and protects each of it.

    Raises InvalidConfigError.
    """

    consecutive_failures: int = 5
    open_s: float = 1.0
    max_open_s: float = 30.0
    max_in_flight: int = 1_024

    def __post_init__(self) -> None:
        for name in ("consecutive_failures", "open_s", "max_open_s", "max_in_flight"):
            if not getattr(self, name) > 0:
                raise InvalidConfigError(f"{name} is not above 0: {getattr(self, name)}")
        if self.open_s > self.max_open_s:
            raise InvalidConfigError("open_s is above max_open_s")


class BreakerState(Enum):
    """Whether calls pass."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class BreakerEvent(Enum):
    """What moves a breaker."""

    TRIPPED = "too many failures in a row"
    WAITED = "the wait is over and a probe starts"
    PROBE_SUCCEEDED = "the probe was answered"
    PROBE_FAILED = "the probe failed"


TRANSITIONS: Final[Mapping[tuple[BreakerState, BreakerEvent], BreakerState]] = {
    (BreakerState.CLOSED, BreakerEvent.TRIPPED): BreakerState.OPEN,
    (BreakerState.OPEN, BreakerEvent.WAITED): BreakerState.HALF_OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.PROBE_SUCCEEDED): BreakerState.CLOSED,
    (BreakerState.HALF_OPEN, BreakerEvent.PROBE_FAILED): BreakerState.OPEN,
}


# Looked up by calls; a member of an enum is found in Python.
_CLOSED: Final = BreakerState.CLOSED
_OPEN: Final = BreakerState.OPEN
_HALF_OPEN: Final = BreakerState.HALF_OPEN


class Breaker:
    """The breaker of one endpoint. All times are monotonic seconds.

    `retry_at_s` is when the next call may pass; of no meaning while CLOSED. `failures` are
    those in a row that count; 0 only while CLOSED, when one more success changes nothing.
    """

    def __init__(self, config: BreakerConfig) -> None:
        self.state = _CLOSED
        self.retry_at_s = 0.0
        self._config = config
        self._open_s = config.open_s
        self.failures = 0
        self._valid: Ticket = 0

    def __repr__(self) -> str:
        return f"<Breaker {self.state.value}>"

    def admits(self, now_s: float) -> bool:
        """Whether a call may pass now; asks and changes nothing."""
        return self.state is _CLOSED or now_s >= self.retry_at_s

    def try_start(self, now_s: float) -> Ticket | None:
        """A ticket for a call that starts now; None if it must not.

        The ticket is to be handed to `finish`. While not CLOSED, the call is the probe.
        """
        if self.state is _CLOSED:
            return self._valid
        if now_s < self.retry_at_s:
            return None
        if self.state is _OPEN:
            self._apply(BreakerEvent.WAITED)
        self._valid += 1
        self.retry_at_s = now_s + self._open_s
        return self._valid

    def finish(self, ticket: Ticket, code: StatusCode | None, now_s: float) -> bool:
        """Takes note of how a call ended; `code` is None if it was never started.

        True if who may pass has changed by it.
        """
        if ticket != self._valid or self.state is _OPEN:
            return False
        if self.state is _HALF_OPEN:
            self._finish_probe(code, now_s)
            return True
        if code is _OK:
            self.failures = 0
            return False
        return self._finish_unsuccessful(code, now_s)

    def _finish_probe(self, code: StatusCode | None, now_s: float) -> None:
        if code in _SILENT:
            self.retry_at_s = now_s
        elif code in FAILURES:
            self._open_s = min(2 * self._open_s, self._config.max_open_s)
            self._open(BreakerEvent.PROBE_FAILED, now_s)
        else:
            self._open_s = self._config.open_s
            self.failures = 0
            self._apply(BreakerEvent.PROBE_SUCCEEDED)

    def _finish_unsuccessful(self, code: StatusCode | None, now_s: float) -> bool:
        if code in FAILURES:
            self.failures += 1
        elif code not in _SILENT:
            self.failures = 0
        if self.failures < self._config.consecutive_failures:
            return False
        self._open(BreakerEvent.TRIPPED, now_s)
        return True

    def _open(self, event: BreakerEvent, now_s: float) -> None:
        # First the time: another thread that sees OPEN must find it.
        self.retry_at_s = now_s + self._open_s
        self._apply(event)

    def _apply(self, event: BreakerEvent) -> None:
        self.state = TRANSITIONS[self.state, event]
        self._valid += 1
