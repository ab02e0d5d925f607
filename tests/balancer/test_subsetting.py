"""Deterministic subsets."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.errors import InvalidConfigError
from balancer.subsetting import SubsetConfig, first_within, subset
from discovery.endpoint import Endpoint

endpoints = st.lists(
    st.builds(
        lambda number, draining: Endpoint(f"10.0.0.{number}:1", draining=draining),
        st.integers(1, 250),
        st.booleans(),
    ),
    max_size=40,
    unique_by=lambda each: each.address,
)
sizes = st.integers(1, 12)
clients = st.text(min_size=1, max_size=8)


def fleet(count: int) -> list[Endpoint]:
    """That many endpoints, none draining."""
    return [Endpoint(f"10.0.{index // 250}.{index % 250}:1") for index in range(count)]


def staying(chosen: tuple[Endpoint, ...]) -> set[str]:
    """The addresses of those that do not drain."""
    return {each.address for each in chosen if not each.draining}


@given(endpoints, sizes, clients)
def test_size(known: list[Endpoint], size: int, client: str) -> None:
    """As many as asked for if there are, all if not; draining ones come on top, bounded."""
    chosen = subset(known, size, client)
    available = sum(not each.draining for each in known)
    assert min(size, available) == len(staying(chosen))
    assert len(chosen) <= 2 * size
    assert sorted(set(chosen), key=lambda each: each.address) == list(chosen)
    assert set(chosen) <= set(known)


@given(endpoints, sizes, clients, st.randoms(use_true_random=False))
def test_order_does_not_matter(
    known: list[Endpoint], size: int, client: str, rng: random.Random
) -> None:
    """The same endpoints in another order give the same subset."""
    shuffled = rng.sample(known, len(known))
    assert subset(known, size, client) == subset(shuffled, size, client)


@given(endpoints, sizes, clients, st.data())
def test_one_that_leaves_changes_at_most_one(
    known: list[Endpoint], size: int, client: str, data: st.DataObject
) -> None:
    """When one is removed, or seen from behind added, at most it is replaced."""
    if not known:
        return
    gone = data.draw(st.sampled_from(known))
    before = staying(subset(known, size, client))
    after = staying(subset([each for each in known if each is not gone], size, client))
    assert before - after <= {gone.address}
    assert len(after - before) <= len(before - after)


@given(
    st.sets(st.integers(1, 250), max_size=30),
    sizes,
    clients,
    st.data(),
)
def test_one_that_drains_stays_beside_its_replacement(
    numbers: set[int], size: int, client: str, data: st.DataObject
) -> None:
    """Nobody else goes, at most one comes, and the one that drains keeps its connection."""
    known = [Endpoint(f"10.0.0.{number}:1") for number in sorted(numbers)]
    before = subset(known, size, client)
    if not before:
        return
    address = data.draw(st.sampled_from(before)).address
    drained = [Endpoint(each.address, draining=each.address == address) for each in known]
    after = {each.address for each in subset(drained, size, client)}
    assert {each.address for each in before} <= after
    assert len(after) <= len(before) + 1


def test_a_client_keeps_its_subset_in_every_process() -> None:
    """The choice depends on nothing but addresses and name, so it can be written down."""
    expected = ["10.0.0.17:1", "10.0.0.39:1", "10.0.0.3:1", "10.0.0.79:1"]
    assert expected == [each.address for each in subset(fleet(100), 4, "client-1")]


@pytest.mark.parametrize(
    ("servers", "clients", "size"), [(100, 1_000, 20), (10, 1_000, 5), (30, 1_000, 1)]
)
def test_clients_spread_evenly(servers: int, clients: int, size: int) -> None:
    """All clients together burden the servers as chance would: within five deviations."""
    known = fleet(servers)
    load = Counter(
        each.address
        for client in range(clients)
        for each in subset(known, size, f"client-{client}")
    )
    mean = clients * size / servers
    assert servers == len(load)
    assert max(abs(each - mean) for each in load.values()) < 5 * mean**0.5


def test_clients_differ() -> None:
    """Two names hardly ever mean the same subset."""
    assert 100 == len({subset(fleet(100), 5, f"client-{client}") for client in range(100)})


@pytest.mark.parametrize("wrong", [{"client_id": ""}, {"size": 0}], ids=str)
def test_impossible_configs(wrong: dict[str, Any]) -> None:
    """A value that cannot be is refused by its name."""
    with pytest.raises(InvalidConfigError, match=next(iter(wrong))):
        SubsetConfig(**{"client_id": "a"} | wrong)


@given(endpoints, st.integers(0, 40), st.data())
def test_those_that_work_come_first(known: list[Endpoint], limit: int, data: st.DataObject) -> None:
    """A limit takes nobody's place who works while another does not, and keeps the order."""
    by_address = sorted(known, key=lambda each: each.address)
    addresses = [each.address for each in by_address]
    works: set[str] = set()
    if addresses:
        works = data.draw(st.sets(st.sampled_from(addresses), max_size=limit))
    chosen = [each.address for each in first_within(by_address, limit, works)]
    assert sorted(chosen) == chosen
    assert min(limit, len(addresses)) == len(set(chosen))
    assert works <= set(chosen)
