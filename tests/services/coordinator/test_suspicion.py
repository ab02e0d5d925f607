"""From whom a coordinator takes over, as a rule without a clock or a network."""

from __future__ import annotations

import pytest

from services.coordinator.suspicion import Suspicion
from txn.decision_log import Standing
from txn.model import Epoch

GRACE_S = 5.0
OTHER = Standing(Epoch(2), "127.0.0.1:2", None)
THIRD = Standing(Epoch(3), "127.0.0.1:3", None)
NOBODY: dict[str, str] = {}


@pytest.fixture
def suspicion() -> Suspicion:
    """One that has known both others for long."""
    made = Suspicion(grace_s=GRACE_S, silences=2)
    made.suspects(0.0, [OTHER, THIRD], NOBODY)
    return made


def suspected(suspicion: Suspicion, now_s: float, registered: dict[str, str] | None) -> list[Epoch]:
    """The epochs that are suspected when OTHER and THIRD stand."""
    return [each.epoch for each in suspicion.suspects(now_s, [OTHER, THIRD], registered)]


def test_who_is_registered_is_not_suspected(suspicion: Suspicion) -> None:
    """Its lease says that it lives, whatever it answers."""
    assert [THIRD.epoch] == suspected(suspicion, 9.0, {OTHER.instance: "then"})


def test_who_has_just_begun_is_not_suspected(suspicion: Suspicion) -> None:
    """From its epoch to its registration takes a while."""
    assert [] == suspected(suspicion, GRACE_S - 0.1, NOBODY)
    assert [OTHER.epoch, THIRD.epoch] == suspected(suspicion, GRACE_S, NOBODY)


def test_a_new_epoch_at_the_same_address_has_just_begun(suspicion: Suspicion) -> None:
    """It is another start, with as much time as the one before had."""
    again = Standing(Epoch(4), OTHER.instance, None)
    assert [] == suspicion.suspects(9.0, [again], NOBODY)
    assert [again] == suspicion.suspects(9.0 + GRACE_S, [again], NOBODY)


def test_who_has_registered_has_no_time_left(suspicion: Suspicion) -> None:
    """It has come so far once, and is gone now."""
    suspected(suspicion, 1.0, {OTHER.instance: "then"})
    assert [OTHER.epoch] == suspected(suspicion, GRACE_S - 0.1, NOBODY)


def test_what_was_there_before_may_be_a_predecessor(suspicion: Suspicion) -> None:
    """Its lease says nothing of who has begun at its address since."""
    suspicion.suspects(8.0, [OTHER], {OTHER.instance: "then"})
    again = Standing(Epoch(4), OTHER.instance, None)
    suspicion.suspects(9.0, [again], {OTHER.instance: "then"})
    suspicion.suspects(9.5, [again], {OTHER.instance: "then"})
    assert [] == suspicion.suspects(10.0, [again], NOBODY)
    suspicion.suspects(11.0, [again], {OTHER.instance: "now"})
    assert [again] == suspicion.suspects(12.0, [again], NOBODY)


def test_who_was_there_before_the_first_look_has_had_its_time() -> None:
    """A coordinator that starts beside another knows that one by its registration."""
    suspicion = Suspicion(grace_s=GRACE_S, silences=2)
    assert [] == suspicion.suspects(0.0, [OTHER], {OTHER.instance: "then"})
    assert [OTHER] == suspicion.suspects(1.0, [OTHER], NOBODY)


def test_two_silences_in_a_row_are_enough(suspicion: Suspicion) -> None:
    """One may be a busy machine; and of one the other is not held guilty."""
    suspected(suspicion, 9.0, NOBODY)
    assert not suspicion.heard(OTHER, answers=False)
    assert suspicion.any_silent
    suspected(suspicion, 9.5, NOBODY)
    assert not suspicion.heard(THIRD, answers=False)
    assert suspicion.heard(OTHER, answers=False)
    suspected(suspicion, 10.0, NOBODY)
    assert suspicion.heard(OTHER, answers=False)


@pytest.mark.parametrize("sign", ["answer", "registered", "registry away", "gone"])
def test_a_sign_of_life_between_two_silences_begins_anew(suspicion: Suspicion, sign: str) -> None:
    """An answer, a registration; and while the registry is away nobody comes nearer to it."""
    suspected(suspicion, 9.0, NOBODY)
    assert not suspicion.heard(OTHER, answers=False)
    if sign == "answer":
        assert not suspicion.heard(OTHER, answers=True)
    elif sign == "registered":
        suspected(suspicion, 9.5, {OTHER.instance: "then"})
    elif sign == "gone":
        assert [] == suspicion.suspects(9.5, [], NOBODY)
    else:
        assert [] == suspected(suspicion, 9.5, None)
    assert not suspicion.any_silent
    suspected(suspicion, 30.0, NOBODY)
    assert not suspicion.heard(OTHER, answers=False)


def test_nothing_is_kept_of_who_is_over(suspicion: Suspicion) -> None:
    """Coordinators start for ever."""
    for number in range(10, 1_000):
        each = Standing(Epoch(number), "127.0.0.1:2", None)
        suspicion.suspects(float(number), [each], NOBODY)
        suspicion.heard(each, answers=False)
    suspicion.suspects(2_000.0, [], NOBODY)
    assert {} == suspicion._first_seen_s
    assert {} == suspicion._silent
    assert set() == suspicion._known
