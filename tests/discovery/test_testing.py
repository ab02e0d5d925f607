from collections.abc import Callable, Sequence

import pytest

from discovery import Endpoint, Listener, Resolver, ResolverState, StaticResolver, Subscription
from discovery.testing import FakeResolver, check_resolver
from tests.discovery.helpers import Recorder
from tests.support.waiting import eventually

_A, _B = Endpoint("a:1"), Endpoint("b:2")


async def test_the_fake_keeps_the_contract() -> None:
    """What it is told to say, it says as a resolver must."""
    fake = FakeResolver()
    fake.set("svc", ["b:2", "a:1"])

    async def change() -> Sequence[Endpoint]:
        fake.set("svc", [_B])
        return [_B]

    await check_resolver(fake, "svc", expected=[_A, _B], change=change)


async def test_a_failing_fake_keeps_what_was_known() -> None:
    """The error stands beside the last list, and goes with the next."""
    fake, listener = FakeResolver(), Recorder()
    fake.subscribe("svc", listener)
    fake.set("svc", ["a:1"])

    fake.fail("svc", "away")
    await eventually(lambda: listener.last == ResolverState((_A,), True, "away"))

    fake.set("svc", ["a:1"])
    await listener.hears("a:1")


async def test_a_fake_that_fails_first_has_nothing_resolved() -> None:
    """Nobody has seen a list yet."""
    fake, listener = FakeResolver(), Recorder()
    fake.subscribe("svc", listener)

    fake.fail("svc", "away")

    await eventually(lambda: listener.last == ResolverState((), False, "away"))


class _Nothing:
    def close(self) -> None:
        """Nothing."""


class _CallsFromWithin:
    def subscribe(self, service: str, listener: Listener) -> Subscription:
        listener(ResolverState((_A,), resolved=True))
        return _Nothing()


class _Repeats:
    def subscribe(self, service: str, listener: Listener) -> Subscription:
        def twice(state: ResolverState) -> None:
            listener(state)
            listener(state)

        return StaticResolver([_A]).subscribe(service, twice)


class _NeverStops:
    """Ignores close."""

    def __init__(self) -> None:
        self.fake = FakeResolver()

    def subscribe(self, service: str, listener: Listener) -> Subscription:
        self.fake.subscribe(service, listener)
        return _Nothing()


class _Unordered:
    def subscribe(self, service: str, listener: Listener) -> Subscription:
        def turned(state: ResolverState) -> None:
            listener(ResolverState((_B, _A), resolved=True))
            listener(state)

        return StaticResolver([_A, _B]).subscribe(service, turned)


class _Silent:
    def subscribe(self, service: str, listener: Listener) -> Subscription:
        return _Nothing()


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (_CallsFromWithin, "from within"),
        (_Repeats, "twice"),
        (_Unordered, "ordered"),
        (_Silent, "heard nothing"),
    ],
)
async def test_the_check_catches_a_broken_promise(
    broken: Callable[[], Resolver], promise: str
) -> None:
    """Each planted fault is found and named."""
    endpoints = [_A, _B] if broken is _Unordered else [_A]

    with pytest.raises(AssertionError, match=promise):
        await check_resolver(broken(), "svc", expected=endpoints, timeout_s=0.2)


async def test_the_check_catches_calls_after_close() -> None:
    """A closed subscription that goes on is found."""
    resolver = _NeverStops()
    resolver.fake.set("svc", [_A])

    async def change() -> Sequence[Endpoint]:
        resolver.fake.set("svc", [_B])
        return [_B]

    with pytest.raises(AssertionError, match="closed subscription"):
        await check_resolver(resolver, "svc", expected=[_A], change=change)
