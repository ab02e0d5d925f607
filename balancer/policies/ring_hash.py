"""Consistent hashing with bounded loads.

A call goes to the owner of its key on a ring (`balancer.policies.ring`), unless that one
has its share of the calls in flight already: then to the next around the ring that has
room (Mirrokni, Thorup, Zadimoghaddam: "Consistent Hashing with Bounded Loads", SODA 2018).
So a hot key spreads over as many endpoints as it needs, and always the same ones.

The paper rounds the bound up to whole calls, which for few calls is the only way. Once the
bound lies a whole call above the average it is rounded down here, so that it is kept:
max/mean <= `load_bound`, whenever whole calls can be spread so.

The mean is over the endpoints of the picker, in shares of their weight. Its numerator, the
calls in flight, is counted by this policy and not summed: a sum of a hundred would cost
more than the pick.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Final, NamedTuple

import grpc

from balancer.errors import InvalidConfigError
from balancer.hash_key import required_hash_key
from balancer.policies.ring import ARC_SHIFT, HASH_BITS, Ring, hash_of, ring_sizes
from balancer.policy import HashKey, PickInfo, PickResult, PolicyContext, Subchannel

MAX_WALK_POINTS: Final = 256
"""After so many points without room the emptiest endpoint is taken, wherever it lies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RingHashConfig:
    """The ring, and how uneven the load on it may be.

    `virtual_nodes` are the points on the ring for each unit of weight.
    `load_bound` times its share of the calls in flight is what an endpoint may have; it is
    above 1, and `math.inf` means no bound.
    `max_points` bounds the ring: heavier weights than fit are scaled down.

    Raises InvalidConfigError.
    """

    virtual_nodes: int = 100
    load_bound: float = 1.25
    max_points: int = 131_072

    def __post_init__(self) -> None:
        for name in ("virtual_nodes", "max_points"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InvalidConfigError(f"{name} is not an integer above 0: {value!r}")
        if not self.load_bound > 1:
            raise InvalidConfigError(f"load_bound is not above 1: {self.load_bound}")


class RingHash:
    """Equal keys to one endpoint while it has room; a call without a key to any point.

    Raises InvalidConfigError if the context has no hash key.
    """

    def __init__(self, context: PolicyContext, config: RingHashConfig | None = None) -> None:
        self._hash_key = required_hash_key(context, "ring_hash")
        self._rng = context.rng
        self._config = config or RingHashConfig()
        self._ring = Ring.of({})
        self._meter = _Meter()
        self._tallies: dict[str, _Tally] = {}

    def build(self, subchannels: Sequence[Subchannel]) -> RingHashPicker:
        """A picker over `subchannels`; the ring of the last one is reused."""
        weights = {each.endpoint.address: each.endpoint.weight for each in subchannels}
        sizes = ring_sizes(weights, self._config.virtual_nodes, self._config.max_points)
        # Kept in locals too: another thread may be building.
        ring = self._ring = self._ring.resized(sizes)
        tallies = self._count_only(subchannels)
        bound = self._config.load_bound
        unit = bound / sum(weights.values())
        seats = {
            address: _Seat(tally.subchannel, tally.result, unit * weights[address])
            for address, tally in tallies.items()
        }
        return RingHashPicker(
            ring, seats, self._meter, load_bound=bound, hash_key=self._hash_key, rng=self._rng
        )

    def _count_only(self, subchannels: Sequence[Subchannel]) -> dict[str, _Tally]:
        """Counts the calls of `subchannels`, and no longer those of any that are gone."""
        old, new = self._tallies, dict[str, _Tally]()
        for subchannel in subchannels:
            address = subchannel.endpoint.address
            tally = old.get(address)
            if tally is None or tally.subchannel is not subchannel:
                tally = _Tally(subchannel, self._meter)
            new[address] = tally
        for address, tally in old.items():
            tally.counts = new.get(address) is tally
        self._tallies = new
        self._meter.recount(sum(each.in_flight for each in subchannels))
        return new


class RingHashPicker:
    """Walks `ring` from the key of a call to the first of `seats` that has room."""

    def __init__(
        self,
        ring: Ring,
        seats: Mapping[str, _Seat],
        meter: _Meter,
        *,
        load_bound: float,
        hash_key: HashKey,
        rng: random.Random,
    ) -> None:
        self._ring = ring
        self._arcs = [seats[address] for address in ring.arcs]
        self._seats = seats
        self._meter = meter
        # From this many calls on the bound is a whole call above the mean.
        self._whole_from = math.inf if load_bound == math.inf else load_bound / (load_bound - 1)
        self._hash_key = hash_key
        self._rng = rng

    def pick(self, info: PickInfo) -> PickResult:
        """The owner of the key, or the next that has room."""
        key = self._hash_key(info)
        point = hash_of(key) if key else self._rng.getrandbits(HASH_BITS)
        # Ring.owner, and what would be a method of the meter: this runs on every call.
        subchannel, result, share = self._arcs[point >> ARC_SHIFT]
        meter = self._meter
        in_flight = next(meter.begun) - meter.ended
        load = subchannel.in_flight
        if not load or load + 1 <= share * in_flight:
            return result
        return self._first_with_room(point, in_flight)

    def _first_with_room(self, point: int, in_flight: int) -> PickResult:
        for address in islice(self._ring.walk(point), MAX_WALK_POINTS):
            seat = self._seats[address]
            if self._has_room(seat.subchannel.in_flight, seat.share * in_flight):
                return seat.result
        return self._emptiest()

    def _has_room(self, load: int, limit: float) -> bool:
        return load + 1 <= limit or load < limit < self._whole_from

    def _emptiest(self) -> PickResult:
        """The one furthest below its bound, and the calls are counted anew.

        Some endpoint has room if they were counted right. Threads can miscount by a few.
        """
        loads = [(seat.subchannel.in_flight, seat) for seat in self._seats.values()]
        self._meter.recount(1 + sum(load for load, _ in loads))
        return min(loads, key=lambda each: (each[0] + 1) / each[1].share)[1].result


class _Seat(NamedTuple):
    """An endpoint as a picker sees it.

    `share` times the calls in flight is the bound on those it may have.
    """

    subchannel: Subchannel
    result: PickResult
    share: float


class _Meter:
    """Counts calls in flight, also for several threads: next() of a counter is one step.

    `begun` gives the number that a call is; `ended` is how many of them have ended.
    """

    __slots__ = ("_ends", "begun", "ended")

    def __init__(self) -> None:
        self.recount(0)

    def recount(self, in_flight: int) -> None:
        """Goes on from `in_flight`."""
        self.ended = 0
        self._ends = count(1)
        self.begun = count(in_flight + 1)

    def end(self) -> None:
        """One less."""
        self.ended = next(self._ends)


class _Tally:
    """Tells the meter of calls that end at one subchannel, as long as it `counts`."""

    __slots__ = ("_meter", "counts", "result", "subchannel")

    def __init__(self, subchannel: Subchannel, meter: _Meter) -> None:
        self.subchannel = subchannel
        self.result = PickResult(subchannel, self._end)
        self.counts = True
        self._meter = meter

    def _end(self, _code: grpc.StatusCode | None) -> None:
        if self.counts:
            self._meter.end()
