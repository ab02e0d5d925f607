"""Schedules and campaigns: drawn from a seed, and hard enough to be a test."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from tests.chaos.faults import (
    CLIENT,
    ETCD,
    GAP_MAX_S,
    QUIET_END_S,
    Fault,
    Kind,
    Victim,
    campaign,
    kinds_for,
    schedule,
)

CAST = {"order": 2, "ledger": 2, "wallet": 1, "coordinator": 1, ETCD: 1, CLIENT: 5}
# The last fault is at most so long before the end.
CALM_MAX_S = GAP_MAX_S + QUIET_END_S
seeds = pytest.mark.parametrize("seed", range(20))


@seeds
@pytest.mark.parametrize("duration_s", [10.0, 60.0, 300.0])
def test_every_role_is_killed_and_no_calm_is_long(seed: int, duration_s: float) -> None:
    """However short the run: each role, and a fault every CALM_MAX_S or less."""
    faults = schedule(seed, duration_s, CAST, clocks=True)
    killed = {v.role for f in faults if f.kind is Kind.KILL for v in f.victims}
    assert set(CAST) == killed
    marks = [0.0, *(fault.at_s for fault in faults), duration_s]
    assert max(later - earlier for earlier, later in pairwise(marks)) <= CALM_MAX_S
    assert len(faults) > duration_s / GAP_MAX_S


@seeds
def test_every_fault_is_over_before_the_end(seed: int) -> None:
    """What comes after it is peace."""
    for fault in schedule(seed, 60.0, CAST, clocks=True):
        assert 0 <= fault.at_s <= fault.at_s + fault.lasts_s < 60.0


@seeds
def test_lasting_faults_of_one_process_do_not_overlap(seed: int) -> None:
    """The end of one would be the end of the other."""
    until_s: dict[Victim, float] = {}
    for fault in schedule(seed, 300.0, CAST, clocks=True):
        if fault.kind is not Kind.KILL:
            assert fault.victims
            for victim in fault.victims:
                assert until_s.get(victim, 0.0) <= fault.at_s
                until_s[victim] = fault.at_s + fault.lasts_s


@seeds
def test_nobody_gets_what_does_not_apply(seed: int) -> None:
    """No clock of etcd is moved; without libfaketime no clock at all."""
    for fault in schedule(seed, 300.0, CAST, clocks=True):
        for victim in fault.victims:
            assert victim.number < CAST[victim.role]
            allowed = (Kind.KILL, *kinds_for(victim.role, clocks=True))
            assert fault.kind in allowed
    faults = schedule(seed, 300.0, CAST, clocks=False)
    assert not [fault for fault in faults if fault.kind is Kind.CLOCK]


def test_long_runs_have_everything() -> None:
    """Every kind of fault, and several victims at a time."""
    faults = schedule(1, 300.0, CAST, clocks=True)
    assert set(Kind) == {fault.kind for fault in faults}
    assert max(len(fault.victims) for fault in faults) > 5


def test_a_seed_is_one_schedule() -> None:
    """The same faults each time, and others for another seed."""
    first = schedule(7, 60.0, CAST, clocks=True)
    assert first == schedule(7, 60.0, CAST, clocks=True)
    assert first != schedule(8, 60.0, CAST, clocks=True)


@seeds
def test_a_campaign_kills_every_role_about_as_often(seed: int) -> None:
    """So many kills, several in a round, and of each role its share."""
    rounds = list(campaign(seed, 1_000, CAST))
    killed = Counter(victim.role for each in rounds for _, victim in each.kills)
    assert 1_000 == killed.total()
    assert min(killed.values()) >= 150
    assert set(CAST) == set(killed)
    for each in rounds:
        victims = [victim for _, victim in each.kills]
        assert 0 < len(victims) == len(set(victims))
        assert sorted(at_s for at_s, _ in each.kills) == [at_s for at_s, _ in each.kills]


def test_a_fault_is_told_in_words() -> None:
    """What, how much, whom, how long."""
    victims = (Victim("order", 0), Victim("wallet", 0))
    assert "slow +0.1 s order-0 wallet-0 for 2.5 s" == str(Fault(Kind.SLOW, victims, 1, 2.5, 0.1))
    assert "kill -9 etcd-0" == str(Fault(Kind.KILL, (Victim(ETCD, 0),), 1))
