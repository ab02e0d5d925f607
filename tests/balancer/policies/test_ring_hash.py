"""How ring_hash spreads keys, and what it does when an endpoint has its share."""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.errors import InvalidConfigError
from balancer.hash_key import from_callable, from_metadata
from balancer.policies import ring_hash
from balancer.policies.ring import Ring, hash_of
from balancer.policies.ring_hash import RingHash, RingHashConfig
from balancer.policy import Picker, PickInfo, PickResult, PolicyContext, policy_named
from balancer.testing import FakeSubchannel, check_policy
from discovery.endpoint import Endpoint


def context(seed: int = 3) -> PolicyContext:
    """One in which the request is the key."""
    return PolicyContext(
        rng=random.Random(seed),
        hash_key=from_callable(lambda info: info.request),  # type: ignore[arg-type,return-value]
    )


def info(key: str | None) -> PickInfo:
    """A call with that key."""
    return PickInfo("/pkg.Service/Method", (), key)


def subchannels(count: int, weights: tuple[int, ...] = (1,)) -> list[FakeSubchannel]:
    """As many as asked for; the weights go in turn."""
    return [
        FakeSubchannel(Endpoint(f"10.0.0.{at}:1", weight=weights[at % len(weights)]))
        for at in range(count)
    ]


class Calls:
    """Calls as a channel starts and ends them."""

    def __init__(self, picker: Picker) -> None:
        self.picker = picker
        self.open: deque[PickResult] = deque()

    def start(self, key: str | None) -> FakeSubchannel:
        """One more in flight."""
        result = self.picker.pick(info(key))
        subchannel: Any = result.subchannel
        subchannel.in_flight += 1
        self.open.append(result)
        assert isinstance(subchannel, FakeSubchannel)
        return subchannel

    def end(self) -> None:
        """The oldest is done."""
        subchannel, on_done = self.open.popleft()
        assert isinstance(subchannel, FakeSubchannel)
        assert on_done is not None
        subchannel.in_flight -= 1
        on_done(grpc.StatusCode.OK)


def test_keys_go_to_their_owners() -> None:
    """Without load the ring alone decides."""
    given_ = subchannels(10)
    picker = RingHash(context()).build(given_)
    ring = Ring.of({each.endpoint.address: 100 for each in given_})
    for number in range(200):
        expected = ring.owner(hash_of(b"%d" % number))
        assert expected == picker.pick(info(str(number))).subchannel.endpoint.address


def test_rebuilding_moves_only_what_must() -> None:
    """After one endpoint left, the keys of the others stay."""
    given_ = subchannels(10)
    policy = RingHash(context())
    before, after = policy.build(given_), policy.build(given_[:4] + given_[5:])
    for number in range(500):
        old, new = (each.pick(info(str(number))).subchannel for each in (before, after))
        assert (new is old) == (old is not given_[4])


@pytest.mark.parametrize("in_flight", [1_000, 1_037, 4_000])
def test_the_bound_is_kept(in_flight: int) -> None:
    """max/mean is at most 1.25, however few keys there are."""
    given_ = subchannels(100)
    calls = Calls(RingHash(context()).build(given_))
    for number in range(in_flight):
        calls.start(str(number % 7))
    assert max(each.in_flight for each in given_) <= 1.25 * in_flight / 100


@settings(max_examples=40)
@given(
    count=st.integers(1, 12),
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    load_bound=st.sampled_from([1.01, 1.25, 2.0]),
    moves=st.lists(st.integers(-3, 6), max_size=150),
)
def test_nobody_is_picked_beyond_the_bound(
    count: int, weights: tuple[int, ...], load_bound: float, moves: list[int]
) -> None:
    """Whatever came and went, the picked one is then within its bound, in whole calls."""
    given_ = subchannels(count, weights)
    total_weight = sum(each.endpoint.weight for each in given_)
    config = RingHashConfig(load_bound=load_bound, virtual_nodes=10)
    calls = Calls(RingHash(context(), config).build(given_))
    for move in moves:
        if move < 0:
            for _ in range(min(-move, len(calls.open))):
                calls.end()
            continue
        picked = calls.start(str(move))
        bound = load_bound * len(calls.open) * picked.endpoint.weight / total_weight
        assert picked.in_flight <= max(1, math.ceil(bound - 1e-9))


def test_a_hot_key_spills_to_the_same_neighbours() -> None:
    """Two clients under the same load send a key the same way, to as few as can have it."""
    chosen = []
    for seed in (1, 2):
        calls = Calls(RingHash(context(seed)).build(subchannels(10)))
        chosen.append([calls.start("hot").endpoint.address for _ in range(30)])
    assert chosen[0] == chosen[1]
    # 30 calls over 10: each may have ceil(1.25 x 3).
    assert 8 == len(set(chosen[0]))


def test_calls_that_ended_count_no_more() -> None:
    """After a burst the bound is that of the calls that are left."""
    given_ = subchannels(4)
    calls = Calls(RingHash(context()).build(given_))
    for number in range(400):
        calls.start(str(number))
    for _ in range(400):
        calls.end()
    for _ in range(8):
        calls.start("hot")
    # 8 calls on 4 endpoints: at most ceil(1.25 x 2).
    assert max(each.in_flight for each in given_) <= 3


