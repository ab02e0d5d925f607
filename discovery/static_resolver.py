"""A resolver whose answer is known beforehand: for tests, tools and small set-ups."""

from __future__ import annotations

from collections.abc import Iterable

from discovery.endpoint import Endpoint
from discovery.listeners import ListenerSet
from discovery.resolver import Listener, ResolverState, Subscription


class StaticResolver:
    """Answers every service with the same endpoints, which never change.

    `addresses` are `host:port` strings or whole Endpoints; of two with one address the
    last counts. Raises MalformedEndpointError.
    """

    def __init__(self, addresses: Iterable[str | Endpoint]) -> None:
        endpoints = (Endpoint(each) if isinstance(each, str) else each for each in addresses)
        by_address = {endpoint.address: endpoint for endpoint in endpoints}
        ordered = tuple(by_address[address] for address in sorted(by_address))
        self._state = ResolverState(endpoints=ordered, resolved=True)

    def subscribe(self, service: str, listener: Listener) -> Subscription:  # noqa: ARG002 - one answer for all
        """Tells `listener` the endpoints, once. Needs a running event loop."""
        listeners = ListenerSet()
        subscription = listeners.add(listener)
        listeners.publish(self._state)
        return subscription
