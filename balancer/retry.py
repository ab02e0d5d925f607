"""Whether a failed call is tried again, when, and where not.

gRFC A6 with one rule of our own, because this is a mesh for money: an attempt that a server
may have begun is repeated only if the method is declared idempotent. Without such a word
only those attempts are repeated that surely did nothing (see `balancer.attempt`); gRPC calls
that a transparent retry.

A `RetryState` is the memory of one call and is made at its first failure, so that calls
which succeed pay nothing:

    state = None
    while True:
        outcome = ...                                   # one attempt on one endpoint
        if outcome.ok:
            throttle.succeeded()
            return ...
        state = state or RetryState(policy, throttle, rng, idempotent=..., deadline_s=...)
        decision = state.after(outcome, now_s=clock())
        if isinstance(decision, GiveUp):
            raise ...                                   # the error of this last attempt
        ...                                             # wait decision.delay_s
        ...                                             # pick among untried(subchannels, tried)

Streams: as soon as anything of an attempt was handed to the caller (initial metadata or a
response message), or a request message cannot be sent a second time, that attempt is the
call: `commit()` says so, and nothing is retried afterwards.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol, TypeVar

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
from discovery.endpoint import Endpoint

JITTER: Final = 0.2
"""A delay is this share shorter or longer than computed (gRFC A6 as of 2024)."""

RETRYABLE_BY_DEFAULT: Final = frozenset({grpc.StatusCode.UNAVAILABLE})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how fast a call is tried again.

    `max_attempts` counts the first one, 1 to 5; 1 means never again. The n-th retry waits
    `initial_backoff_s * backoff_multiplier ** (n - 1)`, at most `max_backoff_s`, give or
    take 20 %. `retryable_codes` matter to idempotent methods only.

    Raises InvalidConfigError.
    """

    max_attempts: int = 4
    initial_backoff_s: float = 0.05
    max_backoff_s: float = 1.0
    backoff_multiplier: float = 2.0
    retryable_codes: frozenset[grpc.StatusCode] = RETRYABLE_BY_DEFAULT

    def __post_init__(self) -> None:
        check_max_attempts(self.max_attempts)
        for name in ("initial_backoff_s", "max_backoff_s", "backoff_multiplier"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidConfigError(f"{name} is not above 0: {getattr(self, name)}")
        if not self.retryable_codes:
            raise InvalidConfigError("retryable_codes is empty")
        check_codes("retryable_codes", self.retryable_codes)


class GiveUpReason(Enum):
    """Why a call is not tried again, in the order in which it is asked."""

    SUCCEEDED = "it succeeded"
    COMMITTED = "a part of the response was handed out"
    NOT_RETRYABLE = "the status code is not one to retry"
    NOT_IDEMPOTENT = "the server may have begun, and the method is not idempotent"
    ATTEMPTS_USED_UP = "it had all its attempts"
    PUSHBACK = "the server asked not to retry"
    THROTTLED = "too many calls of this channel fail"
    DEADLINE = "the deadline comes first"


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again in `delay_s` seconds, not at the endpoints `tried` while there are others."""

    delay_s: float
    tried: frozenset[str]
    previous_attempts: int

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What to add to the metadata of the next attempt."""
        return attempt_metadata(self.previous_attempts)


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The outcome of this attempt is the outcome of the call."""

    reason: GiveUpReason


class RetryState:
    """What one call remembers of its attempts. Not shared between threads.

    `deadline_s` is absolute, on the clock of `now_s`; None for a stream that may live on.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        throttle: RetryThrottle,
        rng: random.Random,
        *,
        idempotent: bool = False,
        deadline_s: float | None = None,
    ) -> None:
        self.attempts = 0
        self._policy = policy
        self._throttle = throttle
        self._rng = rng
        self._idempotent = idempotent
        self._deadline_s = math.inf if deadline_s is None else deadline_s
        self._committed = False
        self._backoff_s = policy.initial_backoff_s
        self._tried: frozenset[str] = frozenset()
        self._sent = 0
        self._at_once = True

    def commit(self) -> None:
        """The attempt under way is the call: nothing is retried any more."""
        self._committed = True

    def after(self, outcome: AttemptOutcome, *, now_s: float) -> Retry | GiveUp:
        """What to do after an attempt that ended at `now_s`; to be told of each once."""
        self.attempts += 1
        self._sent += outcome.seen_by_server
        if outcome.endpoint is not None:
            self._tried |= {outcome.endpoint}
        asked = pushback(outcome.trailers)
        self._count(outcome, refused=asked == "never")
        reason = self._why_not(outcome)
        if reason is None and asked == "never":
            reason = GiveUpReason.PUSHBACK
        # What never left this process loads nobody (gRFC A6, Transparent Retries).
        if reason is None and outcome.seen_by_server and not self._throttle.allows():
            reason = GiveUpReason.THROTTLED
        if reason is not None:
            return GiveUp(reason)
        delay_s = self._delay_s(outcome, asked if isinstance(asked, float) else None)
        if now_s + delay_s >= self._deadline_s:
            return GiveUp(GiveUpReason.DEADLINE)
        return Retry(delay_s, self._tried, self._sent)

    def _count(self, outcome: AttemptOutcome, *, refused: bool) -> None:
        if outcome.ok:
            self._throttle.succeeded()
        elif outcome.seen_by_server and (
            refused or outcome.code in self._policy.retryable_codes or outcome.surely_undone
        ):
            self._throttle.failed()

    def _why_not(self, outcome: AttemptOutcome) -> GiveUpReason | None:
        if outcome.ok:
            return GiveUpReason.SUCCEEDED
        if self._committed:
            return GiveUpReason.COMMITTED
        if not outcome.surely_undone:
            if outcome.code not in self._policy.retryable_codes:
                return GiveUpReason.NOT_RETRYABLE
            if not self._idempotent:
                return GiveUpReason.NOT_IDEMPOTENT
        if self.attempts >= self._policy.max_attempts:
            return GiveUpReason.ATTEMPTS_USED_UP
        return None

    def _delay_s(self, outcome: AttemptOutcome, asked_s: float | None) -> float:
        if asked_s is not None:
            self._backoff_s = self._policy.initial_backoff_s
            return asked_s
        if outcome.surely_undone and self._at_once:
            # Once: endpoint after endpoint that turns calls away is to be backed off from.
            self._at_once = False
            return 0.0
        backoff_s = min(self._backoff_s, self._policy.max_backoff_s)
        self._backoff_s *= self._policy.backoff_multiplier
        return backoff_s * self._rng.uniform(1 - JITTER, 1 + JITTER)


class HasEndpoint(Protocol):
    """A subchannel, as far as it matters here."""

    @property
    def endpoint(self) -> Endpoint:
        """Where it leads."""


S = TypeVar("S", bound=HasEndpoint)


def untried(subchannels: Iterable[S], tried: Collection[str]) -> Sequence[S]:
    """Those that lead to none of the addresses `tried`; all if that leaves nobody."""
    everyone = tuple(subchannels)
    others = tuple(each for each in everyone if each.endpoint.address not in tried)
    return others or everyone