def test_calls_of_endpoints_that_left_count_no_more() -> None:
    """Many calls on a draining endpoint do not loosen the bound of the others."""
    given_ = subchannels(3)
    policy = RingHash(context(), RingHashConfig(load_bound=1.25))
    before = Calls(policy.build(given_))
    for number in range(300):
        before.start(str(number))
    staying = [each.in_flight for each in given_[1:]]
    after = Calls(policy.build(given_[1:]))
    while before.open:
        before.end()
    assert [0, 0] == [each.in_flight for each in given_[1:]]
    for _ in range(40):
        after.start("hot")
    assert sum(staying) > 40
    assert max(each.in_flight for each in given_[1:]) <= 25


def test_load_from_before_is_respected() -> None:
    """A picker knows the calls that were in flight when it was built."""
    given_ = subchannels(2)
    policy = RingHash(context())
    calls = Calls(policy.build(given_))
    owner = calls.start("hot")
    for _ in range(9):
        calls.start("hot")
    calls.picker = policy.build(given_)
    assert 10 == sum(each.in_flight for each in given_)
    for _ in range(90):
        calls.start("hot")
    assert 62 == owner.in_flight


def test_a_walk_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit of steps the one furthest below its bound is taken."""
    monkeypatch.setattr(ring_hash, "MAX_WALK_POINTS", 1)
    given_ = subchannels(10)
    calls = Calls(RingHash(context()).build(given_))
    for _ in range(100):
        calls.start("hot")
    assert max(each.in_flight for each in given_) <= 12


def test_a_miscount_heals() -> None:
    """If nobody seems to have room, the calls are counted anew."""
    given_ = subchannels(2)
    picker = RingHash(context()).build(given_)
    for each in given_:
        each.in_flight = 50
    first, second = picker.pick(info("hot")), picker.pick(info("hot"))
    assert first.subchannel in given_
    expected = RingHash(context()).build(subchannels(2)).pick(info("hot"))
    assert expected.subchannel.endpoint == second.subchannel.endpoint


def test_no_bound() -> None:
    """With an infinite bound a key has one endpoint only."""
    calls = Calls(RingHash(context(), RingHashConfig(load_bound=math.inf)).build(subchannels(5)))
    assert 1 == len({calls.start("hot").endpoint for _ in range(100)})


def test_weights_are_respected() -> None:
    """Three times the weight has about three times the keys, and of calls in flight."""
    given_ = subchannels(20, (3, 1))
    picker = RingHash(context()).build(given_)
    keys = Counter(picker.pick(info(str(n))).subchannel.endpoint.weight for n in range(4_000))
    assert 0.70 < keys[3] / 4_000 < 0.80
    calls = Calls(RingHash(context()).build(given_))
    for _ in range(4_000):
        calls.start("hot")
    heavy = sum(each.in_flight for each in given_ if each.endpoint.weight == 3)
    assert 0.65 < heavy / 4_000 < 0.85


@pytest.mark.parametrize("key", [None, ""])
def test_a_call_without_a_key_goes_anywhere(key: str | None) -> None:
    """No key, and an empty one, is a random point on the ring."""
    given_ = subchannels(4)
    picker = RingHash(context()).build(given_)
    counts = Counter(picker.pick(info(key)).subchannel for _ in range(2_000))
    assert set(given_) == set(counts)
    assert min(counts.values()) > 300


def test_threads_pick_safely() -> None:
    """Several threads may use one picker, also while the next is built."""
    given_ = subchannels(8)
    policy = RingHash(context())
    picker = policy.build(given_)

    def work(thread: int) -> int:
        for number in range(300):
            result = picker.pick(info(str(number)))
            if number % 100 == thread:
                policy.build(given_[: 4 + thread])
            assert result.on_done is not None
            result.on_done(None)
        return thread

    with ThreadPoolExecutor(4) as threads:
        assert [0, 1, 2, 3] == list(threads.map(work, range(4)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("virtual_nodes", 0),
        ("virtual_nodes", 1.5),
        ("virtual_nodes", True),
        ("max_points", -1),
        ("load_bound", 1),
        ("load_bound", 0.5),
        ("load_bound", math.nan),
    ],
)
def test_a_config_that_cannot_be(field: str, value: Any) -> None:
    """What cannot be is refused, and the field named."""
    with pytest.raises(InvalidConfigError, match=field):
        RingHashConfig(**{field: value})


def test_without_a_hash_key() -> None:
    """A policy that hashes and knows no key is refused at construction."""
    with pytest.raises(InvalidConfigError, match="hash_key is missing: policy 'ring_hash'"):
        RingHash(PolicyContext(rng=random.Random(1)))


def test_the_contract() -> None:
    """The policy keeps the contract under its name."""
    named = PolicyContext(rng=random.Random(1), hash_key=from_metadata("key"))
    policy = policy_named("ring_hash", named)
    assert RingHash is type(policy)
    check_policy(policy)
