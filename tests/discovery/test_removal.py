from __future__ import annotations

import time
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import discovery.removal
from discovery import Endpoint
from discovery.removal import Removals

_WINDOW_S, _GRACE_S = 10.0, 60.0


class _Service:
    """The endpoints of one service, and what becomes of those that leave."""

    def __init__(self, *addresses: str) -> None:
        self.present: dict[str, Endpoint] = {}
        self.removals = Removals(_WINDOW_S, _GRACE_S)
        self.comes(*addresses, at_s=0.0)

    def comes(self, *addresses: str, at_s: float, draining: bool = False) -> None:
        for address in addresses:
            self.present[address] = Endpoint(address, draining=draining)
        self._observe(at_s, appeared=addresses)

    def drains(self, *addresses: str, at_s: float) -> None:
        self.comes(*addresses, at_s=at_s, draining=True)

    def goes(self, *addresses: str, at_s: float) -> None:
        gone = [self.present.pop(address) for address in addresses]
        self._observe(at_s, vanished=gone)

    def withdrawn(self, at_s: float) -> list[str]:
        return [endpoint.address for endpoint in self.removals.withdrawn(at_s)]

    def _observe(
        self, at_s: float, appeared: Iterable[str] = (), vanished: Iterable[Endpoint] = ()
    ) -> None:
        self.removals.observe(
            appeared=appeared, vanished=vanished, present_count=len(self.present), now_s=at_s
        )


def test_most_of_a_service_at_once_is_withdrawn_in_order() -> None:
    """Three of four vanish: withdrawn, by address."""
    service = _Service("a:1", "b:1", "c:1", "d:1")

    service.goes("d:1", "b:1", "c:1", at_s=1.0)

    assert service.withdrawn(1.0) == ["b:1", "c:1", "d:1"]


@pytest.mark.parametrize(
    ("present", "vanish", "withdrawn"),
    [
        (1, 1, True),
        (2, 1, False),
        (2, 2, True),
        (3, 1, False),
        (3, 2, True),
        (4, 2, False),
        (4, 3, True),
        (10, 5, False),
        (10, 6, True),
    ],
)
def test_the_threshold_is_more_than_half_and_at_least_two(
    present: int, vanish: int, withdrawn: bool
) -> None:
    """Exactly half is no mass removal; the last one there is stays in any case."""
    addresses = [f"a:{port}" for port in range(1, present + 1)]
    service = _Service(*addresses)

    service.goes(*addresses[:vanish], at_s=1.0)

    assert (sorted(addresses[:vanish]) if withdrawn else []) == service.withdrawn(1.0)


def test_those_that_went_singly_before_are_withdrawn_with_the_one_that_tips_the_scale() -> None:
    """Each lease ends by itself; the second of three makes it a mass removal."""
    service = _Service("a:1", "b:1", "c:1")

    service.goes("a:1", at_s=1.0)
    assert service.withdrawn(1.0) == []
    service.goes("b:1", at_s=9.0)

    assert service.withdrawn(9.0) == ["a:1", "b:1"]


def test_what_vanished_before_the_window_does_not_count() -> None:
    """The same two of three, 10 s apart, are two removals."""
    service = _Service("a:1", "b:1", "c:1")

    service.goes("a:1", at_s=1.0)
    service.goes("b:1", at_s=11.0)

    assert service.withdrawn(11.0) == []


def test_a_mass_removal_brings_back_nothing_from_before_the_window() -> None:
    """One that went long before stays removed."""
    service = _Service("a:1", "b:1", "c:1")

    service.goes("a:1", at_s=1.0)
    service.goes("b:1", "c:1", at_s=20.0)

    assert service.withdrawn(20.0) == ["b:1", "c:1"]


def test_one_that_went_and_returned_is_no_part_of_the_mass_removal_after_it() -> None:
    """It is present."""
    service = _Service("a:1", "b:1", "c:1", "d:1")
    service.goes("a:1", at_s=1.0)
    service.comes("a:1", at_s=2.0)

    service.goes("b:1", "c:1", "d:1", at_s=3.0)

    assert service.withdrawn(3.0) == ["b:1", "c:1", "d:1"]


def test_one_reported_twice_counts_once() -> None:
    """Two reports of one removal are no mass removal."""
    removals = Removals()
    removals.observe(appeared=["a:1", "b:1"], present_count=2, now_s=0.0)

    removals.observe(vanished=[Endpoint("a:1")], present_count=1, now_s=1.0)
    removals.observe(vanished=[Endpoint("a:1")], present_count=1, now_s=2.0)

    assert removals.withdrawn(2.0) == ()


def test_withdrawn_lasts_for_the_grace_counted_from_vanishing() -> None:
    """Each leaves 60 s after it vanished, and next_change_at_s says so beforehand."""
    service = _Service("a:1", "b:1", "c:1")
    service.goes("a:1", at_s=1.0)
    service.goes("b:1", at_s=9.0)

    assert service.removals.next_change_at_s() == 61.0
    assert service.withdrawn(60.9) == ["a:1", "b:1"]
    assert service.withdrawn(61.0) == ["b:1"]
    assert service.removals.next_change_at_s() == 69.0
    assert service.withdrawn(69.0) == []
    assert service.removals.next_change_at_s() is None


