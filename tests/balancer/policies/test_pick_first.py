"""One subchannel for all, until it goes."""

from __future__ import annotations

import pytest

from balancer.policies import PickFirst
from balancer.testing import check_policy
from tests.balancer.policies.simulation import INFO, context, fakes, shares


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_contract(shuffle: bool) -> None:
    """It keeps the contract of a policy."""
    check_policy(PickFirst(context(), shuffle=shuffle))


def test_it_takes_the_first() -> None:
    """All calls go to the first by address."""
    given = fakes(1, 1, 1)
    assert {given[0]: 1.0} == shares(PickFirst(context()).build(given), 50)


def test_it_sticks_to_what_it_has() -> None:
    """Others that come before it by address change nothing."""
    first, second, third = fakes(1, 1, 1)
    policy = PickFirst(context())
    policy.build((second, third))
    assert second is policy.build((first, second, third)).pick(INFO).subchannel


def test_it_does_not_return() -> None:
    """When its choice goes it takes another, and stays there when the old one is back."""
    first, second = fakes(1, 1)
    policy = PickFirst(context())
    policy.build((first, second))
    policy.build((second,))
    assert second is policy.build((first, second)).pick(INFO).subchannel


def test_an_old_picker_stays_as_it_was() -> None:
    """A picker is a snapshot: a later choice does not change it."""
    first, second = fakes(1, 1)
    policy = PickFirst(context())
    old = policy.build((first,))
    policy.build((second,))
    assert first is old.pick(INFO).subchannel


def test_shuffled_clients_do_not_pile_up() -> None:
    """With shuffle, clients choose differently, and each sticks to its choice."""
    given = fakes(1, 1, 1, 1)
    policies = [PickFirst(context(seed=seed), shuffle=True) for seed in range(50)]
    chosen = [policy.build(given).pick(INFO).subchannel for policy in policies]
    assert set(given) == set(chosen)
    assert chosen == [policy.build(given[:]).pick(INFO).subchannel for policy in policies]
