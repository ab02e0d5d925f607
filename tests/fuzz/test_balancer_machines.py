"""What keeps calls away from endpoints, and what spreads the others, in any order of events.

Outlier ejection and the retry throttle against models of a few lines; and every policy with the
guard around it (breakers, limits, ejection) while endpoints come, go and change, calls overlap,
fail and end late, at pickers that are no longer the newest, too.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
from grpc import ChannelConnectivity, StatusCode
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from balancer.breaker import BreakerConfig
from balancer.eligibility import EligibilityConfig, Facts, Mode, decide
from balancer.guard import Guard, NobodyAdmitted
from balancer.outlier import (
    FailurePercentageEjection,
    OutlierConfig,
    OutlierDetector,
)
from balancer.policy import Picker, PickInfo, PickResult, PolicyContext, policy_named
from balancer.testing import FakeSubchannel
from balancer.throttle import RetryThrottle, ThrottleConfig
from discovery.endpoint import Endpoint
from tests.balancer.policies.simulation import Clock
from tests.fuzz.machines import tried

ADDRESSES = [f"10.0.0.{number}:1" for number in range(3)]
POLICIES = [
    "hash",
    "least_connections",
    "p2c_ewma",
    "pick_first",
    "random",
    "ring_hash",
    "round_robin",
    "weighted_round_robin",
]
KEYS = [b"a", b"b", b"c"]
READY = ChannelConnectivity.READY

_SECONDS = st.sampled_from([0.0, 10.0, 31.0, 61.0, 71.0])

EJECTION = OutlierConfig(
    base_ejection_time_s=30.0,
    max_ejection_time_s=70.0,
    max_ejection_percent=50,
    success_rate=None,
    failure_percentage=FailurePercentageEjection(threshold=50, minimum_hosts=2, request_volume=3),
)


class EjectionMachine(RuleBasedStateMachine):
    """A50's failure percentage, as its text has it."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = OutlierDetector(EJECTION, random.Random(1))
        self.now_s = 0.0
        self.ejected_at_s: dict[str, float] = {}
        self.multipliers: Counter[str] = Counter()

    @rule(
        failing=st.sets(st.sampled_from(ADDRESSES), max_size=2),
        counts=st.dictionaries(
            st.tuples(st.sampled_from(ADDRESSES), st.booleans()), st.integers(1, 3), max_size=3
        ),
        addresses=st.just({*ADDRESSES}) | st.sets(st.sampled_from(ADDRESSES)),
        seconds=_SECONDS,
    )
    def interval(
        self,
        failing: set[str],
        counts: dict[tuple[str, bool], int],
        addresses: set[str],
        seconds: float,
    ) -> None:
        """Calls end; some endpoints fail all of theirs; then it is looked who they were."""
        self.now_s += seconds
        counts = Counter(counts) + Counter({(each, False): 4 for each in failing})
        for (address, succeeded), calls in counts.items():
            for _ in range(calls):
                self.detector.record(address, succeeded)
        for each in ADDRESSES:
            if each not in addresses:
                self.ejected_at_s.pop(each, None)
                self.multipliers.pop(each, None)
        sweep = self.detector.sweep(sorted(addresses), self.now_s)
        rates = {
            each: counts[each, True] / volume
            for each in addresses
            if (volume := counts[each, True] + counts[each, False]) >= 3
        }
        candidates = {
            each: rate
            for each, rate in rates.items()
            if rate < 0.5 and len(addresses) >= 2 and each not in self.ejected_at_s
        }
        room = math.ceil(len(addresses) / 2) - len(self.ejected_at_s)
        chosen = set(sweep.newly_ejected)
        assert chosen <= candidates.keys()
        assert max(0, min(len(candidates), room)) == len(chosen)
        spared = [rate for each, rate in candidates.items() if each not in chosen]
        assert all(candidates[each] <= min(spared, default=1.0) for each in chosen)
        for each in chosen:
            self.ejected_at_s[each] = self.now_s
            self.multipliers[each] += 1
        returned = {each for each, at_s in self.ejected_at_s.items() if self._is_over(each, at_s)}
        for each in addresses:
            if each in returned:
                del self.ejected_at_s[each]
            elif each not in self.ejected_at_s:
                self.multipliers[each] = max(0, self.multipliers[each] - 1)
        assert returned == sweep.returned
        assert self.ejected_at_s.keys() == sweep.ejected

    def _is_over(self, address: str, at_s: float) -> bool:
        return self.now_s > at_s + min(30.0 * self.multipliers[address], 70.0)


BUCKET = ThrottleConfig(max_tokens=4, token_ratio=0.5)


