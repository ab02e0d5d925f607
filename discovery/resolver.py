"""The seam between whoever knows the endpoints and whoever uses them.

A resolver reports states, not differences: each state is the whole truth as far as
it is known, so a listener that misses one loses nothing. The balancer's pool does
the comparing. The shape is that of grpc-go's resolver API.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from discovery.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class ResolverState:
    """What is known of one service at one moment.

    `endpoints` is ordered by address and holds each address once. While the registry
    cannot be reached it is the last known good list, and `error` says why.
    `withdrawn`, ordered in the same way, are endpoints that left the registry with most
    of the service at once and without draining, which is more often the registry's
    fault than theirs: who has a working connection to one should go on using it until
    it leaves the tuple, and nobody should make a new one.
    `resolved` is False until a complete list has been seen for the first time: then
    an empty list means "nobody serves this", not "nobody asked yet".
    """

    endpoints: tuple[Endpoint, ...] = ()
    resolved: bool = False
    error: str | None = None
    withdrawn: tuple[Endpoint, ...] = ()


Listener = Callable[[ResolverState], None]


class Subscription(Protocol):
    """One listener's interest in one service."""

    def close(self) -> None:
        """Ends it: the listener is not called again. Closing twice does nothing."""


class Resolver(Protocol):
    """Finds the endpoints of services and keeps finding them."""

    def subscribe(self, service: str, listener: Listener) -> Subscription:
        """Reports the state of `service` (for example "tallystick/ledger") to `listener`.

        The listener is called soon after, on the event loop, with the first state, and
        then with each state that differs. It must not block or raise.
        """
