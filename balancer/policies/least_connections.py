"""The less busy of two, drawn by chance: power of two choices.

Looking at all for the least busy takes time in proportion to their number, and makes
every client run to the same one; looking at two is nearly as even and herds nobody
(Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001; gRFC A48).
How busy is counted by this channel's own calls in flight, divided by the weight.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from balancer.policies.failures import Failures
from balancer.policy import PickInfo, PickResult, PolicyContext, Subchannel


class LeastConnections:
    """Calls in flight in proportion to the weights; an endpoint that fails has fewer."""

    def __init__(self, context: PolicyContext) -> None:
        self._rng = context.rng
        self._clock = context.clock
        self._failures: dict[Subchannel, Failures] = {}

    def build(self, subchannels: Sequence[Subchannel]) -> LeastConnectionsPicker:
        """A picker over `subchannels`."""
        # Who was away starts anew: the calls that died with its connection failed all at
        # once, and say nothing of the process that answers now.
        known = self._failures
        self._failures = {each: known.get(each) or Failures(self._clock) for each in subchannels}
        entries = [_entry(each, failures) for each, failures in self._failures.items()]
        return LeastConnectionsPicker(entries, self._rng)


@dataclass(slots=True, kw_only=True)
class _Entry:
    subchannel: Subchannel
    weight: int
    failures: Failures
    result: PickResult

    def load(self) -> float:
        """Calls in flight per weight, and failures as if they were such calls.

        One more than in flight is multiplied, or an idle endpoint could fail for ever.
        """
        return ((self.subchannel.in_flight + 1) * self.failures.factor() - 1) / self.weight


def _entry(subchannel: Subchannel, failures: Failures) -> _Entry:
    return _Entry(
        subchannel=subchannel,
        weight=subchannel.endpoint.weight,
        failures=failures,
        result=PickResult(subchannel, failures.ended),
    )


class LeastConnectionsPicker:
    """Draws one by weight, so that idle endpoints get their shares, and any other."""

    __slots__ = ("_ends", "_entries", "_others", "_random")

    def __init__(self, entries: Sequence[_Entry], rng: Random) -> None:
        self._entries = tuple(entries)
        self._others = len(entries) - 1
        total = sum(entry.weight for entry in entries)
        self._ends = tuple(end / total for end in accumulate(entry.weight for entry in entries))
        self._random = rng.random

    def pick(self, info: PickInfo) -> PickResult:  # noqa: ARG002 - load is the same for every call
        """The less busy of two; of equals the one drawn by weight."""
        random, entries = self._random, self._entries
        index = bisect(self._ends, random())
        one = entries[index]
        # A negative index counts from the end, so that this goes around the circle.
        other = entries[index - 1 - int(random() * self._others)]
        return one.result if one.load() <= other.load() else other.result
