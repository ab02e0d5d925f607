"""Which keys a ring gives to whom, and how few of them move."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from statistics import pstdev
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from balancer.policies import ring as ring_module
from balancer.policies.ring import ARCS, HASH_BITS, Ring, hash_of, ring_sizes

KEYS = [hash_of(b"account-%d" % number) for number in range(4_000)]
ADDRESSES = [f"10.0.0.{number}:50051" for number in range(1, 11)]
# What every process of every version must agree on; a change here moves the keys of users.
GOLDEN = (2, 3, 2, 4, 1, 3, 5, 3)
GOLDEN_POINTS = [12379972202870977, 18732977601398763, 44902538297941740]

SIZES = st.dictionaries(st.sampled_from(ADDRESSES), st.integers(1, 40), min_size=1)


def owners(ring: Ring) -> list[str]:
    """Who has each of the keys."""
    return [ring.owner(key) for key in KEYS]


def moved(before: Ring, after: Ring) -> float:
    """The share of the keys that have another owner."""
    pairs = zip(owners(before), owners(after), strict=True)
    return sum(old != new for old, new in pairs) / len(KEYS)


def even(count: int) -> Ring:
    """A ring of so many endpoints with 100 virtual nodes each."""
    return Ring.of(dict.fromkeys(ADDRESSES[:count], 100))


def contents(ring: Ring) -> tuple[list[int], list[str], list[str]]:
    """All that a ring answers from."""
    return list(ring.points), ring.owners, ring.arcs


def test_golden() -> None:
    """Keys and addresses lie where they have always lain."""
    ring = even(5)
    assert GOLDEN_POINTS == list(ring.points[:3])
    expected = [f"10.0.0.{last}:50051" for last in GOLDEN]
    assert expected == owners(ring)[: len(GOLDEN)]


def test_another_process_agrees() -> None:
    """Nothing depends on the process, as `hash` of a string does."""
    program = (
        "from balancer.policies.ring import Ring, hash_of;"
        "ring = Ring.of({f'10.0.0.{n}:50051': 100 for n in range(1, 11)});"
        "print([ring.owner(hash_of(b'account-%d' % n)) for n in range(4_000)])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1"},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert str(owners(even(10))) == printed.strip()


@given(point=st.integers(0, 2**HASH_BITS - 1), sizes=SIZES)
def test_the_owner_is_the_next_point(point: int, sizes: dict[str, int]) -> None:
    """A key belongs to the first point from its arc on, and after the last comes the first."""
    ring = Ring.of(sizes)
    arc = point // (2**HASH_BITS // ARCS) * (2**HASH_BITS // ARCS)
    at = next((index for index, each in enumerate(ring.points) if each >= arc), 0)
    assert ring.owners[at] == ring.owner(point)


@pytest.mark.parametrize("edge", [0, 1, 2**53, 2**64 - 1])
def test_the_edges_of_the_circle(edge: int) -> None:
    """A key on a boundary has an owner like any other."""
    assert "a:1" == Ring.of({"a:1": 1}).owner(edge)


@settings(max_examples=60)
@given(
    steps=st.lists(SIZES, min_size=1, max_size=4),
    hash_values=st.sampled_from([2, 50, 2**64]),
    splice_share=st.sampled_from([0.0, 0.5, 100.0]),
)
def test_resized_equals_new(
    steps: list[dict[str, int]], hash_values: int, splice_share: float
) -> None:
    """However a ring came about it is the one of its sizes, even where points collide."""

    def coarse(data: bytes, seed: int = 0) -> int:
        return xxh64_intdigest(data, seed) % hash_values * (2**64 // hash_values)

    with (
        mock.patch.object(ring_module, "hash_of", coarse),
        mock.patch.object(ring_module, "_SPLICE_SHARE", splice_share),
    ):
        ring = Ring.of({})
        for sizes in steps:
            ring = ring.resized(sizes)
            assert contents(Ring.of(sizes)) == contents(ring)


def test_an_unchanged_ring_is_kept() -> None:
    """The same sizes are the same ring."""
    ring = even(5)
    assert ring is ring.resized(dict.fromkeys(ADDRESSES[:5], 100))


def test_resizing_leaves_the_ring_alone() -> None:
    """A ring that is in use does not change."""
    ring = even(5)
    before = contents(ring)
    ring.resized(dict.fromkeys(ADDRESSES[1:6], 100))
    assert before == contents(even(5)) == contents(ring)


@pytest.mark.parametrize("count", [2, 5, 10])
def test_few_keys_move(count: int) -> None:
    """One of N less moves at most 1/N + 5 % of the keys, and one more likewise."""
    fewer, more = even(count - 1), even(count)
    assert moved(more, fewer) <= 1 / count + 0.05
    assert moved(fewer, more) <= 1 / count + 0.05


def test_only_the_keys_of_the_removed_move() -> None:
    """A key whose owner stays keeps it."""
    before, after = even(10), even(9)
    pairs = zip(owners(before), owners(after), strict=True)
    assert {ADDRESSES[9]} == {old for old, new in pairs if old != new}


def test_the_spread_is_that_of_chance() -> None:
    """With v virtual nodes the shares vary by about 1/sqrt(v)."""
    sizes = {f"10.0.{number}.1:50051": 100 for number in range(50)}
    ring = Ring.of(sizes)
    mean = ARCS / len(sizes)
    shares = Counter(ring.arcs)
    assert 0.07 < pstdev(shares[each] / mean for each in sizes) < 0.14


def test_a_walk_meets_every_point_once() -> None:
    """A walk begins at the owner and goes once around."""
    ring = even(3)
    walked = list(ring.walk(KEYS[0]))
    assert ring.owner(KEYS[0]) == walked[0]
    assert Counter(dict.fromkeys(ADDRESSES[:3], 100)) == Counter(walked)


@pytest.mark.parametrize(
    ("weights", "max_points", "expected"),
    [
        ({"a": 1, "b": 3}, 400, {"a": 100, "b": 300}),
        ({"a": 1, "b": 3}, 399, {"a": 50, "b": 150}),
        ({"a": 1, "b": 1_000_000}, 1_000, {"a": 1, "b": 762}),
        ({"a": 1, "b": 1}, 1, {"a": 1, "b": 1}),
        ({}, 100, {}),
    ],
)
def test_sizes_follow_weights(
    weights: dict[str, int], max_points: int, expected: dict[str, int]
) -> None:
    """Points in proportion to weight, halved until they fit, and at least one."""
    assert expected == ring_sizes(weights, 100, max_points)


def test_weights_are_respected() -> None:
    """Three times the weight has about three times the keys."""
    weights = {address: 3 if at < 5 else 1 for at, address in enumerate(ADDRESSES)}
    counts = Counter(owners(Ring.of(ring_sizes(weights, 100, 10_000))))
    heavy = sum(counts[address] for address in ADDRESSES[:5])
    assert 0.70 < heavy / len(KEYS) < 0.80
