"""The registry of policies, and the contract that each of them keeps."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from balancer.errors import PolicyNameTakenError, UnknownPolicyError
from balancer.policies import Random, RoundRobin
from balancer.policy import (
    PickInfo,
    PickResult,
    Policy,
    PolicyContext,
    Subchannel,
    policy_named,
    register_policy,
)
from balancer.testing import FakeSubchannel, check_policy
from discovery.endpoint import Endpoint


def test_the_shipped_names() -> None:
    """Each shipped policy is known by its name."""
    context = PolicyContext(rng=random.Random(1))
    assert RoundRobin is type(policy_named("round_robin", context))
    assert Random is type(policy_named("random", context))


def test_an_unknown_name() -> None:
    """An unknown name is refused with the names there are."""
    with pytest.raises(UnknownPolicyError, match=r"'rand'; known are: .*random.*round_robin"):
        policy_named("rand", PolicyContext(rng=random.Random(1)))


def test_a_name_is_taken_once() -> None:
    """A name stays with its factory; registering that one again is harmless."""
    register_policy("round_robin", RoundRobin)
    with pytest.raises(PolicyNameTakenError, match="round_robin"):
        register_policy("round_robin", Random)
    assert RoundRobin is type(policy_named("round_robin", PolicyContext(rng=random.Random(1))))


@pytest.mark.parametrize("name", ["round_robin", "random"])
def test_the_contract(name: str) -> None:
    """The shipped policies keep the contract."""
    check_policy(policy_named(name, PolicyContext(rng=random.Random(7))))


class _Scripted:
    """A policy whose pickers do what a function says."""

    def __init__(self, pick: Callable[[Sequence[Subchannel]], PickResult]) -> None:
        self._pick = pick
        self.built: list[Sequence[Subchannel]] = []

    def build(self, subchannels: Sequence[Subchannel]) -> _ScriptedPicker:
        self.built.append(subchannels)
        return _ScriptedPicker(self._pick, subchannels)


class _ScriptedPicker:
    def __init__(
        self, pick: Callable[[Sequence[Subchannel]], PickResult], given: Sequence[Subchannel]
    ) -> None:
        self._pick = pick
        self._given = given

    def pick(self, info: PickInfo) -> PickResult:
        return self._pick(self._given)


def _foreign(_given: Sequence[Subchannel]) -> PickResult:
    return PickResult(FakeSubchannel(Endpoint("10.9.9.9:1")))


def _no_result(given: Sequence[Subchannel]) -> PickResult:
    return given[0]  # type: ignore[return-value]


def _bad_hook(given: Sequence[Subchannel]) -> PickResult:
    return PickResult(given[0], on_done="hook")  # type: ignore[arg-type]


class _Forgetful:
    """A policy whose pickers share what was built last."""

    def __init__(self) -> None:
        self._last: tuple[Subchannel, ...] = ()

    def build(self, subchannels: Sequence[Subchannel]) -> _Forgetful:
        self._last = tuple(subchannels)
        return self

    def pick(self, info: PickInfo) -> PickResult:
        return PickResult(self._last[0])


class _Borrowing(_Scripted):
    """A policy whose pickers keep the caller's list."""

    def __init__(self) -> None:
        super().__init__(lambda given: PickResult(given[0]))


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (_Scripted(_foreign), AssertionError),
        (_Scripted(_no_result), (AssertionError, IndexError)),
        (_Scripted(_bad_hook), (AssertionError, IndexError)),
        (_Forgetful(), AssertionError),
        (_Borrowing(), IndexError),
    ],
    ids=["foreign", "no_result", "bad_hook", "forgetful", "borrowing"],
)
def test_the_contract_catches(
    broken: Policy, error: type[Exception] | tuple[type[Exception], ...]
) -> None:
    """A policy that breaks a promise does not pass."""
    with pytest.raises(error):
        check_policy(broken)
