"""The circuit breaker of an endpoint."""

from __future__ import annotations

from typing import Any

import pytest
from grpc import StatusCode
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from balancer.breaker import (
    FAILURES,
    TRANSITIONS,
    Breaker,
    BreakerConfig,
    BreakerEvent,
    BreakerState,
)
from balancer.errors import InvalidConfigError

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
ANSWERS = [each for each in StatusCode if each not in FAILURES | {StatusCode.CANCELLED}]
SILENT = (None, StatusCode.CANCELLED)
CONFIG = BreakerConfig(consecutive_failures=3, open_s=10.0, max_open_s=35.0)


def call(breaker: Breaker, code: StatusCode | None, now_s: float = 0.0) -> bool:
    """A call that ends at once; what `finish` said."""
    ticket = breaker.try_start(now_s)
    assert ticket is not None
    return breaker.finish(ticket, code, now_s)


def tripped(now_s: float = 0.0) -> Breaker:
    """A breaker that opened at `now_s`."""
    breaker = Breaker(CONFIG)
    for _ in range(CONFIG.consecutive_failures):
        call(breaker, StatusCode.UNAVAILABLE, now_s)
    return breaker


def test_the_table_of_transitions() -> None:
    """Four transitions are legal, and no other."""
    expected = {
        (CLOSED, BreakerEvent.TRIPPED): OPEN,
        (OPEN, BreakerEvent.WAITED): HALF_OPEN,
        (HALF_OPEN, BreakerEvent.PROBE_SUCCEEDED): CLOSED,
        (HALF_OPEN, BreakerEvent.PROBE_FAILED): OPEN,
    }
    assert expected == TRANSITIONS


@pytest.mark.parametrize("code", sorted(FAILURES, key=str))
def test_failures_in_a_row_open_it(code: StatusCode) -> None:
    """The last of a row of failures opens it, says so, and no call passes."""
    breaker = Breaker(CONFIG)
    assert [False, False, True] == [call(breaker, code) for _ in range(3)]
    assert OPEN is breaker.state
    assert (None, False) == (breaker.try_start(9.9), breaker.admits(9.9))


@pytest.mark.parametrize("code", ANSWERS, ids=str)
def test_any_answer_ends_the_row(code: StatusCode) -> None:
    """Application errors are answers: they never count, and failures start anew."""
    breaker = Breaker(CONFIG)
    for each in (StatusCode.UNAVAILABLE, StatusCode.UNAVAILABLE, code) * 3:
        assert not call(breaker, each)
    assert CLOSED is breaker.state


@pytest.mark.parametrize("code", SILENT, ids=str)
def test_who_says_nothing_ends_no_row(code: StatusCode | None) -> None:
    """A cancelled call neither counts nor interrupts."""
    breaker = Breaker(CONFIG)
    for each in (StatusCode.UNAVAILABLE, code, StatusCode.UNAVAILABLE, code):
        assert not call(breaker, each)
    assert call(breaker, StatusCode.UNAVAILABLE)


def test_one_probe_after_the_wait() -> None:
    """When the wait is over one call passes, and the next does not."""
    breaker = tripped()
    assert (10.0, True) == (breaker.retry_at_s, breaker.admits(10.0))
    assert breaker.try_start(10.0) is not None
    assert (HALF_OPEN, None, False) == (
        breaker.state,
        breaker.try_start(10.0),
        breaker.admits(10.0),
    )


@pytest.mark.parametrize("code", ANSWERS, ids=str)
def test_a_probe_that_is_answered_closes_it(code: StatusCode) -> None:
    """Any answer proves life; after it a whole row of failures is needed again."""
    breaker = tripped()
    assert call(breaker, code, 10.0)
    assert CLOSED is breaker.state
    assert [False, False, True] == [call(breaker, StatusCode.UNAVAILABLE, 10.0) for _ in range(3)]
    assert 20.0 == breaker.retry_at_s


def test_waits_double_up_to_the_limit_and_start_anew() -> None:
    """Each failed probe doubles the wait until `max_open_s`; a good one resets it."""
    breaker, waits, now_s = tripped(), [], 0.0
    for _ in range(4):
        waits.append(breaker.retry_at_s - now_s)
        now_s = breaker.retry_at_s
        assert call(breaker, StatusCode.DEADLINE_EXCEEDED, now_s)
    assert [10.0, 20.0, 35.0, 35.0] == waits
    call(breaker, StatusCode.OK, breaker.retry_at_s)
    for _ in range(3):
        call(breaker, StatusCode.UNAVAILABLE, 500.0)
    assert 510.0 == breaker.retry_at_s


