"""How the modulo policy spreads keys."""

from __future__ import annotations

import random

import pytest

from balancer.errors import InvalidConfigError
from balancer.hash_key import from_metadata
from balancer.policies.hash import Hash
from balancer.policy import Picker, PickInfo, PolicyContext, policy_named
from balancer.testing import FakeSubchannel, check_policy
from discovery.endpoint import Endpoint

CONTEXT = PolicyContext(rng=random.Random(3), hash_key=from_metadata("key"))
# What every process of every version must agree on; a change here moves the keys of users.
GOLDEN = [0, 3, 3, 0, 2, 1, 2, 3]


def info(key: str) -> PickInfo:
    """A call with that key."""
    return PickInfo("/pkg.Service/Method", (("key", key),), None)


def subchannels(count: int) -> list[FakeSubchannel]:
    """As many as asked for, by address."""
    return [FakeSubchannel(Endpoint(f"10.0.0.{index}:1")) for index in range(count)]


def picked(picker: Picker, keys: int) -> list[str]:
    """Where so many keys go."""
    return [
        picker.pick(info(f"account-{number}")).subchannel.endpoint.address for number in range(keys)
    ]


def test_golden() -> None:
    """Keys go where they have always gone."""
    picker = Hash(CONTEXT).build(subchannels(4))
    assert [f"10.0.0.{at}:1" for at in GOLDEN] == picked(picker, len(GOLDEN))


def test_the_order_given_does_not_matter() -> None:
    """Clients that learn of endpoints in another order agree."""
    one = Hash(CONTEXT).build(subchannels(5))
    two = Hash(CONTEXT).build(subchannels(5)[::-1])
    assert picked(one, 50) == picked(two, 50)


def test_the_keys_are_even() -> None:
    """Each endpoint has about its share of many keys."""
    chosen = picked(Hash(CONTEXT).build(subchannels(4)), 4_000)
    assert all(900 < chosen.count(address) < 1_100 for address in set(chosen))


def test_a_call_without_a_key_goes_anywhere() -> None:
    """No key, and an empty one, is a choice by chance."""
    given = subchannels(3)
    picker = Hash(CONTEXT).build(given)
    for keyless in (PickInfo("/pkg.Service/Method", (), None), info("")):
        assert set(given) == {picker.pick(keyless).subchannel for _ in range(100)}


def test_without_a_hash_key() -> None:
    """A policy that hashes and knows no key is refused at construction."""
    with pytest.raises(InvalidConfigError, match="hash_key is missing: policy 'hash'"):
        Hash(PolicyContext(rng=random.Random(1)))


def test_the_contract() -> None:
    """The policy keeps the contract under its name."""
    policy = policy_named("hash", CONTEXT)
    assert Hash is type(policy)
    check_policy(policy)
