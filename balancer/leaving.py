"""Connections to endpoints that left: kept for a while unused, drained, closed.

An endpoint that vanished undrained may be back in a moment, when the registry was wrong: its
connection lingers. Any other gets no new calls, and those in flight may finish.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from balancer.config import ChannelConfig
from balancer.connection import Connection, is_ready


class Leaving:
    """Those of one pool. `on_change` is called when one that lingered begins to drain."""

    def __init__(self, config: ChannelConfig, on_change: Callable[[], None]) -> None:
        self._config = config
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._lingering: dict[str, Connection] = {}
        self._retiring: dict[Connection, asyncio.Task[None]] = {}

    def __contains__(self, connection: Connection) -> bool:
        """Whether it drains or closes."""
        return connection in self._retiring

    @property
    def lingering(self) -> Mapping[str, Connection]:
        """Those that may be taken back, by address."""
        return self._lingering

    def take_back(self, address: str) -> None:
        """The endpoint is there again."""
        self._lingering.pop(address, None)

    def let_go(self, connection: Connection) -> None:
        """Of an endpoint that left: at once, or after a while when that may be a mistake."""
        address, linger_s = connection.endpoint.address, self._config.linger_s
        if address in self._lingering:
            return
        if connection.endpoint.draining or not is_ready(connection) or not linger_s:
            self.retire(connection)
            return
        self._lingering[address] = connection
        self._loop.call_later(linger_s, self._linger_no_more, connection)

    def drop_lost(self) -> None:
        """Lets go of those that lingered until their connection was lost."""
        for connection in [each for each in self._lingering.values() if not is_ready(each)]:
            self._linger_no_more(connection)

    def retire(self, connection: Connection, grace_s: float | None = None) -> None:
        """Drains and closes it, in so many seconds at most (None: `drain_grace_s`)."""
        grace_s = self._config.drain_grace_s if grace_s is None else grace_s
        task = self._loop.create_task(_drain_and_close(connection, grace_s))
        self._retiring[connection] = task
        task.add_done_callback(lambda _: self._retiring.pop(connection, None))

    async def close(self, connections: Iterable[Connection], grace_s: float) -> None:
        """Drains `connections` as well as all of its own for `grace_s`, and closes them."""
        for connection in (*connections, *self._lingering.values()):
            self.retire(connection, grace_s)
        self._lingering = {}
        retiring = dict(self._retiring)
        if retiring and grace_s:
            await asyncio.wait(retiring.values(), timeout=grace_s)
        for task in retiring.values():
            task.cancel()
        await asyncio.gather(*(connection.close() for connection in retiring))
        await asyncio.gather(*retiring.values(), return_exceptions=True)

    def _linger_no_more(self, connection: Connection) -> None:
        if self._lingering.get(connection.endpoint.address) is connection:
            del self._lingering[connection.endpoint.address]
            self.retire(connection)
            self._on_change()


async def _drain_and_close(connection: Connection, grace_s: float) -> None:
    await connection.drain(grace_s)
    await connection.close()