def test_one_that_returns_is_neither_withdrawn_nor_counted_as_vanished() -> None:
    """After both returned, the next single removal is a single removal."""
    service = _Service("a:1", "b:1", "c:1")
    service.goes("a:1", "b:1", at_s=1.0)

    service.comes("a:1", at_s=2.0)
    assert service.withdrawn(2.0) == ["b:1"]
    service.comes("b:1", at_s=3.0)
    assert service.withdrawn(3.0) == []
    service.goes("c:1", at_s=4.0)

    assert service.withdrawn(4.0) == []


def test_a_drained_endpoint_counts_as_seen_but_is_never_withdrawn() -> None:
    """Two drained and two not vanish of five: less than half, and so removed."""
    service = _Service("a:1", "b:1", "c:1", "d:1", "e:1")
    service.drains("a:1", "b:1", at_s=1.0)

    service.goes("a:1", "b:1", "c:1", "d:1", at_s=2.0)

    assert service.withdrawn(2.0) == []


def test_whoever_goes_last_takes_the_others_out_of_doubt() -> None:
    """When nobody is left those that vanished undrained are withdrawn, whoever went last."""
    service = _Service("a:1", "b:1")
    service.drains("b:1", at_s=1.0)
    service.goes("a:1", at_s=2.0)
    assert service.withdrawn(2.0) == []

    service.goes("b:1", at_s=3.0)

    assert service.withdrawn(3.0) == ["a:1"]


def test_a_mass_removal_withdraws_only_the_undrained() -> None:
    """One drained among them stays removed."""
    service = _Service("a:1", "b:1", "c:1")
    service.drains("a:1", at_s=1.0)

    service.goes("a:1", "b:1", "c:1", at_s=2.0)

    assert service.withdrawn(2.0) == ["b:1", "c:1"]


def test_replacing_one_after_the_other_withdraws_nothing() -> None:
    """A restart of everything, each killed after its successor came, is no mass removal."""
    service = _Service("a:1", "b:1", "c:1")

    for at_s, (old, new) in enumerate([("a:1", "a:2"), ("b:1", "b:2"), ("c:1", "c:2")]):
        service.comes(new, at_s=float(at_s))
        service.goes(old, at_s=float(at_s))

    assert service.withdrawn(3.0) == []


def test_nothing_removed_comes_back_because_time_passed() -> None:
    """That drained ones leave the window makes no mass removal of what went after them."""
    service = _Service("a:1", "b:1", "c:1", "d:1", "e:1")
    service.drains("a:1", "b:1", at_s=0.0)
    service.goes("a:1", "b:1", at_s=1.0)
    service.goes("c:1", "d:1", at_s=5.0)

    service.comes("e:1", at_s=12.0)

    assert service.withdrawn(12.0) == []


def test_an_address_reported_as_both_is_present() -> None:
    """Deleted and put again in one batch: it is there."""
    removals = Removals()

    removals.observe(
        appeared=["a:1"], vanished=[Endpoint("a:1"), Endpoint("b:1")], present_count=1, now_s=1.0
    )

    assert removals.withdrawn(1.0) == ()


def test_an_endpoint_is_withdrawn_as_it_last_stood() -> None:
    """Whole, so that zone and weight still count."""
    removals = Removals()
    gone = (Endpoint("a:1", zone="z"), Endpoint("b:1", weight=7))

    removals.observe(vanished=gone, present_count=0, now_s=1.0)

    assert gone == removals.withdrawn(1.0)


