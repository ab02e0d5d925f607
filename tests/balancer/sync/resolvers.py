"""A resolver that a test's thread sets while it runs on a channel's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from discovery.endpoint import Endpoint
from discovery.resolver import Listener, Subscription
from discovery.testing import FakeResolver

SERVICE = "tallystick/echo"


class LoopBoundResolver:
    """FakeResolver on whichever loop subscribed to it, told from any thread."""

    def __init__(self) -> None:
        self._fake = FakeResolver()
        self.loop: asyncio.AbstractEventLoop | None = None

    def subscribe(self, service: str, listener: Listener) -> Subscription:
        """As FakeResolver."""
        self.loop = asyncio.get_running_loop()
        return self._fake.subscribe(service, listener)

    def set(self, *endpoints: str | Endpoint, withdrawn: Iterable[str | Endpoint] = ()) -> None:
        """The registry now holds exactly these."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(
            lambda: self._fake.set(SERVICE, endpoints, withdrawn=withdrawn)
        )

    def fail(self, error: str) -> None:
        """The registry cannot be reached."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self._fake.fail, SERVICE, error)
