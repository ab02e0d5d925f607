"""A subchannel as a pool handles it, whoever carries its calls: coroutines or threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from grpc import ChannelConnectivity

from balancer.health import HealthWatch
from balancer.metrics import EndpointMetrics
from discovery.endpoint import Endpoint


class Connection(Protocol):
    """One subchannel."""

    endpoint: Endpoint
    state: ChannelConnectivity
    last_error: str
    metrics: EndpointMetrics

    @property
    def calls(self) -> int:
        """Calls that have ever started there."""

    @property
    def in_flight(self) -> int:
        """Calls of this channel that have started there and not ended, at this moment."""

    @property
    def serving(self) -> bool:
        """Whether its server says that it serves, or is not asked."""

    @property
    def health(self) -> HealthWatch | None:
        """What its server says of itself; None if it is not asked."""

    async def drain(self, timeout_s: float) -> None:
        """Waits until no call is in flight, but not longer than `timeout_s`."""

    async def close(self) -> None:
        """Cancels what is in flight and closes the connection. May be repeated."""


Connector = Callable[[Endpoint, Callable[[], None], asyncio.Event], Connection]
"""Opens a connection, given who hears of changes, and the event before which it is not made."""


def is_ready(connection: Connection | None) -> bool:
    """Whether there is one, and it was READY when last looked at."""
    return connection is not None and connection.state is ChannelConnectivity.READY