def test_what_is_remembered_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the one that vanished first is removed."""
    monkeypatch.setattr(discovery.removal, "MAX_VANISHED", 3)
    at_once = _Service(*(f"a:{port}" for port in range(1, 7)))
    at_once.goes(*at_once.present, at_s=1.0)
    assert at_once.withdrawn(1.0) == ["a:4", "a:5", "a:6"]

    singly = _Service(*(f"a:{port}" for port in range(1, 7)))
    for at_s, address in enumerate(tuple(singly.present)):
        singly.goes(address, at_s=at_s * 6.0)
    assert singly.withdrawn(30.0) == ["a:4", "a:5", "a:6"]

    drained = _Service(*(f"a:{port}" for port in range(11, 22)))
    drained.drains(*tuple(drained.present)[:6], at_s=0.0)
    for address in tuple(drained.present)[:-1]:
        drained.goes(address, at_s=1.0)
    assert drained.withdrawn(1.0) == ["a:18", "a:19", "a:20"]


@pytest.mark.parametrize(("window_s", "grace_s"), [(0, 1), (1, 0), (-1, 1), (float("nan"), 1)])
def test_intervals_are_above_zero(window_s: float, grace_s: float) -> None:
    """Anything else is refused at construction."""
    with pytest.raises(ValueError, match="above 0"):
        Removals(window_s, grace_s)


def test_one_change_among_many_costs_the_same() -> None:
    """After 10,000 vanished one by one, what is there is judged in microseconds a change."""
    count = 10_000
    service = _Service(*(f"a{port}:1" for port in range(count)))
    began_s = time.thread_time()

    for port in range(count):
        service.goes(f"a{port}:1", at_s=port * 0.01)
    for port in range(count):
        service.comes(f"a{port}:1", at_s=100.0)

    # Measured: about 0.1 s for 20,000 changes. In proportion to the fleet it would be minutes.
    assert time.thread_time() - began_s < 2.0


# -- properties, against the rule told slowly ---------------------------------------------

_ADDRESSES = [f"a:{port}" for port in range(1, 8)]
_STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 1.0, 4.0, 9.0, 10.0, 25.0, 60.0]),
        st.dictionaries(
            st.sampled_from(_ADDRESSES),
            st.sampled_from(["gone", "gone", "up", "up", "draining"]),
            min_size=1,
        ),
    ),
    max_size=25,
)


class _Slow:
    """The rule, recomputed from everything that ever vanished."""

    def __init__(self) -> None:
        self.vanished: dict[str, tuple[float, Endpoint]] = {}
        self.withdrawn: set[str] = set()

    def observe(self, present: dict[str, Endpoint], gone: list[Endpoint], now_s: float) -> None:
        for endpoint in gone:
            self.vanished[endpoint.address] = (now_s, endpoint)
        for address in present:
            self.vanished.pop(address, None)
        self.withdrawn &= self.vanished.keys()
        recent = {
            address: endpoint
            for address, (at_s, endpoint) in self.vanished.items()
            if now_s - at_s < _WINDOW_S
        }
        undrained = {address for address, endpoint in recent.items() if not endpoint.draining}
        seen = len(present) + len(recent)
        judged = any(not endpoint.draining for endpoint in gone)
        mass = len(undrained) >= 2 and len(undrained) > seen / 2
        if (judged and mass) or (gone and not present):
            self.withdrawn |= undrained

    def at(self, now_s: float) -> tuple[Endpoint, ...]:
        return tuple(
            self.vanished[address][1]
            for address in sorted(self.withdrawn)
            if now_s - self.vanished[address][0] < _GRACE_S
        )


def _step(present: dict[str, Endpoint], wishes: dict[str, str]) -> tuple[list[str], list[Endpoint]]:
    appeared, gone = [], []
    for address, wish in wishes.items():
        if wish == "gone" and address in present:
            gone.append(present.pop(address))
        elif wish != "gone":
            appeared.append(address)
            present[address] = Endpoint(address, draining=wish == "draining")
    return appeared, gone


@given(_STEPS)
def test_it_agrees_with_the_rule_told_slowly(
    steps: list[tuple[float, dict[str, str]]],
) -> None:
    """After every step, and when nothing changes but the time."""
    removals, slow, now_s = Removals(_WINDOW_S, _GRACE_S), _Slow(), 0.0
    present = {address: Endpoint(address) for address in _ADDRESSES}
    for pause_s, wishes in steps:
        now_s += pause_s
        appeared, gone = _step(present, wishes)
        removals.observe(appeared=appeared, vanished=gone, present_count=len(present), now_s=now_s)
        slow.observe(present, gone, now_s)
        assert slow.at(now_s) == removals.withdrawn(now_s)
    while (now_s := removals.next_change_at_s() or 0.0) > 0.0:
        before = removals.withdrawn(now_s - 0.5)
        assert slow.at(now_s) == removals.withdrawn(now_s) != before


@given(_STEPS)
def test_the_promises_hold_for_any_history(steps: list[tuple[float, dict[str, str]]]) -> None:
    """Never both present and withdrawn, never a drained one, never beyond the grace."""
    removals, now_s = Removals(_WINDOW_S, _GRACE_S), 0.0
    present = {address: Endpoint(address) for address in _ADDRESSES}
    vanished_at_s: dict[str, float] = {}
    for pause_s, wishes in steps:
        now_s += pause_s
        appeared, gone = _step(present, wishes)
        vanished_at_s.update((endpoint.address, now_s) for endpoint in gone)
        removals.observe(appeared=appeared, vanished=gone, present_count=len(present), now_s=now_s)
        withdrawn = removals.withdrawn(now_s)
        addresses = [endpoint.address for endpoint in withdrawn]
        assert sorted(set(addresses)) == addresses
        assert not present.keys() & set(addresses)
        assert not any(endpoint.draining for endpoint in withdrawn)
        assert all(now_s - vanished_at_s[address] < _GRACE_S for address in addresses)
    assert removals.withdrawn(now_s + _GRACE_S) == ()


@given(present=st.integers(min_value=3, max_value=50), removals_apart_s=st.floats(10.0, 1000.0))
def test_a_single_removal_of_three_or_more_is_seen_at_once(
    present: int, removals_apart_s: float
) -> None:
    """However often it happens, as long as each stands alone in its window."""
    service = _Service(*(f"a:{port}" for port in range(1, present + 1)))

    for number, address in enumerate(tuple(service.present)[:-1], start=1):
        service.goes(address, at_s=number * (removals_apart_s + 0.001))
        assert service.withdrawn(number * (removals_apart_s + 0.001)) == []
