"""Why an endpoint that fails at once must not look like a fast and idle one.

A call that is refused in a millisecond is never seen in flight and takes no time, so to
a policy that looks for little load or low latency the one broken endpoint is the best of
all, and swallows the traffic (Envoy and Finagle leave it to outlier ejection, which
needs an interval to notice). Here each failure makes the load that an endpoint is taken
to have GROWTH times what it was, each answer halves it again, and time lets it fade.

The growth is more than one answer undoes, so that failing does not attract even where it
is rare: with a small share f of calls failing, an endpoint shows 1 - f of the load, and
the walk up by 4 and down by 2 leaves it 1 - 5f/4 of its calls. From f = 1/3 on it grows
to its limit. An endpoint that only fails is tried again every few seconds, since what
one failure adds takes DECAY_S * ln GROWTH to fade.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from grpc import StatusCode

DECAY_S: Final = 10.0
GROWTH: Final = 4.0
MAX_FACTOR: Final = 1024.0

# By these a server speaks of itself and not of the request. UNKNOWN is what gRPC Python
# makes of an exception in a handler.
FAULTS: Final = (
    StatusCode.UNAVAILABLE,
    StatusCode.RESOURCE_EXHAUSTED,
    StatusCode.UNKNOWN,
    StatusCode.INTERNAL,
    StatusCode.UNIMPLEMENTED,
    StatusCode.DATA_LOSS,
)
# The caller went away; whether an answer was to come, nobody knows.
_UNDECIDED = (None, StatusCode.CANCELLED, StatusCode.DEADLINE_EXCEEDED)


class Failures:
    """What the last calls to one endpoint say about its faults."""

    __slots__ = ("_clock", "_last")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # The factor and when it was set, written as one: threads read both or neither.
        self._last: tuple[float, float] | None = None

    def factor(self) -> float:
        """How many times its load the endpoint is taken to have, 1 to MAX_FACTOR."""
        last = self._last
        if last is None:
            return 1.0
        factor, since = last
        return 1.0 + (factor - 1.0) * math.exp((since - self._clock()) / DECAY_S)

    def ended(self, code: StatusCode | None) -> None:
        """Learns how a call ended. A CompletionHook."""
        if code in FAULTS:
            self._set(min(MAX_FACTOR, self.factor() * GROWTH))
        elif self._last is not None and code not in _UNDECIDED:
            self._set(self.factor() / 2)

    def _set(self, factor: float) -> None:
        self._last = (factor, self._clock()) if factor > 1 else None
