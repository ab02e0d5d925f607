"""When a hedged call sends its next attempt, and which attempt it becomes."""

from __future__ import annotations

from typing import Any

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from balancer.attempt import AttemptOutcome
from balancer.errors import InvalidConfigError
from balancer.hedging import Finish, HedgeState, HedgingPolicy, Send, Wait
from balancer.throttle import RetryThrottle

OK = AttemptOutcome(code=StatusCode.OK)
BUSY = AttemptOutcome(code=StatusCode.UNAVAILABLE)
WRONG = AttemptOutcome(code=StatusCode.INVALID_ARGUMENT)
NOWHERE = AttemptOutcome(code=StatusCode.UNAVAILABLE, seen_by_server=False)
SHED = AttemptOutcome(
    code=StatusCode.RESOURCE_EXHAUSTED, trailers=(("tallystick-unprocessed", "1"),)
)


def pushed(milliseconds: str, code: StatusCode = StatusCode.UNAVAILABLE) -> AttemptOutcome:
    """A failure whose server says when to come back."""
    return AttemptOutcome(code=code, trailers=(("grpc-retry-pushback-ms", milliseconds),))


class Run:
    """A hedged call and the clock it runs by; attempt n goes to the endpoint "n"."""

    def __init__(
        self,
        *,
        attempts: int = 3,
        delay_s: float = 1.0,
        deadline_s: float | None = None,
        throttle: RetryThrottle | None = None,
    ) -> None:
        policy = HedgingPolicy(max_attempts=attempts, hedging_delay_s=delay_s)
        self.throttle = throttle or RetryThrottle()
        self.state = HedgeState(policy, self.throttle, deadline_s=deadline_s)
        self.now_s = 0.0

    def at(self, now_s: float) -> list[int]:
        """Goes to that time and sends what is due; which attempts were sent."""
        self.now_s = now_s
        sent = []
        while isinstance(step := self.step(), Send):
            self.state.sent(step.number, str(step.number), now_s=now_s)
            sent.append(step.number)
        return sent

    def after(self, number: int, outcome: AttemptOutcome) -> None:
        """That attempt ends now."""
        self.state.after(number, outcome, now_s=self.now_s)

    def step(self) -> Send | Wait | Finish:
        """What is to be done now."""
        return self.state.step(now_s=self.now_s)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"max_attempts": 6}, "max_attempts"),
        ({"hedging_delay_s": -1}, "hedging_delay_s"),
        ({"hedging_delay_s": float("nan")}, "hedging_delay_s"),
        ({"non_fatal_codes": frozenset({StatusCode.OK})}, "non_fatal_codes"),
    ],
    ids=str,
)
def test_impossible_policies(wrong: dict[str, Any], field: str) -> None:
    """A policy that cannot be is refused by the name of the field."""
    with pytest.raises(InvalidConfigError, match=field):
        HedgingPolicy(**({"hedging_delay_s": 1.0} | wrong))


def test_attempts_follow_at_intervals() -> None:
    """One attempt at once and one per delay, up to the limit; then it only waits."""
    run = Run()
    assert [[0], [], [1], [2], []] == [run.at(now_s) for now_s in (0.0, 0.9, 1.0, 2.5, 9.0)]
    assert Wait(None) == run.step()


def test_it_says_how_long_to_wait() -> None:
    """Between two attempts it names the time of the next."""
    run = Run(delay_s=0.25)
    run.at(10.0)
    assert Wait(10.25) == run.step()


def test_no_delay_sends_all() -> None:
    """A delay of 0 sends every attempt at once."""
    assert [0, 1, 2] == Run(delay_s=0.0).at(0.0)


def test_each_attempt_knows_the_others() -> None:
    """An attempt is told which endpoints were used and how many went before it."""
    run = Run()
    run.at(0.0)
    run.at(1.0)
    run.now_s = 2.0
    step = run.step()
    assert Send(2, frozenset({"0", "1"})) == step
    assert isinstance(step, Send)
    assert (("grpc-previous-rpc-attempts", "2"),) == step.metadata()


def test_the_first_success_wins() -> None:
    """A success is the call; the others are cancelled, and late news do not matter."""
    run = Run(attempts=5)
    run.at(0.0)
    run.at(1.0)
    run.at(2.0)
    run.after(1, OK)
    assert Finish(1, frozenset({0, 2})) == run.step()
    run.after(0, OK)
    run.after(2, WRONG)
    assert Finish(1, frozenset()) == run.step()


def test_a_commit_wins() -> None:
    """The attempt whose response came first is the call, even if it fails afterwards."""
    run = Run()
    run.at(0.0)
    run.at(1.0)
    run.state.commit(1)
    run.state.commit(0)
    assert Finish(1, frozenset({0})) == run.step()
    run.after(1, BUSY)
    assert Finish(1, frozenset({0})) == run.step()


@pytest.mark.parametrize("outcome", [BUSY, SHED, NOWHERE], ids=["code", "unprocessed", "unsent"])
def test_a_non_fatal_failure_brings_the_next_forward(outcome: AttemptOutcome) -> None:
    """The next attempt is sent at once, and the delay counts from it."""
    run = Run()
    run.at(0.0)
    run.now_s = 0.4
    run.after(0, outcome)
    assert [1] == run.at(0.4)
    assert Wait(1.4) == run.step()


