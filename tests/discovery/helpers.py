"""Waiting on conditions, and a listener that remembers."""

from __future__ import annotations

import asyncio

from discovery import Endpoint, ResolverState
from tests.support.waiting import eventually

WAIT_S = 15.0
_POLL_EVERY_S = 0.01


async def happens(event: asyncio.Event) -> None:
    """Waits for `event`, with a deadline."""
    async with asyncio.timeout(WAIT_S):
        await event.wait()


class Recorder:
    """A listener that keeps every state it was told."""

    def __init__(self) -> None:
        self.states: list[ResolverState] = []

    def __call__(self, state: ResolverState) -> None:
        """The listener."""
        self.states.append(state)

    @property
    def last(self) -> ResolverState:
        """The newest state."""
        return self.states[-1] if self.states else ResolverState()

    @property
    def addresses(self) -> list[str]:
        """The addresses in the newest state."""
        return [endpoint.address for endpoint in self.last.endpoints]

    @property
    def smallest(self) -> int:
        """The fewest endpoints in any state so far."""
        return min(len(state.endpoints) for state in self.states)

    async def hears(self, *addresses: str) -> None:
        """Waits until the last state is free of error and holds exactly these."""
        await eventually(
            lambda: (
                self.last.resolved
                and self.last.error is None
                and self.addresses == sorted(addresses)
            )
        )

    async def hears_error(self) -> None:
        """Waits until the last state has an error."""
        await eventually(lambda: self.last.error is not None)

    def endpoint(self, address: str) -> Endpoint:
        """The endpoint at `address` in the newest state."""
        return next(each for each in self.last.endpoints if each.address == address)
