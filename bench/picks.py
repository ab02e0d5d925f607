"""What a pick costs, by policy, and what a ring costs when it is built and changed.

The method stands in `bench.balancer`.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, Final

from uhashring import HashRing

from balancer import Picker, PickInfo, PolicyContext, policy_named
from balancer.policies.ring import Ring, hash_of
from balancer.policies.ring_hash import RingHash, RingHashConfig
from balancer.testing import FakeSubchannel
from discovery.endpoint import Endpoint

ENDPOINTS: Final = 100
RING_ENDPOINTS: Final = 1_000
RING_VIRTUAL_NODES: Final = 100
# What uhashring makes of a node: 40 hashes, 4 points of each (ketama).
UHASHRING_POINTS: Final = 160
KEYS: Final = 1_000
SPREAD_KEYS: Final = 100_000
POLICIES: Final = (
    "round_robin",
    "weighted_round_robin",
    "random",
    "pick_first",
    "ring_hash",
    "hash",
    "least_connections",
    "p2c_ewma",
)
_DIGITS: Final = 3


def fleet(size: int) -> list[FakeSubchannel]:
    """So many endpoints, all idle, of different weight."""
    return [
        FakeSubchannel(Endpoint(f"10.0.{index // 250}.{index % 250}:50051", weight=1 + index % 3))
        for index in range(size)
    ]


def even_fleet(size: int) -> list[FakeSubchannel]:
    """So many endpoints of weight 1."""
    return [
        FakeSubchannel(Endpoint(f"10.0.{index // 250}.{index % 250}:50051"))
        for index in range(size)
    ]


def infos() -> list[PickInfo]:
    """Calls of different keys."""
    return [PickInfo("/pkg.Service/Method", (), f"account-{key}".encode()) for key in range(KEYS)]


def context() -> PolicyContext:
    """A channel of which the request is the key."""
    return PolicyContext(rng=random.Random(1), hash_key=attrgetter("request"))  # noqa: S311 - not secret


def pick_us(repeats: int) -> dict[str, float]:
    """CPU microseconds of one pick by policy: medians over `repeats` rounds of all keys."""
    return {
        name: _us_each(policy_named(name, context()).build(fleet(ENDPOINTS)).pick, infos(), repeats)
        for name in POLICIES
    }


def _us_each(pick: Callable[[Any], object], arguments: Sequence[object], repeats: int) -> float:
    took_us = []
    for _ in range(repeats):
        began_at = time.process_time()
        for argument in arguments:
            pick(argument)
        took_us.append((time.process_time() - began_at) * 1e6 / len(arguments))
    return round(statistics.median(took_us), _DIGITS)


def ring_vs_uhashring(repeats: int, spread_keys: int = SPREAD_KEYS) -> dict[str, float]:
    """How often ours finds an owner while uhashring does once: same keys, same points."""
    endpoints = even_fleet(ENDPOINTS)
    addresses = [each.endpoint.address for each in endpoints]
    picker = RingHash(context(), RingHashConfig(virtual_nodes=UHASHRING_POINTS)).build(endpoints)
    owner = Ring.of(dict.fromkeys(addresses, UHASHRING_POINTS)).owner
    theirs = HashRing(addresses)
    keys = [f"account-{key}" for key in range(KEYS)]
    calls = infos()
    ours_us, picks_us, theirs_us = [], [], []
    for _ in range(repeats):
        ours_us.append(_us_each(lambda key: owner(hash_of(key.encode())), keys, 1))
        theirs_us.append(_us_each(theirs.get_node, keys, 1))
        picks_us.append(_us_each(picker.pick, calls, 1))
    ours, pick, other = map(statistics.median, (ours_us, picks_us, theirs_us))
    return {
        "ratio": round(other / ours, 2),
        "ratio_whole_pick": round(other / pick, 2),
        "ours_us": ours,
        "pick_us": pick,
        "uhashring_us": other,
        "ours_max_over_mean": _unevenness(_picked(picker, spread_keys)),
        "uhashring_max_over_mean": _unevenness(
            theirs.get_node(each) for each in _spread_keys(spread_keys)
        ),
    }


def _spread_keys(size: int) -> list[str]:
    return [f"spread-{number}" for number in range(size)]


def _picked(picker: Picker, size: int) -> Iterable[object]:
    for key in _spread_keys(size):
        yield picker.pick(PickInfo("/p.S/M", (), key.encode())).subchannel.endpoint.address


def _unevenness(owners: Iterable[object]) -> float:
    counts = Counter(owners)
    return round(max(counts.values()) / (counts.total() / ENDPOINTS), _DIGITS)


def ring_cold_ms(repeats: int, endpoints: int = RING_ENDPOINTS) -> float:
    """CPU milliseconds of building the first picker over `endpoints`, median."""
    subchannels = even_fleet(endpoints)
    return _median_ms([lambda: _ring().build(subchannels)] * repeats)


def ring_change_ms(repeats: int, endpoints: int = RING_ENDPOINTS) -> float:
    """CPU milliseconds of building the picker for one endpoint more, or less, median."""
    more = even_fleet(endpoints + 1)
    policy = _ring()
    policy.build(more[:-1])
    steps = [lambda: policy.build(more), lambda: policy.build(more[:-1])]
    return _median_ms(steps * repeats)


def _ring() -> RingHash:
    return RingHash(context(), RingHashConfig(virtual_nodes=RING_VIRTUAL_NODES))


def _median_ms(steps: Sequence[Callable[[], object]]) -> float:
    took_ms = []
    for step in steps:
        began_at = time.process_time()
        step()
        took_ms.append((time.process_time() - began_at) * 1e3)
    return round(statistics.median(took_ms), _DIGITS)
