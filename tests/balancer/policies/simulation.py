"""Backends on a virtual clock: seconds of traffic in milliseconds, the same every time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from grpc import StatusCode

from balancer.policy import Picker, PickInfo, PolicyContext
from balancer.testing import FakeSubchannel
from discovery.endpoint import Endpoint

INFO = PickInfo("/pkg.Service/Method", (), b"")


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now


def context(clock: Clock | None = None, *, seed: int = 7) -> PolicyContext:
    """What a policy needs, with nothing left to chance."""
    return PolicyContext(rng=random.Random(seed), clock=clock or Clock())


def fakes(*weights: int) -> tuple[FakeSubchannel, ...]:
    """A subchannel for each weight."""
    return tuple(
        FakeSubchannel(Endpoint(f"10.0.{index // 250}.{index % 250}:1", weight=weight))
        for index, weight in enumerate(weights)
    )


def shares(picker: Picker, picks: int) -> dict[FakeSubchannel, float]:
    """The part of `picks` that each subchannel got; the calls last no time."""
    counts: Counter[FakeSubchannel] = Counter()
    for _ in range(picks):
        subchannel = picker.pick(INFO).subchannel
        assert isinstance(subchannel, FakeSubchannel)
        counts[subchannel] += 1
    return {subchannel: count / picks for subchannel, count in counts.items()}


@dataclass(slots=True, eq=False, weakref_slot=True)
class Backend(FakeSubchannel):
    """Answers after about `latency_s`, and of all calls a part `failing` at once."""

    latency_s: float = field(default=0.01, kw_only=True)
    failing: float = field(default=0.0, kw_only=True)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What the callers saw."""

    calls: Counter[FakeSubchannel] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)


def backends(*latencies_s: float) -> tuple[Backend, ...]:
    """One for each latency."""
    return tuple(
        Backend(Endpoint(f"10.0.0.{index}:1"), latency_s=latency_s)
        for index, latency_s in enumerate(latencies_s)
    )


def simulate(picker: Picker, clock: Clock, *, calls: int, per_s: float, seed: int = 5) -> Outcome:
    """As many `calls` as asked for, arriving by chance, `per_s` a second."""
    rng = random.Random(seed)
    outcome, order = Outcome(), itertools.count()
    ends: list[tuple[float, int, Call]] = []
    for _ in range(calls):
        arrival = clock.now + rng.expovariate(per_s)
        while ends and ends[0][0] <= arrival:
            clock.now, _, call = heapq.heappop(ends)
            call.end()
        clock.now = arrival
        call = Call(picker, rng)
        heapq.heappush(ends, (clock.now + call.latency_s, next(order), call))
        outcome.calls[call.backend] += 1
        outcome.latencies_s.append(call.latency_s)
    for clock.now, _, call in sorted(ends):
        call.end()
    return outcome


class Call:
    """One call, from its pick on."""

    def __init__(self, picker: Picker, rng: random.Random) -> None:
        picked, self._on_done = picker.pick(INFO)
        assert isinstance(picked, Backend)
        self.backend = picked
        self._fails = rng.random() < picked.failing
        self.latency_s = 0.001 if self._fails else picked.latency_s * rng.uniform(0.5, 1.5)
        picked.in_flight += 1

    def end(self) -> None:
        """Tells whom it concerns."""
        self.backend.in_flight -= 1
        if self._on_done is not None:
            self._on_done(StatusCode.UNAVAILABLE if self._fails else StatusCode.OK)


def p99(latencies_s: Sequence[float]) -> float:
    """The latency that one call in a hundred exceeds."""
    return sorted(latencies_s)[len(latencies_s) * 99 // 100]
