"""The faster of two, drawn by chance, judged by recent latency and calls in flight.

The cost of an endpoint is its latency times the calls it would then have, as in
Finagle's peak EWMA: the estimate jumps up to a latency that is worse, moves down to
better ones with time, and fades while nothing is heard, so that an endpoint that was
slow is tried again. What nobody has measured yet is taken to be as fast as its rival:
a new endpoint gets a share and no flood. Weights do not count: how much an endpoint can
carry shows in how long it takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Final, NamedTuple

from grpc import StatusCode

from balancer.policies.failures import FAULTS, Failures
from balancer.policy import PickInfo, PickResult, PolicyContext, Subchannel

DECAY_S: Final = 10.0
MAX_LATENCY_S: Final = 60.0


class P2cEwma:
    """Each call to the cheaper of two; an endpoint that fails at once is not cheap."""

    def __init__(self, context: PolicyContext) -> None:
        self._rng = context.rng
        self._clock = context.clock
        self._records: dict[Subchannel, Record] = {}

    def build(self, subchannels: Sequence[Subchannel]) -> P2cEwmaPicker:
        """A picker over `subchannels`."""
        # Who was away starts anew: the calls that died with its connection failed all at
        # once, and say nothing of the process that answers now.
        known = self._records
        self._records = {each: known.get(each) or Record(self._clock) for each in subchannels}
        entries = [_Entry(each, record) for each, record in self._records.items()]
        return P2cEwmaPicker(entries, self._rng, self._clock)


class PeakEwma:
    """A latency in seconds that rises at once and falls with the time constant DECAY_S."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        # The estimate and when it was made, written as one: threads read both or neither.
        self._last: tuple[float, float] | None = None

    @property
    def is_known(self) -> bool:
        """Whether anything was observed yet."""
        return self._last is not None

    def at(self, now: float) -> float | None:
        """The estimate, faded since it was made; None if there is none."""
        last = self._last
        if last is None:
            return None
        estimate, since = last
        return estimate * math.exp((since - now) / DECAY_S)

    def observe(self, latency_s: float, now: float) -> None:
        """An answer took `latency_s`."""
        last = self._last
        if last is not None and latency_s < last[0]:
            estimate, since = last
            keep = math.exp((since - now) / DECAY_S)
            latency_s += (estimate - latency_s) * keep
        self._last = (min(latency_s, MAX_LATENCY_S), now)

    def observe_at_least(self, latency_s: float, now: float) -> None:
        """An answer would have taken longer than `latency_s`."""
        last = self._last
        if last is None or latency_s > last[0]:
            self._last = (min(latency_s, MAX_LATENCY_S), now)


class Record:
    """What the calls of the past say about one endpoint."""

    __slots__ = ("_clock", "failures", "latency")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.failures = Failures(clock)
        self.latency = PeakEwma()

    def ended(self, started: float, code: StatusCode | None) -> None:
        """Learns how a call ended that was picked at `started`."""
        if code is None:
            return
        self.failures.ended(code)
        now = self._clock()
        if code not in _UNFINISHED:
            self.latency.observe(now - started, now)
        elif self._tells_latency(code):
            self.latency.observe_at_least(now - started, now)

    def _tells_latency(self, code: StatusCode) -> bool:
        # The time until a cancellation or a fault may be next to nothing: as a first
        # estimate it would bring a flood.
        return code is StatusCode.DEADLINE_EXCEEDED or self.latency.is_known


_UNFINISHED = (StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED, *FAULTS)


class _Entry(NamedTuple):
    subchannel: Subchannel
    record: Record


class P2cEwmaPicker:
    """Draws two and takes the cheaper."""

    __slots__ = ("_clock", "_count", "_entries", "_random")

    def __init__(self, entries: Sequence[_Entry], rng: Random, clock: Callable[[], float]) -> None:
        self._entries = tuple(entries)
        self._count = len(entries)
        self._random = rng.random
        self._clock = clock

    def pick(self, info: PickInfo) -> PickResult:
        """The cheaper of two, and a hook that learns how long it took."""
        random, entries, now = self._random, self._entries, self._clock()
        index = int(random() * self._count)
        one = entries[index]
        # A negative index counts from the end, so that this goes around the circle.
        other = entries[index - 1 - int(random() * (self._count - 1))]
        chosen = _cheaper(one, other, now)
        if info.request is None:
            # A stream lasts as long as the caller likes.
            return PickResult(chosen.subchannel, chosen.record.failures.ended)
        return PickResult(chosen.subchannel, partial(chosen.record.ended, now))


def _cheaper(one: _Entry, other: _Entry, now: float) -> _Entry:
    cost, others_cost = one.record.latency.at(now), other.record.latency.at(now)
    if cost is None or others_cost is None:
        cost = others_cost = 1.0
    cost *= (one.subchannel.in_flight + 1) * one.record.failures.factor()
    others_cost *= (other.subchannel.in_flight + 1) * other.record.failures.factor()
    return one if cost <= others_cost else other