@pytest.mark.parametrize("code", SILENT, ids=str)
def test_a_probe_that_says_nothing_is_followed_by_another(code: StatusCode | None) -> None:
    """A cancelled probe gives its place to the next call at once."""
    breaker = tripped()
    assert call(breaker, code, 11.0)
    assert (HALF_OPEN, True) == (breaker.state, breaker.admits(11.0))
    assert call(breaker, StatusCode.OK, 11.0)


def test_a_probe_that_does_not_end_is_joined() -> None:
    """A probe such as a long stream holds up nobody for ever; the later one counts."""
    breaker = tripped()
    first = breaker.try_start(10.0)
    assert breaker.try_start(19.9) is None
    second = breaker.try_start(20.0)
    assert first is not None
    assert second is not None
    assert not breaker.finish(first, StatusCode.UNAVAILABLE, 21.0)
    assert HALF_OPEN is breaker.state
    assert breaker.finish(second, StatusCode.OK, 22.0)
    assert CLOSED is breaker.state


@pytest.mark.parametrize("code", [StatusCode.OK, StatusCode.UNAVAILABLE, None], ids=str)
def test_late_news_changes_nothing(code: StatusCode | None) -> None:
    """A call from before the breaker opened does not speak for what comes after."""
    breaker = Breaker(CONFIG)
    early = breaker.try_start(0.0)
    assert early is not None
    for _ in range(3):
        call(breaker, StatusCode.UNAVAILABLE)
    assert not breaker.finish(early, code, 1.0)
    assert (OPEN, 10.0) == (breaker.state, breaker.retry_at_s)
    assert breaker.try_start(10.0) is not None
    assert not breaker.finish(early, code, 11.0)
    assert HALF_OPEN is breaker.state


def test_its_repr_has_the_state() -> None:
    """People see the state."""
    assert "<Breaker open>" == repr(tripped())


@pytest.mark.parametrize(
    "wrong",
    [
        {"consecutive_failures": 0},
        {"open_s": 0},
        {"open_s": float("nan")},
        {"max_open_s": 0},
        {"open_s": 2.0, "max_open_s": 1.0},
        {"max_in_flight": 0},
    ],
    ids=str,
)
def test_impossible_configs(wrong: dict[str, Any]) -> None:
    """A value that cannot be is refused by its name."""
    with pytest.raises(InvalidConfigError, match=next(iter(wrong))):
        BreakerConfig(**wrong)


class AnyHistory(RuleBasedStateMachine):
    """Calls start, end in any order and any way, and time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(CONFIG)
        self.now_s = 0.0
        self.tickets: list[int] = []

    @rule(seconds=st.floats(0.0, 40.0))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now_s += seconds

    @rule()
    def start(self) -> None:
        """A call wants to start; it may if and only if the breaker said so."""
        before, admits = self.breaker.state, self.breaker.admits(self.now_s)
        ticket = self.breaker.try_start(self.now_s)
        assert admits == (ticket is not None)
        if ticket is not None:
            self.tickets.append(ticket)
        if before is not CLOSED and ticket is not None:
            assert HALF_OPEN is self.breaker.state
            assert not self.breaker.admits(self.now_s)

    @rule(code=st.sampled_from([*StatusCode, None]), index=st.integers(0))
    def finish(self, code: StatusCode | None, index: int) -> None:
        """Any call under way ends; only legal transitions follow."""
        if not self.tickets:
            return
        before = self.breaker.state
        ticket = self.tickets.pop(index % len(self.tickets))
        changed = self.breaker.finish(ticket, code, self.now_s)
        after = self.breaker.state
        if after is not before:
            assert changed
            assert (before, after) in {(start, end) for (start, _), end in TRANSITIONS.items()}
            assert code not in SILENT
            assert (code in FAILURES) == (after is OPEN)

    @invariant()
    def it_comes_back(self) -> None:
        """However it got there, a call passes within the longest wait."""
        assert self.breaker.admits(self.now_s + CONFIG.max_open_s)


TestAnyHistory = AnyHistory.TestCase