class ThrottleMachine(RuleBasedStateMachine):
    """The bucket of gRFC A6, and what it promises of all retries."""

    def __init__(self) -> None:
        super().__init__()
        self.throttle = RetryThrottle(BUCKET)
        self.tokens = Fraction(4)
        self.succeeded = 0
        self.retries = 0

    @rule()
    def success(self) -> None:
        """A call ends well."""
        self.throttle.succeeded()
        self.succeeded += 1
        self.tokens = min(Fraction(4), self.tokens + Fraction(1, 2))

    @rule(times=st.integers(1, 4))
    def failure(self, times: int) -> None:
        """Attempts fail, each of which would like to be repeated."""
        for _ in range(times):
            self.throttle.failed()
            self.tokens = max(Fraction(0), self.tokens - 1)
            assert (self.tokens > 2) is self.throttle.allows()
            self.retries += self.throttle.allows()

    @invariant()
    def it_is_what_it_says(self) -> None:
        """Tokens to the thousandth, and retries within their bound."""
        assert self.tokens == Fraction(str(self.throttle.tokens))
        if self.retries:
            assert self.retries < 2 + Fraction(1, 2) * self.succeeded


@dataclass(slots=True, eq=False, weakref_slot=True)
class Connected(FakeSubchannel):
    """A connection whose server serves, or says that it does not."""

    state: ChannelConnectivity = READY
    serving: bool = True


LIMIT = 2
BREAKER = BreakerConfig(consecutive_failures=2, open_s=10.0, max_open_s=30.0, max_in_flight=LIMIT)


