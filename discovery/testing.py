"""For tests of code that resolves: a resolver driven by hand, and the contract.

`check_resolver` states what every Resolver must do. The ones shipped here pass it; run
it against your own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from discovery.endpoint import Endpoint
from discovery.listeners import ListenerSet
from discovery.resolver import Listener, Resolver, ResolverState, Subscription

Endpoints = Sequence[Endpoint]


class FakeResolver:
    """A resolver that says what it is told to say."""

    def __init__(self) -> None:
        self._services: dict[str, ListenerSet] = {}

    def subscribe(self, service: str, listener: Listener) -> Subscription:
        """As Resolver: silent until something is set. Needs a running event loop."""
        return self._of(service).add(listener)

    def set(
        self,
        service: str,
        endpoints: Iterable[str | Endpoint],
        *,
        withdrawn: Iterable[str | Endpoint] = (),
    ) -> None:
        """The registry now holds exactly these, by address or as whole Endpoints.

        The `withdrawn` left it with most of the service at once.
        """
        state = ResolverState(_ordered(endpoints), resolved=True, withdrawn=_ordered(withdrawn))
        self._of(service).publish(state)

    def fail(self, service: str, error: str) -> None:
        """The registry cannot be reached: what was known stays."""
        listeners = self._of(service)
        listeners.publish(replace(listeners.state, error=error))

    def _of(self, service: str) -> ListenerSet:
        return self._services.setdefault(service, ListenerSet())


def _ordered(endpoints: Iterable[str | Endpoint]) -> tuple[Endpoint, ...]:
    known = (Endpoint(each) if isinstance(each, str) else each for each in endpoints)
    return tuple(sorted(known, key=lambda endpoint: endpoint.address))


async def check_resolver(
    resolver: Resolver,
    service: str,
    *,
    expected: Endpoints,
    change: Callable[[], Awaitable[Endpoints]] | None = None,
    timeout_s: float = 10.0,
) -> None:
    """Checks that `resolver` keeps the contract of `discovery.resolver.Resolver`.

    `expected` is what `service` has now. `change`, where the registry can change, makes
    it differ and returns what it then has.

    Raises AssertionError naming the broken promise.
    """
    first, second, leaver = _Recorder("first"), _Recorder("second"), _Recorder("leaver")
    subscriptions = [resolver.subscribe(service, first.listen)]
    assert not first.states, "the listener was called from within subscribe"
    await first.reaches(expected, timeout_s)
    subscriptions += [resolver.subscribe(service, each.listen) for each in (second, leaver)]
    await second.reaches(expected, timeout_s)
    await leaver.reaches(expected, timeout_s)
    subscriptions[-1].close()
    subscriptions[-1].close()
    told_leaver = len(leaver.states)
    if change is not None:
        changed = await change()
        await first.reaches(changed, timeout_s)
        await second.reaches(changed, timeout_s)
    assert len(leaver.states) == told_leaver, "a closed subscription was called"
    for recorder in (first, second):
        recorder.check_states()
    for subscription in subscriptions:
        subscription.close()


class _Recorder:
    """A listener that remembers, and waits for what it should hear."""

    def __init__(self, name: str) -> None:
        self.states: list[ResolverState] = []
        self._name = name
        self._news = asyncio.Event()

    def listen(self, state: ResolverState) -> None:
        self.states.append(state)
        self._news.set()

    async def reaches(self, endpoints: Endpoints, timeout_s: float) -> None:
        wanted = tuple(sorted(endpoints, key=lambda endpoint: endpoint.address))
        try:
            async with asyncio.timeout(timeout_s):
                while not self._stands_at(wanted):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            heard = self.states[-1] if self.states else "nothing"
            raise AssertionError(
                f"the {self._name} listener was to hear {wanted}, heard {heard}"
            ) from None

    def _stands_at(self, wanted: tuple[Endpoint, ...]) -> bool:
        last = self.states[-1] if self.states else ResolverState()
        return last.resolved and last.error is None and last.endpoints == wanted

    def check_states(self) -> None:
        for state in self.states:
            addresses = [endpoint.address for endpoint in state.endpoints]
            assert addresses == sorted(set(addresses)), f"not ordered and unique: {addresses}"
            assert state.resolved or not state.endpoints, "endpoints before the first full list"
            withdrawn = [endpoint.address for endpoint in state.withdrawn]
            assert withdrawn == sorted(set(withdrawn)), f"not ordered and unique: {withdrawn}"
            assert not {*withdrawn} & {*addresses}, f"present and withdrawn: {withdrawn}"
        for before, after in zip(self.states, self.states[1:], strict=False):
            assert before != after, f"the same state was reported twice: {after}"
