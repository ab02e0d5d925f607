"""Turns in proportion to the weights, spread out evenly.

The weights, divided by what they have in common, are laid end to end on a circle of as
many slots as their sum. Each pick goes on by one step, which is coprime to the sum, so
that a round visits every slot once and each endpoint exactly as often as it weighs. The
step is about the golden section of the circle: multiples of it spread as evenly as any
can (Knuth, TAOCP volume 3, section 6.4; the three-gap theorem), so an endpoint's turns
are not in a row, as in nginx's smooth weighted round robin. Unlike there and in gRFC
A58, a pick writes nothing but a counter and takes the same time whatever the weights.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect
from collections.abc import Sequence
from typing import Final

from balancer.policy import PickInfo, PickResult, PolicyContext, Subchannel

_GOLDEN_SECTION: Final = (math.sqrt(5) - 1) / 2
# Wide enough: no sum of weights shares a factor with each of 41 numbers in a row
# (Jacobsthal's function at 223,092,870, the last primorial below MAX_WEIGHT * 1,024).
_STEPS_TRIED: Final = 64


class WeightedRoundRobin:
    """After each round, of as many calls as the weights add up to, the spread is exact."""

    def __init__(self, context: PolicyContext) -> None:
        self._rng = context.rng

    def build(self, subchannels: Sequence[Subchannel]) -> WeightedRoundRobinPicker:
        """A picker that starts anywhere, so that even a first pick is by weight."""
        return WeightedRoundRobinPicker(subchannels, start=self._rng.random())


class WeightedRoundRobinPicker:
    """Goes around the circle from `start`, a share of it."""

    __slots__ = ("_ends", "_position", "_results", "_slots")

    def __init__(self, subchannels: Sequence[Subchannel], *, start: float) -> None:
        self._results = tuple(PickResult(subchannel) for subchannel in subchannels)
        weights = [subchannel.endpoint.weight for subchannel in subchannels]
        common = math.gcd(*weights)
        self._ends = tuple(itertools.accumulate(weight // common for weight in weights))
        self._slots = self._ends[-1]
        # A counter: its next() is one step for threads too.
        self._position = itertools.count(int(start * self._slots), golden_step(self._slots))

    def pick(self, info: PickInfo) -> PickResult:  # noqa: ARG002 - whose turn it is depends on no call
        """The next in turn."""
        return self._results[bisect(self._ends, next(self._position) % self._slots)]


def golden_step(slots: int) -> int:
    """A step that visits each of `slots` once before any twice, and evenly at any time."""
    nearest = round(slots * _GOLDEN_SECTION)
    first = max(1, nearest - _STEPS_TRIED // 2)
    candidates = range(first, min(first + _STEPS_TRIED, slots) + 1)
    coprime = (step for step in candidates if math.gcd(step, slots) == 1)
    return min(coprime, key=lambda step: _unevenness(step, slots))


def _unevenness(step: int, slots: int) -> int:
    """The largest quotient of the continued fraction of step / slots.

    The golden section has nothing but ones. A large one would mean that the step is
    nearly a simple fraction of the circle, and so returns to nearly the same slots.
    """
    worst = 0
    while step:
        quotient, remainder = divmod(slots, step)
        worst = max(worst, quotient)
        slots, step = step, remainder
    return worst
