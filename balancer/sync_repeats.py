"""What one call of a thread remembers of its attempts, and whether another follows.

The rules are `balancer.retry`'s; a blocking call and one with callbacks ask the same way.
"""

from __future__ import annotations

import time
from typing import Any

from balancer.attempt import outcome_of
from balancer.dispatch import Shared
from balancer.method_config import MethodConfig
from balancer.retry import GiveUp, Retry, RetryState
from balancer.sync_subchannel import SyncSubchannel


class Whereabouts:
    """Where an attempt goes, and where it is not to go if there are others.

    `subchannel` has the attempt under way, None while nobody is picked; `tried` are those to
    avoid.
    """

    __slots__ = ("subchannel", "tried")

    def __init__(self, tried: tuple[SyncSubchannel, ...] = ()) -> None:
        self.subchannel: SyncSubchannel | None = None
        self.tried = tried


class Repeats(Whereabouts):
    """The attempts of one call. `deadline_s` is on the monotonic clock, None without one."""

    __slots__ = ("_deadline_s", "_method", "_shared", "_state")

    def __init__(self, method: MethodConfig, shared: Shared, deadline_s: float | None) -> None:
        super().__init__()
        self._method = method
        self._shared = shared
        self._deadline_s = deadline_s
        self._state: RetryState | None = None

    def succeeded(self) -> None:
        """The attempt under way ended well."""
        self._shared.throttle.succeeded()

    def after(self, ended: Any) -> Retry | None:
        """How the call goes on after an attempt that failed; None if it has failed with it.

        `ended` is a call that has a status, or the error it raised.
        """
        subchannel, self.subchannel = self.subchannel, None
        if subchannel is None:
            # Nobody could be had for it, and it has waited for that as it wanted to.
            return None
        trailers = tuple(ended.trailing_metadata() or ())
        outcome = outcome_of(
            ended.code(), str(ended.details()), trailers, subchannel.endpoint.address
        )
        if self._state is None:
            self._state = self._start()
        decision = self._state.after(outcome, now_s=time.monotonic())
        if isinstance(decision, GiveUp):
            return None
        self.tried += (subchannel,)
        return decision

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, at least 0; None without one."""
        if self._deadline_s is None:
            return None
        return max(0.0, self._deadline_s - time.monotonic())

    def _start(self) -> RetryState:
        return RetryState(
            self._method.retry,
            self._shared.throttle,
            self._shared.rng,
            idempotent=self._method.idempotent,
            deadline_s=self._deadline_s,
        )
