"""Which failed calls are tried again, when, and at what price."""

from __future__ import annotations

import random
import threading
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from balancer.attempt import AttemptOutcome, Trailers, attempt_metadata, pushback
from balancer.errors import InvalidConfigError
from balancer.retry import GiveUp, GiveUpReason, Retry, RetryPolicy, RetryState, untried
from balancer.testing import FakeSubchannel
from balancer.throttle import RetryThrottle, ThrottleConfig
from discovery.endpoint import Endpoint

UNPROCESSED = (("tallystick-unprocessed", "true"),)
POLICY = RetryPolicy(max_attempts=5, initial_backoff_s=0.1, max_backoff_s=0.3)


def state(
    *,
    policy: RetryPolicy = POLICY,
    throttle: RetryThrottle | None = None,
    idempotent: bool = True,
    deadline_s: float | None = None,
) -> RetryState:
    """The memory of one call."""
    throttle = throttle or RetryThrottle()
    rng = random.Random(5)
    return RetryState(policy, throttle, rng, idempotent=idempotent, deadline_s=deadline_s)


def failure(
    code: StatusCode = StatusCode.UNAVAILABLE,
    *,
    trailers: Trailers = (),
    seen: bool = True,
    endpoint: str = "a:1",
) -> AttemptOutcome:
    """An attempt that failed."""
    return AttemptOutcome(code=code, endpoint=endpoint, trailers=trailers, seen_by_server=seen)


def retry(call: RetryState, outcome: AttemptOutcome, now_s: float = 0.0) -> Retry:
    """What follows, which has to be another attempt."""
    decision = call.after(outcome, now_s=now_s)
    assert isinstance(decision, Retry)
    return decision


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 6}, "max_attempts"),
        ({"initial_backoff_s": 0}, "initial_backoff_s"),
        ({"max_backoff_s": float("nan")}, "max_backoff_s"),
        ({"backoff_multiplier": -1}, "backoff_multiplier"),
        ({"backoff_multiplier": float("inf")}, "backoff_multiplier"),
        ({"retryable_codes": frozenset()}, "retryable_codes"),
        ({"retryable_codes": frozenset({StatusCode.OK})}, "retryable_codes"),
    ],
    ids=str,
)
def test_impossible_policies(wrong: dict[str, Any], field: str) -> None:
    """A policy that cannot be is refused by the name of the field."""
    with pytest.raises(InvalidConfigError, match=field):
        RetryPolicy(**wrong)


UNSEEN, SHED = {"seen": False}, {"trailers": UNPROCESSED}
OVERLOADED = StatusCode.RESOURCE_EXHAUSTED
SAFETY = [
    # idempotent, code, what is known of the attempt, what follows
    (False, StatusCode.UNAVAILABLE, UNSEEN, None),
    (False, StatusCode.UNAVAILABLE, SHED, None),
    (False, OVERLOADED, SHED, None),
    (False, StatusCode.UNAVAILABLE, {}, GiveUpReason.NOT_IDEMPOTENT),
    (False, OVERLOADED, {}, GiveUpReason.NOT_RETRYABLE),
    (True, StatusCode.UNAVAILABLE, {}, None),
    (True, StatusCode.INTERNAL, {}, GiveUpReason.NOT_RETRYABLE),
    (True, StatusCode.INVALID_ARGUMENT, {}, GiveUpReason.NOT_RETRYABLE),
    (True, StatusCode.CANCELLED, UNSEEN, GiveUpReason.NOT_RETRYABLE),
    (True, StatusCode.DEADLINE_EXCEEDED, SHED, GiveUpReason.NOT_RETRYABLE),
    (True, StatusCode.OK, {}, GiveUpReason.SUCCEEDED),
]


@pytest.mark.parametrize(("idempotent", "code", "known", "expected"), SAFETY)
def test_what_is_safe(
    idempotent: bool, code: StatusCode, known: dict[str, Any], expected: GiveUpReason | None
) -> None:
    """Only what surely did nothing is repeated, or what may run twice and says so."""
    decision = state(idempotent=idempotent).after(failure(code, **known), now_s=0.0)
    assert expected == (decision.reason if isinstance(decision, GiveUp) else None)


def test_a_server_may_deny() -> None:
    """A trailer that says no is not a word for repeating a call."""
    denied = (("tallystick-unprocessed", "false"),)
    decision = state(idempotent=False).after(failure(trailers=denied), now_s=0.0)
    assert GiveUp(GiveUpReason.NOT_IDEMPOTENT) == decision


def test_trailers_as_grpc_gives_them() -> None:
    """The metadata of a real call object is understood."""
    trailers = grpc.aio.Metadata(("x-bin", b"\x00"), ("tallystick-unprocessed", "1"))
    assert 0.0 == retry(state(idempotent=False), failure(trailers=trailers)).delay_s


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        (["0"], 0.0),
        (["250"], 0.25),
        (["2147483647"], 2147483.647),
        (["2147483648"], "never"),
        (["-1"], "never"),
        (["-0"], 0.0),
        (["007"], "never"),
        (["1.5"], "never"),
        (["+5"], "never"),
        ([" 5"], "never"),
        (["\u0665"], "never"),
        ([""], "never"),
        ([b"5"], "never"),
        (["5", "5"], "never"),
    ],
    ids=str,
)
def test_reading_pushback(values: list[str | bytes], expected: object) -> None:
    """A 32-bit integer without superfluous zeros is a delay; anything else means never."""
    assert expected == pushback([("grpc-retry-pushback-ms", value) for value in values])


