"""Who may be picked, and why not."""

from __future__ import annotations

import pytest
from grpc import ChannelConnectivity
from hypothesis import given
from hypothesis import strategies as st

from balancer.eligibility import (
    Eligibility,
    EligibilityConfig,
    Facts,
    Mode,
    Reason,
    decide,
    explain,
)
from balancer.errors import InvalidConfigError

READY, CONNECTING = ChannelConnectivity.READY, ChannelConnectivity.CONNECTING
IDLE, FAILED = ChannelConnectivity.IDLE, ChannelConnectivity.TRANSIENT_FAILURE

# One letter for each state of affairs, so that a fleet is a word.
FLEET = {
    "h": Facts(READY),
    "f": Facts(READY, full=True),
    "d": Facts(READY, draining=True),
    "n": Facts(READY, serving=False),
    "b": Facts(READY, broken=True),
    "e": Facts(READY, ejected=True),
    "x": Facts(FAILED),
    "c": Facts(CONNECTING),
    "i": Facts(IDLE),
    "D": Facts(CONNECTING, draining=True),
}


def decided(fleet: str, threshold: float = 50.0) -> Eligibility:
    """The decision about a fleet written in letters."""
    config = EligibilityConfig(panic_threshold_percent=threshold)
    return decide([FLEET[letter] for letter in fleet], config)


def chosen(fleet: str, threshold: float = 50.0) -> tuple[str, Mode]:
    """Who of a fleet is chosen, in letters, and on what footing."""
    eligibility = decided(fleet, threshold)
    return "".join(fleet[index] for index in eligibility.chosen), eligibility.mode


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(FAILED, True, False, True, True, True), Reason.NOT_READY),
        (Facts(READY, True, False, True, True, True), Reason.FULL),
        (Facts(READY, True, False, True, True), Reason.DRAINING),
        (Facts(READY, False, False, True, True), Reason.NOT_SERVING),
        (Facts(READY, False, True, True, True), Reason.BREAKER_OPEN),
        (Facts(READY, False, True, True), Reason.EJECTED),
        (Facts(READY), None),
    ],
    ids=str,
)
def test_the_hardest_reason_is_given(facts: Facts, expected: Reason | None) -> None:
    """Of several reasons the first by precedence is told, which is the order of the enum."""
    assert (expected,) == decide([facts], EligibilityConfig()).reasons


def test_reasons_stand_in_their_precedence() -> None:
    """What people read is ordered as the reasons apply."""
    expected = ["NOT_READY", "FULL", "DRAINING", "NOT_SERVING", "BREAKER_OPEN", "EJECTED"]
    assert expected == [each.name for each in Reason]


@pytest.mark.parametrize(
    ("fleet", "expected", "mode"),
    [
        ("hhh", "hhh", Mode.NORMAL),
        ("hndxceb", "heb", Mode.PANIC),
        ("hhnd", "hh", Mode.NORMAL),
        ("he", "h", Mode.NORMAL),
        ("hb", "h", Mode.NORMAL),
        ("hee", "hee", Mode.PANIC),
        ("hbe", "hbe", Mode.PANIC),
        ("hne", "he", Mode.PANIC),
        ("hnn", "h", Mode.NORMAL),
        ("heddd", "h", Mode.NORMAL),
        ("hexxx", "h", Mode.NORMAL),
        ("ec", "e", Mode.PANIC),
        ("fe", "", Mode.NOBODY),
        ("fee", "ee", Mode.PANIC),
        ("hf", "h", Mode.NORMAL),
        ("f", "", Mode.NOBODY),
        ("fd", "", Mode.NOBODY),
        ("fn", "", Mode.NOBODY),
        ("d", "d", Mode.DRAINING),
        ("dx", "d", Mode.DRAINING),
        ("dD", "d", Mode.DRAINING),
        ("dn", "d", Mode.DRAINING),
        ("dc", "", Mode.NOBODY),
        ("di", "", Mode.NOBODY),
        ("nc", "", Mode.NOBODY),
        ("nnx", "nn", Mode.NOT_SERVING),
        ("x", "", Mode.NOBODY),
        ("", "", Mode.NOBODY),
    ],
)
def test_who_is_chosen(fleet: str, expected: str, mode: Mode) -> None:
    """Each fleet gets those who may be picked, with the footing on which they are."""
    assert (expected, mode) == chosen(fleet)


@pytest.mark.parametrize(
    ("fleet", "expected", "mode"),
    [
        ("hee", "h", Mode.NORMAL),
        ("e", "", Mode.NOBODY),
        ("n", "", Mode.NOBODY),
        ("ed", "d", Mode.DRAINING),
    ],
)
def test_without_panic(fleet: str, expected: str, mode: Mode) -> None:
    """At a threshold of 0 no illness is overlooked."""
    assert (expected, mode) == chosen(fleet, 0.0)


def test_at_a_threshold_of_100_any_suspicion_is_too_much() -> None:
    """Everyone must be healthy, or the suspected are used."""
    assert ("hhhe", Mode.PANIC) == chosen("hhhe", 100.0)


@pytest.mark.parametrize(
    ("fleet", "expected"),
    [
        ("hx", READY),
        ("e", READY),
        ("f", READY),
        ("n", READY),
        ("dx", READY),
        ("dc", CONNECTING),
        ("xci", CONNECTING),
        ("xi", IDLE),
        ("x", FAILED),
        ("D", CONNECTING),
        ("", FAILED),
    ],
)
def test_the_state_of_the_channel(fleet: str, expected: ChannelConnectivity) -> None:
    """It is aggregated as gRPC does, over those that may be picked or may yet connect."""
    assert expected is decided(fleet).state


def test_without_panic_an_unhealthy_fleet_has_failed() -> None:
    """Calls need not wait for those that nothing but their health keeps away."""
    assert FAILED is decided("ne", 0.0).state


def test_an_explanation_counts_the_reasons() -> None:
    """People read how many of each, the hardest first, and nothing of the healthy."""
    assert "2 not connected, 1 draining" == explain(decided("dhxx").reasons)
    assert not explain(decided("hh").reasons)


facts = st.builds(Facts, st.sampled_from(ChannelConnectivity), *[st.booleans()] * 5)


@given(fleet=st.lists(facts, max_size=12), threshold=st.integers(0, 100))
def test_laws(fleet: list[Facts], threshold: int) -> None:
    """Connected and not full are all who are chosen, and nobody is passed over unreasonably."""
    config = EligibilityConfig(panic_threshold_percent=threshold)
    picked, reasons, mode, state = decide(fleet, config)
    assert len(fleet) == len(reasons)
    assert all(fleet[each].state is READY and not fleet[each].full for each in picked)
    assert (mode is Mode.NOBODY) == (not picked)
    if picked:
        assert state is READY
    healthy = {index for index, reason in enumerate(reasons) if reason is None}
    assert healthy <= set(picked)
    if healthy:
        assert all(fleet[each].serving and not fleet[each].draining for each in picked)
    if mode is Mode.NORMAL:
        assert healthy == set(picked)


@pytest.mark.parametrize("wrong", [-1.0, 100.1, float("nan")])
def test_impossible_thresholds(wrong: float) -> None:
    """A threshold that cannot be is refused by its name."""
    with pytest.raises(InvalidConfigError, match="panic_threshold_percent"):
        EligibilityConfig(panic_threshold_percent=wrong)
