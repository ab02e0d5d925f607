"""The same call sent to several endpoints, a little apart; the first answer counts.

gRFC A6, section Hedging Policy: what makes one slow endpoint no longer slow a call, at the
price of load, for methods that may run more than once. A `HedgeState` decides; whoever
drives it does what `step` says:

    hedges = HedgeState(policy, throttle, deadline_s=...)
    while True:
        step = hedges.step(now_s=clock())
        if isinstance(step, Send):
            ...                     # start attempt step.number, not at step.tried if it can be
            hedges.sent(step.number, endpoint, now_s=clock())
        elif isinstance(step, Finish):
            ...                     # cancel step.cancel; attempt step.number is the call
        else:
            ...                     # until an attempt ends or step.until_s:
            hedges.after(number, outcome, now_s=clock())

Streams: when the first response of an attempt arrives, `commit(number)` makes it the call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import grpc

from balancer.attempt import (
    AttemptOutcome,
    attempt_metadata,
    check_codes,
    check_max_attempts,
    pushback,
)
from balancer.errors import InvalidConfigError
from balancer.throttle import RetryThrottle


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgingPolicy:
    """Up to `max_attempts` (1 to 5, the first included), `hedging_delay_s` apart.

    A failure with one of `non_fatal_codes` brings the next attempt forward; any other ends
    the call. `hedging_delay_s` of 0 sends all at once.

    Raises InvalidConfigError.
    """

    hedging_delay_s: float
    max_attempts: int = 2
    non_fatal_codes: frozenset[grpc.StatusCode] = frozenset({grpc.StatusCode.UNAVAILABLE})

    def __post_init__(self) -> None:
        check_max_attempts(self.max_attempts)
        if not 0 <= self.hedging_delay_s < math.inf:
            raise InvalidConfigError(f"hedging_delay_s is below 0: {self.hedging_delay_s}")
        check_codes("non_fatal_codes", self.non_fatal_codes)


@dataclass(frozen=True, slots=True)
class Send:
    """Start attempt `number` (from 0), not at the endpoints `tried` while there are others."""

    number: int
    tried: frozenset[str]

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What to add to the metadata of this attempt."""
        return attempt_metadata(self.number)


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to send before `until_s` on the caller's clock; None if never again."""

    until_s: float | None


@dataclass(frozen=True, slots=True)
class Finish:
    """Attempt `number` is the call, whatever its outcome; those in `cancel` are not needed."""

    number: int
    cancel: frozenset[int]


class HedgeState:
    """What one hedged call knows of its attempts. Not shared between threads.

    `deadline_s` is absolute, on the clock of `now_s`. Attempts carry it themselves; after it
    none is added.
    """

    def __init__(
        self,
        policy: HedgingPolicy,
        throttle: RetryThrottle,
        *,
        deadline_s: float | None = None,
    ) -> None:
        self.attempts = 0
        self._policy = policy
        self._throttle = throttle
        self._deadline_s = math.inf if deadline_s is None else deadline_s
        self._due_s = -math.inf
        self._not_before_s = -math.inf
        self._no_more = False
        self._running: frozenset[int] = frozenset()
        self._tried: frozenset[str] = frozenset()
        self._final: int | None = None
        self._last_failed = 0

    def step(self, *, now_s: float) -> Send | Wait | Finish:
        """What to do at `now_s`; the same until something is reported or time passes."""
        if self._final is not None:
            return Finish(self._final, self._running - {self._final})
        if not self.attempts:
            return Send(0, self._tried)
        # One that is refused now is not tried later: hedges do not queue.
        if now_s >= self._due_s and not self._throttle.allows():
            self._no_more = True
        # What would come too late is not waited for; a failure may still bring it forward.
        if self._no_more or max(now_s, self._due_s) >= self._deadline_s:
            return Wait(None) if self._running else Finish(self._last_failed, frozenset())
        if now_s >= self._due_s:
            return Send(self.attempts, self._tried)
        return Wait(self._due_s)

    def sent(self, number: int, endpoint: str | None, *, now_s: float) -> None:
        """Attempt `number` was started at that address; None if nobody could take it."""
        self.attempts = number + 1
        self._running |= {number}
        if endpoint is not None:
            self._tried |= {endpoint}
        self._due_s = now_s + self._policy.hedging_delay_s
        self._no_more = self._no_more or self.attempts >= self._policy.max_attempts

    def commit(self, number: int) -> None:
        """A response of attempt `number` arrived: it is the call, unless another is."""
        if self._final is None:
            self._final = number

    def after(self, number: int, outcome: AttemptOutcome, *, now_s: float) -> None:
        """Attempt `number` ended at `now_s`. Attempts that were cancelled may be left out."""
        self._running -= {number}
        if self._final is not None and self._final != number:
            return
        if outcome.ok:
            self._final = number
            self._throttle.succeeded()
        elif self._final is None:
            self._failed(number, outcome, now_s)

    def _failed(self, number: int, outcome: AttemptOutcome, now_s: float) -> None:
        asked = pushback(outcome.trailers)
        goes_on = outcome.surely_undone or outcome.code in self._policy.non_fatal_codes
        if outcome.seen_by_server and (goes_on or asked == "never"):
            self._throttle.failed()
        self._last_failed = number
        if not goes_on:
            self._final = number
        elif asked == "never":
            self._no_more = True
        else:
            # Another attempt's failure does not outrun what a server asked for.
            self._not_before_s = max(self._not_before_s, now_s + (asked or 0.0))
            self._due_s = self._not_before_s
