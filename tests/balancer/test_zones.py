"""Zone preference with spill-over."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.errors import InvalidConfigError
from balancer.policies import RoundRobin
from balancer.policies.round_robin import RoundRobinPicker
from balancer.policy import PickInfo, PolicyContext, Subchannel
from balancer.testing import FakeSubchannel, check_policy
from balancer.zones import ZoneConfig, ZonePicker, ZoneSplit, split, zone_picker
from discovery.endpoint import Endpoint

INFO = PickInfo("/pkg.Service/Method", (), b"")


def fleet(zones: str, weights: dict[str, int] | None = None) -> list[FakeSubchannel]:
    """One endpoint for each letter, in the zone that the letter names; "-" is in none."""
    return [
        FakeSubchannel(
            Endpoint(
                f"10.0.0.{index}:1",
                zone=zone.strip("-"),
                weight=(weights or {}).get(zone, 1),
            )
        )
        for index, zone in enumerate(zones)
    ]


def divided(usable: str, known: str = "", **config: Any) -> ZoneSplit:
    """The split of a client in zone "a"."""
    everyone = [each.endpoint for each in fleet(known or usable)]
    return split(fleet(usable), everyone, ZoneConfig(**{"zone": "a"} | config))


def local_part(zones: ZoneSplit) -> float:
    """The expected part of the calls that local endpoints get, spilled ones included."""
    stay = zones.stay_local_probability
    return stay + (1 - stay) * len(zones.local) / len(zones.everyone)


@pytest.mark.parametrize(
    ("usable", "known", "expected"),
    [
        ("aabb", "aabb", 1.0),
        ("aaabb", "aaabb", 1.0),
        ("abb", "abb", 2 / 3),
        ("abbcc", "aabbcc", 3 / 5),
        ("abbb", "abbb", 1 / 2),
        ("aa", "aabb", 1.0),
        ("aa", "aa", 1.0),
        ("a-", "a-", 1.0),
        ("bb", "aabb", 0.0),
    ],
)
def test_what_stays_local(usable: str, known: str, expected: float) -> None:
    """The local part is the zone's share of the capacity over its share of the traffic."""
    assert expected == pytest.approx(local_part(divided(usable, known)))


def test_the_groups() -> None:
    """The own zone's and all, in the order given."""
    usable = fleet("abab")
    zones = split(usable, [each.endpoint for each in usable], ZoneConfig(zone="a"))
    assert ((usable[0], usable[2]), tuple(usable)) == (zones.local, zones.everyone)


def test_capacity_is_weight() -> None:
    """A local endpoint of double weight stands for two."""
    usable = fleet("abb", {"a": 2})
    zones = split(usable, [each.endpoint for each in usable], ZoneConfig(zone="a"))
    assert 1.0 == zones.stay_local_probability


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"zone": ""}, 0.0),
        ({"zone": "elsewhere"}, 0.0),
        ({"min_local_endpoints": 2}, 1.0),
        ({"min_local_endpoints": 3}, 0.0),
        ({"traffic_share": 1.0}, 0.0),
        ({"traffic_share": 0.4}, 1.0),
    ],
    ids=str,
)
def test_when_a_zone_is_preferred(config: dict[str, Any], expected: float) -> None:
    """It takes a zone, enough endpoints in it, and capacity for its share of the traffic."""
    assert expected == pytest.approx(divided("aabb", **config).stay_local_probability)


def test_nobody_usable() -> None:
    """An empty fleet splits into nothing."""
    assert ZoneSplit((), (), 0.0) == divided("", "aabb")


def even_client_loads(usable: str) -> list[float]:
    """The load of each endpoint when equally many clients sit in each zone."""
    loads = [0.0] * len(usable)
    for zone in sorted(set(usable)):
        local, everyone, stay = divided(usable, zone=zone)
        for index, each in enumerate(usable):
            loads[index] += (stay / len(local) if each == zone else 0) + (1 - stay) / len(everyone)
    return loads


@given(st.text("abcd", min_size=1, max_size=30))
def test_no_endpoint_gets_more_than_double(usable: str) -> None:
    """With equally many clients in each zone nobody has more than twice the mean load."""
    zones = len(set(usable))
    mean = zones / len(usable)
    loads = even_client_loads(usable)
    assert zones == pytest.approx(sum(loads))
    assert max(loads) <= 2 * mean + 1e-9


@given(st.text("abc-", min_size=1, max_size=20), st.text("abc-", max_size=20))
def test_laws(usable: str, others: str) -> None:
    """The probability is one, and grows when a local endpoint is added."""
    known = usable + others
    before, after = (divided(each, known + "a") for each in (usable, usable + "a"))
    assert 0.0 <= before.stay_local_probability <= after.stay_local_probability + 1e-9
    assert after.stay_local_probability <= 1.0
    assert local_part(before) <= local_part(after) + 1e-9


def test_a_picker_only_over_those_who_may_be_picked() -> None:
    """All local is the local picker, none local is the picker over everyone: no dice."""
    assert [True, False] == [
        isinstance(
            zone_picker(zones, lambda each: RoundRobinPicker(each, start=0), random.Random(1)),
            ZonePicker,
        )
        for zones in (divided("abb"), divided("ab"))
    ]
    away = zone_picker(
        divided("ab", zone="c"), lambda each: RoundRobinPicker(each, start=0), random.Random(1)
    )
    assert 2 == len({away.pick(INFO).subchannel for _ in range(2)})


def test_picks_stay_as_often_as_they_should() -> None:
    """Over many calls the local endpoints get the part that was computed."""
    zones = divided("abbb")
    picker = zone_picker(
        zones, RoundRobin(PolicyContext(rng=random.Random(3))).build, random.Random(4)
    )
    picks = Counter(picker.pick(INFO).subchannel.endpoint.zone for _ in range(10_000))
    assert 5_000 == pytest.approx(picks["a"], abs=200)


def test_it_is_a_picker_like_any_other() -> None:
    """A policy that prefers a zone keeps the contract of a policy."""

    class Zoned:
        def build(self, subchannels: Any) -> ZonePicker:
            local: tuple[Subchannel, ...] = tuple(subchannels[:1])
            return ZonePicker(
                RoundRobinPicker(local, start=0),
                RoundRobinPicker(subchannels, start=0),
                0.5,
                random.Random(1),
            )

    check_policy(Zoned())


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_local_endpoints": 0},
        {"traffic_share": 0.0},
        {"traffic_share": 1.1},
        {"traffic_share": float("nan")},
    ],
    ids=str,
)
def test_impossible_configs(wrong: dict[str, Any]) -> None:
    """A value that cannot be is refused by its name."""
    with pytest.raises(InvalidConfigError, match=next(iter(wrong))):
        ZoneConfig(**wrong)