def test_pushback_sets_the_delay_and_resets_the_backoff() -> None:
    """The server's delay is kept to, and the retry after it starts from the initial backoff."""
    call = state()
    retry(call, failure())
    retry(call, failure())
    asked = retry(call, failure(trailers=(("grpc-retry-pushback-ms", "1234"),)))
    assert 1.234 == asked.delay_s
    assert 0.08 <= retry(call, failure()).delay_s <= 0.12


def test_pushback_may_say_never() -> None:
    """A server that asks not to retry is obeyed, even if it did nothing."""
    trailers = (*UNPROCESSED, ("grpc-retry-pushback-ms", "-1"))
    decision = state().after(failure(trailers=trailers), now_s=0.0)
    assert GiveUp(GiveUpReason.PUSHBACK) == decision


@given(
    seed=st.integers(0, 1000),
    initial=st.floats(0.001, 10),
    multiplier=st.floats(0.1, 1e308),
    most=st.floats(0.001, 10),
)
def test_backoff_is_that_of_a6(seed: int, initial: float, multiplier: float, most: float) -> None:
    """The n-th delay is the initial one times multiplier^(n-1), capped, give or take 20 %."""
    policy = RetryPolicy(
        max_attempts=5, initial_backoff_s=initial, max_backoff_s=most, backoff_multiplier=multiplier
    )
    call = RetryState(policy, RetryThrottle(), random.Random(seed), idempotent=True)
    grown = initial
    for _ in range(4):
        expected = min(grown, most)
        delay_s = retry(call, failure()).delay_s
        assert expected * 0.8 * 0.999 <= delay_s <= expected * 1.2 * 1.001
        grown *= multiplier


def test_delays_are_jittered_both_ways() -> None:
    """Delays spread over the whole of 0.8 to 1.2 times the backoff."""
    rng = random.Random(1)
    calls = [RetryState(POLICY, RetryThrottle(), rng, idempotent=True) for _ in range(300)]
    delays = [retry(call, failure()).delay_s for call in calls]
    assert (0.08, 0.12) == (round(min(delays), 3), round(max(delays), 3))


def test_the_first_undone_attempt_is_repeated_at_once() -> None:
    """A call that did nothing moves on without waiting, once; then it backs off."""
    call = state(idempotent=False)
    assert 0.0 == retry(call, failure(seen=False)).delay_s
    assert retry(call, failure(seen=False)).delay_s >= 0.08


@pytest.mark.parametrize("max_attempts", [1, 2, 5])
@pytest.mark.parametrize("seen", [True, False])
def test_attempts_are_bounded(max_attempts: int, seen: bool) -> None:
    """No call has more attempts than its policy says, whatever they came to."""
    call = state(policy=RetryPolicy(max_attempts=max_attempts))
    attempts = 1
    while isinstance(decision := call.after(failure(seen=seen), now_s=0.0), Retry):
        attempts += 1
    assert (max_attempts, max_attempts) == (attempts, call.attempts)
    assert GiveUp(GiveUpReason.ATTEMPTS_USED_UP) == decision


def test_no_retry_beyond_the_deadline() -> None:
    """A retry that could only start at or after the deadline is not waited for."""
    pushed = failure(trailers=(("grpc-retry-pushback-ms", "1000"),))
    at_deadline = state(deadline_s=11.0).after(pushed, now_s=10.0)
    assert GiveUp(GiveUpReason.DEADLINE) == at_deadline
    assert 1.0 == retry(state(deadline_s=11.001), pushed, now_s=10.0).delay_s


def test_a_committed_call_is_never_repeated() -> None:
    """Once a part of the response was handed out nothing is sent again."""
    call = state()
    retry(call, failure())
    call.commit()
    assert GiveUp(GiveUpReason.COMMITTED) == call.after(failure(seen=False), now_s=0.0)


def test_it_remembers_where_it_has_been() -> None:
    """Every endpoint that was tried is named, each attempt that was sent is counted."""
    call = state()
    first = retry(call, failure(endpoint="a:1"))
    second = retry(call, failure(endpoint="b:1", seen=False))
    third = retry(call, failure(endpoint="a:1"))
    assert frozenset({"a:1"}) == first.tried
    assert frozenset({"a:1", "b:1"}) == second.tried == third.tried
    assert [1, 1, 2] == [each.previous_attempts for each in (first, second, third)]
    assert (("grpc-previous-rpc-attempts", "2"),) == third.metadata()
    assert () == attempt_metadata(0)