def test_a_fatal_failure_ends_the_call() -> None:
    """Any other code is the outcome, and what is in flight is cancelled."""
    run = Run()
    run.at(0.0)
    run.at(1.0)
    run.after(0, WRONG)
    assert Finish(0, frozenset({1})) == run.step()


def test_when_all_fail_the_last_failure_stands() -> None:
    """With every attempt used and none in flight, the failure heard last is the outcome."""
    run = Run(attempts=2)
    run.at(0.0)
    run.at(1.0)
    run.after(1, BUSY)
    assert Wait(None) == run.step()
    run.after(0, BUSY)
    assert Finish(0, frozenset()) == run.step()


def test_pushback_moves_the_next() -> None:
    """The next attempt keeps the server's delay; those after it are a delay apart again."""
    run = Run(attempts=4)
    run.at(0.0)
    run.after(0, pushed("2500"))
    assert [[], [1], [], [2]] == [run.at(now_s) for now_s in (2.4, 2.5, 3.4, 3.5)]


def test_a_failure_does_not_outrun_pushback() -> None:
    """What one server asked for holds when another attempt fails meanwhile."""
    run = Run(attempts=4)
    run.at(0.0)
    run.at(1.0)
    run.after(0, pushed("3000"))
    run.after(1, BUSY)
    assert Wait(4.0) == run.step()


def test_pushback_may_say_never() -> None:
    """No more attempts are sent; those in flight may still succeed."""
    run = Run(attempts=4)
    run.at(0.0)
    run.at(1.0)
    run.after(0, pushed("-1"))
    assert [] == run.at(5.0)
    assert Wait(None) == run.step()
    run.after(1, OK)
    assert Finish(1, frozenset()) == run.step()


def test_nothing_is_added_after_the_deadline() -> None:
    """A hedge that would start at or after the deadline is not waited for."""
    run = Run(deadline_s=1.0)
    run.at(0.0)
    assert Wait(None) == run.step()
    run.now_s = 1.0
    run.after(0, BUSY)
    assert Finish(0, frozenset()) == run.step()


def test_a_failure_brings_forward_what_would_have_come_too_late() -> None:
    """A delay that is longer than the time left keeps no attempt from following a failure."""
    run = Run(deadline_s=1.0)
    run.at(0.0)
    assert Wait(None) == run.step()
    run.now_s = 0.5
    run.after(0, BUSY)
    assert [1] == run.at(0.5)


def test_a_pause_that_lasts_beyond_the_deadline_ends_the_call() -> None:
    """What a server asked for is not cut short by the deadline."""
    run = Run(deadline_s=1.0)
    run.at(0.0)
    run.after(0, pushed("1500"))
    assert Finish(0, frozenset()) == run.step()


def test_throttled_hedges_are_not_sent() -> None:
    """With the bucket half empty the first attempt goes alone, and its failure stands."""
    throttle = RetryThrottle()
    for _ in range(20):
        throttle.failed()
    run = Run(throttle=throttle)
    assert [0] == run.at(0.0)
    assert [] == run.at(1.0)
    assert Wait(None) == run.step()
    run.after(0, BUSY)
    assert Finish(0, frozenset()) == run.step()


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (BUSY, 39.0),
        (SHED, 39.0),
        (pushed("-1", StatusCode.ABORTED), 39.0),
        (WRONG, 40.0),
        (NOWHERE, 40.0),
    ],
    ids=str,
)
def test_which_failures_take_a_token(outcome: AttemptOutcome, expected: float) -> None:
    """Trouble of the servers counts; a wrong request and what never left here does not."""
    run = Run()
    run.at(0.0)
    run.after(0, outcome)
    assert expected == run.throttle.tokens


def test_success_gives_tokens() -> None:
    """A call that succeeds fills the bucket, once."""
    run = Run()
    run.throttle.failed()
    run.at(0.0)
    run.at(1.0)
    run.after(0, OK)
    run.after(1, OK)
    assert 39.1 == run.throttle.tokens


EVENTS = st.lists(
    st.tuples(
        st.floats(0, 2),
        st.integers(0, 4),
        st.sampled_from([OK, BUSY, WRONG, NOWHERE, pushed("700"), pushed("-1")]),
    ),
    max_size=12,
)


@given(events=EVENTS, attempts=st.integers(1, 5), delay_s=st.floats(0, 2))
def test_every_course_of_events_comes_to_an_end(
    events: list[tuple[float, int, AttemptOutcome]], attempts: int, delay_s: float
) -> None:
    """Attempts are bounded, a call never waits for nothing, and its outcome never changes."""
    run = Run(attempts=attempts, delay_s=delay_s)
    running, decided = set(run.at(0.0)), None
    for elapsed_s, number, outcome in events:
        running |= set(run.at(run.now_s + elapsed_s))
        if number in running:
            running.discard(number)
            run.after(number, outcome)
        step = run.step()
        if isinstance(step, Finish):
            decided = step.number if decided is None else decided
            assert (decided, step.cancel <= running) == (step.number, True)
        else:
            assert decided is None
            assert running or step != Wait(None)
    assert run.state.attempts <= attempts
