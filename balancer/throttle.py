"""How many retries and hedges a channel may add to the load of servers that fail.

gRFC A6, section Throttling: a bucket of tokens per channel, from which every failed attempt
takes 1 and to which every call that succeeds adds `token_ratio`; while it is half empty
nothing is retried and no further hedge is sent.

A retry follows a failure that left the bucket more than half full. So over any number of
calls, whatever fails:

    retries < max_tokens / 2 + token_ratio * calls that succeeded

With the defaults a channel whose backends all fail makes at most 19 retries (attempts stay
below 1.2 x calls from 95 calls on), and one whose backends fail in part at most 0.1 x calls
beyond those. 19 is also the number of calls that can be moved at once off an endpoint that
turns them away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from balancer.errors import InvalidConfigError

MAX_TOKENS_LIMIT: Final = 1_000
_SCALE: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleConfig:
    """A bucket of `max_tokens`; a failure takes one, a success gives back `token_ratio`.

    `token_ratio` counts to three decimals.

    Raises InvalidConfigError.
    """

    max_tokens: int = 40
    token_ratio: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.max_tokens <= MAX_TOKENS_LIMIT:
            raise InvalidConfigError(
                f"max_tokens is not 1 to {MAX_TOKENS_LIMIT}: {self.max_tokens}"
            )
        if not 1 / _SCALE <= self.token_ratio <= MAX_TOKENS_LIMIT:
            raise InvalidConfigError(
                f"token_ratio is not 0.001 to {MAX_TOKENS_LIMIT}: {self.token_ratio}"
            )


class RetryThrottle:
    """The bucket of one channel.

    Without a lock: threads may lose each other's updates, but what is stored is a number in
    range at any moment.
    """

    __slots__ = ("_gain", "_max", "_threshold", "_tokens")

    def __init__(self, config: ThrottleConfig | None = None) -> None:
        config = config or ThrottleConfig()
        # In thousandths, so that no rounding decides who is retried.
        self._max = config.max_tokens * _SCALE
        self._gain = round(config.token_ratio * _SCALE)
        self._threshold = self._max // 2
        self._tokens = self._max

    @property
    def tokens(self) -> float:
        """What is left, 0 to `max_tokens`."""
        return self._tokens / _SCALE

    def succeeded(self) -> None:
        """A call ended well."""
        tokens = self._tokens
        if tokens < self._max:
            self._tokens = min(self._max, tokens + self._gain)

    def failed(self) -> None:
        """An attempt failed in a way that says the servers may be in trouble."""
        self._tokens = max(0, self._tokens - _SCALE)

    def allows(self) -> bool:
        """Whether one more attempt may be sent for a call that has had one."""
        return self._tokens > self._threshold
