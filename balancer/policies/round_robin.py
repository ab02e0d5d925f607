"""Each subchannel in turn.

A picker starts at a random one: otherwise a fleet of clients that all learn of the same
change would all send their next call to the same server (grpc-go does the same).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from balancer.policy import PickInfo, PickResult, PolicyContext, Subchannel


class RoundRobin:
    """After k calls over n subchannels each has had k/n, exact to 1."""

    def __init__(self, context: PolicyContext) -> None:
        self._rng = context.rng

    def build(self, subchannels: Sequence[Subchannel]) -> RoundRobinPicker:
        """A picker that starts anywhere."""
        return RoundRobinPicker(subchannels, start=self._rng.randrange(len(subchannels)))


class RoundRobinPicker:
    """Walks the circle of `subchannels` from index `start`."""

    __slots__ = ("_count", "_results", "_turn")

    def __init__(self, subchannels: Sequence[Subchannel], *, start: int) -> None:
        self._results = tuple(PickResult(subchannel) for subchannel in subchannels)
        self._count = len(self._results)
        # A counter and not itertools.cycle: its next() is one step for threads too.
        self._turn = itertools.count(start)

    def pick(self, info: PickInfo) -> PickResult:  # noqa: ARG002 - whose turn it is depends on no call
        """The next in turn."""
        return self._results[next(self._turn) % self._count]