def test_another_endpoint_while_there_is_one() -> None:
    """Those that were tried are left out, unless that leaves nobody."""
    everyone = [FakeSubchannel(Endpoint(f"{name}:1")) for name in "abc"]
    assert everyone[1:] == list(untried(everyone, {"a:1"}))
    assert everyone == list(untried(everyone, {"a:1", "b:1", "c:1"}))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1001}, "max_tokens"),
        ({"token_ratio": 0.0}, "token_ratio"),
        ({"token_ratio": 0.0009}, "token_ratio"),
        ({"token_ratio": float("nan")}, "token_ratio"),
    ],
    ids=str,
)
def test_impossible_throttles(wrong: dict[str, Any], field: str) -> None:
    """Sizes that cannot be are refused by name."""
    with pytest.raises(InvalidConfigError, match=field):
        ThrottleConfig(**wrong)


def test_the_bucket() -> None:
    """Half empty it allows nothing; successes fill it again, never above its size."""
    throttle = RetryThrottle(ThrottleConfig(max_tokens=4, token_ratio=0.3))
    throttle.succeeded()
    assert (4.0, True) == (throttle.tokens, throttle.allows())
    throttle.failed()
    throttle.failed()
    assert (2.0, False) == (throttle.tokens, throttle.allows())
    throttle.succeeded()
    assert (2.3, True) == (throttle.tokens, throttle.allows())
    for _ in range(9):
        throttle.failed()
    assert 0.0 == throttle.tokens


def test_threads_share_a_bucket() -> None:
    """Threads that count at the same time leave a number in range at any moment."""
    throttle = RetryThrottle(ThrottleConfig(max_tokens=2, token_ratio=1.0))
    seen: set[float] = set()

    def count() -> None:
        for _ in range(5_000):
            throttle.failed()
            throttle.succeeded()
            seen.add(throttle.tokens)

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen <= {0.0, 1.0, 2.0}


COUNTED = [
    (failure(), 39.0),
    (failure(OVERLOADED, trailers=UNPROCESSED), 39.0),
    (failure(StatusCode.INTERNAL, trailers=(("grpc-retry-pushback-ms", "-1"),)), 39.0),
    (failure(StatusCode.INVALID_ARGUMENT), 40.0),
    (failure(seen=False), 40.0),
]


@pytest.mark.parametrize(("outcome", "expected"), COUNTED, ids=str)
def test_which_failures_take_a_token(outcome: AttemptOutcome, expected: float) -> None:
    """Trouble of the servers counts; a wrong request and what never left here does not."""
    throttle = RetryThrottle()
    state(throttle=throttle, idempotent=False).after(outcome, now_s=0.0)
    assert expected == throttle.tokens


def test_throttled_calls_are_not_repeated() -> None:
    """With the bucket half empty a failure stands, but what never left here moves on."""
    throttle = RetryThrottle()
    for _ in range(20):
        throttle.failed()
    assert GiveUp(GiveUpReason.THROTTLED) == state(throttle=throttle).after(failure(), now_s=0.0)
    assert isinstance(state(throttle=throttle).after(failure(seen=False), now_s=0.0), Retry)


def attempts_of(
    calls: int, share_failing: float, *, rng: random.Random, config: ThrottleConfig, at_once: int
) -> tuple[int, int]:
    """Attempts and successes of `calls` idempotent calls, `at_once` of them in flight."""
    throttle, attempts, successes, started = RetryThrottle(config), 0, 0, 0
    running: list[RetryState] = []
    while started < calls or running:
        while started < calls and len(running) < at_once:
            running.append(RetryState(POLICY, throttle, rng, idempotent=True))
            started += 1
        call = running.pop(rng.randrange(len(running)))
        attempts += 1
        if rng.random() >= share_failing:
            throttle.succeeded()
            successes += 1
        elif isinstance(call.after(failure(), now_s=0.0), Retry):
            running.append(call)
    return attempts, successes


@pytest.mark.parametrize("at_once", [1, 16, 100])
@pytest.mark.parametrize("calls", [100, 1_000])
def test_all_backends_failing(calls: int, at_once: int) -> None:
    """When everything fails, attempts are at most 1.2 x calls with the defaults."""
    config = ThrottleConfig()
    attempts, _ = attempts_of(calls, 1.0, rng=random.Random(2), config=config, at_once=at_once)
    assert attempts <= calls + 19
    assert attempts <= 1.2 * calls


@given(
    seed=st.integers(0, 10_000),
    share=st.floats(0, 1),
    calls=st.integers(1, 300),
    tokens=st.integers(1, 100),
    at_once=st.integers(1, 50),
)
def test_the_price_of_retries(
    seed: int, share: float, calls: int, tokens: int, at_once: int
) -> None:
    """Retries stay below half a bucket plus the ratio of what succeeds, whatever fails."""
    config = ThrottleConfig(max_tokens=tokens, token_ratio=0.1)
    rng = random.Random(seed)
    attempts, successes = attempts_of(calls, share, rng=rng, config=config, at_once=at_once)
    assert attempts - calls <= tokens / 2 + 0.1 * successes
