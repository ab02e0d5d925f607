"""What counts as paid under fire, and what does not."""

from __future__ import annotations

from tests.chaos.forgery import FUND, PAYMENT, REFUSED, ask, told
from tests.chaos.history import Heard, History, Kind, Leg, Request, hears
from tests.chaos.tally import Tally, clashes_refused, under_fire

FIRST_FAULT_S, LAST_FAULT_S = 50.0, 110.0


def _told(history: History, request: Request, heard: Heard, at_s: float) -> None:
    attempt = ask(history, request)
    attempt.asked_s = history.attempts[request.key][-1].asked_s = at_s - 0.1
    attempt.heard, attempt.heard_s = heard, at_s
    history.add(hears(attempt))


def _payment(number: int) -> Request:
    return Request(f"pay-{number}", Kind.TRANSFER, "EUR", (Leg("alice", "bob", 1),))


def test_what_was_paid_before_the_first_fault_does_not_count() -> None:
    """A hundred payments of the warm-up, and some after the last fault: none under fire."""
    history = History()
    for number in range(100):
        _told(history, _payment(number), Heard.COMMITTED, FIRST_FAULT_S - 1)
    _told(history, _payment(100), Heard.COMMITTED, LAST_FAULT_S + 1)
    _told(history, FUND, Heard.COMMITTED, FIRST_FAULT_S + 1)
    assert Tally(0, 0, 0) == under_fire(history, FIRST_FAULT_S, LAST_FAULT_S)


def test_what_was_heard_under_fire_counts_once() -> None:
    """The first final answer of a key, a refusal, and every attempt."""
    history = History()
    _told(history, _payment(0), Heard.ERROR, FIRST_FAULT_S + 1)
    for later_s in (2, 3):
        _told(history, _payment(0), Heard.COMMITTED, FIRST_FAULT_S + later_s)
    _told(history, REFUSED, Heard.ABORTED, FIRST_FAULT_S + 4)
    assert Tally(1, 1, 4) == under_fire(history, FIRST_FAULT_S, LAST_FAULT_S)


def test_only_a_clash_that_is_refused_shows_that_keys_stand_for_bodies() -> None:
    """One that nobody has answered, or that failed, shows nothing."""
    history = History()
    told(history, PAYMENT, Heard.COMMITTED)
    told(history, PAYMENT, Heard.REFUSED)
    for heard, refused in ((None, 0), (Heard.ERROR, 0), (Heard.PENDING, 0), (Heard.REFUSED, 1)):
        attempt = ask(history, PAYMENT, clash=True)
        if heard is not None:
            attempt.heard = heard
            history.add(hears(attempt))
        assert refused == clashes_refused(history)