class SpreadMachine(RuleBasedStateMachine):
    """A policy and its guard, as a pool uses them."""

    policy_name: str

    @initialize()
    def begin(self) -> None:
        """Nobody is there."""
        self.clock = Clock()
        self.key = KEYS[0]
        rng = random.Random(3)
        context = PolicyContext(rng=rng, clock=self.clock, hash_key=lambda _: self.key)
        self.policy = policy_named(self.policy_name, context)
        self.is_stale = False
        self.guard = Guard(
            BREAKER,
            replace(EJECTION, max_ejection_percent=100),
            rng=rng,
            clock=self.clock,
            refresh=self._refresh,
        )
        self.connections: dict[str, Connected] = {}
        self.calls: list[PickResult] = []
        self.pickers: list[tuple[Picker, tuple[Connected, ...]]] = []
        self.mode = Mode.NOBODY
        self.owners: dict[bytes, str] = {}
        self.weights: dict[str, int] = {}

    def _refresh(self) -> None:
        self.is_stale = True

    def _facts(self) -> dict[Connected, Facts]:
        return {each: self.guard.facts(each) for _, each in sorted(self.connections.items())}

    def _build(self) -> None:
        """As `balancer.pool` does, whenever something has changed."""
        self.is_stale = False
        facts = self._facts()
        chosen, _, self.mode, _ = decide([*facts.values()], EligibilityConfig())
        members = tuple([*facts][index] for index in chosen)
        if members:
            inner = self.policy.build(members)
            self._look(inner, {each.endpoint.address: each.endpoint.weight for each in members})
            picker = self.guard.picker(inner, members, overrules=self.mode is not Mode.NORMAL)
            self.pickers = [*self.pickers[-2:], (picker, members)]

    @rule(
        weights=st.dictionaries(st.sampled_from(ADDRESSES), st.integers(1, 3), min_size=1),
        draining=st.sets(st.sampled_from(ADDRESSES), max_size=1),
    )
    def resolve(self, weights: dict[str, int], draining: set[str]) -> None:
        """Some come, some go, some change; calls in flight stay where they are."""
        known, self.connections = self.connections, {}
        for address, weight in weights.items():
            endpoint = Endpoint(address, weight=weight, draining=address in draining)
            self.connections[address] = known.get(address) or Connected(endpoint)
            self.connections[address].endpoint = endpoint
        self.guard.keep_only(self.connections)
        # Who has gone and comes back is somebody else.
        self.weights = {each: had for each, had in self.weights.items() if each in weights}
        self.owners = {key: owner for key, owner in self.owners.items() if owner in weights}
        self._build()

    @precondition(lambda self: self.connections)
    @rule(
        data=st.data(),
        state=st.sampled_from([READY, READY, *ChannelConnectivity]),
        serving=st.sampled_from([True, True, False]),
    )
    def change(self, data: st.DataObject, state: ChannelConnectivity, *, serving: bool) -> None:
        """A connection is lost or comes back; a server says something of itself."""
        connection = self.connections[data.draw(st.sampled_from(sorted(self.connections)))]
        connection.state, connection.serving = state, serving
        self._build()

    @rule(seconds=_SECONDS)
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.clock.now += seconds
        self._build()

    @rule()
    def sweep(self) -> None:
        """The outcomes of an interval are looked at."""
        self.guard.sweep(sorted(self.connections))
        self._build()

    @precondition(lambda self: self.pickers)
    @rule(which=st.sampled_from([-1, -1, 0]), key=st.sampled_from(KEYS), calls=st.integers(1, 4))
    def start(self, which: int, key: bytes, calls: int) -> None:
        """Calls are placed by a picker, with one of its own, and never with one that is full."""
        self.key = key
        for _ in range(calls):
            self._start(*self.pickers[which])

    def _start(self, picker: Picker, members: tuple[Connected, ...]) -> None:
        is_newest = picker is self.pickers[-1][0]
        facts = {each: self.guard.facts(each) for each in members}
        try:
            result = picker.pick(PickInfo("/a/B", (), None))
        except NobodyAdmitted:
            assert all(each.full or each.broken for each in facts.values()) or not is_newest
            return
        assert isinstance(result.subchannel, Connected)
        assert result.subchannel in members
        assert result.subchannel.in_flight < LIMIT
        if is_newest and self.mode is Mode.NORMAL:
            assert not facts[result.subchannel].broken
        result.subchannel.in_flight += 1
        self.calls.append(result)

    @precondition(lambda self: self.calls)
    @rule(
        data=st.data(),
        calls=st.integers(1, 6),
        code=st.sampled_from([StatusCode.OK, StatusCode.UNAVAILABLE, StatusCode.CANCELLED, None]),
    )
    def end(self, data: st.DataObject, calls: int, code: StatusCode | None) -> None:
        """Any calls end, whoever has left or changed meanwhile."""
        for _ in range(min(calls, len(self.calls))):
            at = data.draw(st.integers(0, len(self.calls) - 1))
            self._end(self.calls.pop(at), code)

    def _end(self, result: PickResult, code: StatusCode | None) -> None:
        assert isinstance(result.subchannel, Connected)
        result.subchannel.in_flight -= 1
        if result.on_done is not None:
            result.on_done(code)
        if self.is_stale:
            self._build()

    @precondition(lambda self: self.pickers and self.mode is Mode.NORMAL and not self.calls)
    @rule(key=st.sampled_from(KEYS))
    def one_after_the_other(self, key: bytes) -> None:
        """Where nothing is in the way, calls go where the policy says."""
        self._build()
        if self.mode is not Mode.NORMAL:
            return
        self.key = key
        picker, members = self.pickers[-1]
        weights = {each.endpoint.address: each.endpoint.weight for each in members}
        common = math.gcd(*weights.values())
        rounds = {
            "weighted_round_robin": sum(weights.values()) // common,
            "round_robin": len(members),
        }
        counts: Counter[str] = Counter()
        for _ in range(rounds.get(self.policy_name, 2 * len(members))):
            result = picker.pick(PickInfo("/a/B", (), None))
            counts[result.subchannel.endpoint.address] += 1
            assert isinstance(result.subchannel, Connected)
            result.subchannel.in_flight += 1
            self._end(result, StatusCode.OK)
        if picker is not self.pickers[-1][0]:
            # One of them was the probe that a breaker had waited for.
            return
        if self.policy_name == "round_robin":
            assert dict.fromkeys(weights, 1) == counts
        elif self.policy_name == "weighted_round_robin":
            assert {each: weight // common for each, weight in weights.items()} == counts
        elif self.policy_name in ("pick_first", "hash", "ring_hash"):
            assert 1 == len(counts)

    def _look(self, inner: Picker, weights: dict[str, int]) -> None:
        """Whose a key is changes only to who is new or heavier, or off who is gone or lighter.

        With pick_first, whose all are: only off who is gone.
        """
        before, self.weights = self.weights, weights
        sticky = self.policy_name == "pick_first"
        if not sticky and (self.policy_name != "ring_hash" or self.calls):
            self.owners = {}
            return
        former, self.owners = self.owners, {}
        for self.key in KEYS:
            result = inner.pick(PickInfo("/a/B", (), None))
            if result.on_done is not None:
                result.on_done(None)
            owner = self.owners[self.key] = result.subchannel.endpoint.address
            was = former.get(self.key, owner)
            gained = weights[owner] > before.get(owner, 0) and not sticky
            lost = before.get(was, 0) > weights.get(was, 0) and not (sticky and was in weights)
            assert owner == was or gained or lost

    @invariant()
    def nobody_is_left_out_for_ever(self) -> None:
        """However it got there, no breaker keeps a call away for longer than the longest wait."""
        if not hasattr(self, "guard"):
            return
        now_s, self.clock.now = self.clock.now, self.clock.now + BREAKER.max_open_s
        assert not any(each.broken for each in self._facts().values())
        self.clock.now = now_s


def test_outlier_ejection_is_what_its_model_is() -> None:
    """Whoever comes, goes and fails: who is out, since when and until when."""
    run_state_machine_as_test(EjectionMachine, settings=tried(100))


def test_the_retry_throttle_is_what_its_model_is() -> None:
    """Whatever ends well or not, in whatever order: what may be tried again."""
    run_state_machine_as_test(ThrottleMachine, settings=tried(50))


@pytest.mark.parametrize("name", POLICIES)
def test_calls_go_where_they_may(name: str) -> None:
    """No list, breaker, limit or late end has a policy pick whom it must not."""
    machine = type("Machine", (SpreadMachine,), {"policy_name": name})
    run_state_machine_as_test(machine, settings=tried(40))
