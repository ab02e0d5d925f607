"""`watch`: what is there now, and then each change, until interrupted."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from discovery.cli.changes import Change, changes
from discovery.cli.connection import Connection
from discovery.cli.console import Console
from discovery.cli.errors import DONE
from discovery.cli.stopping import reader_left, stopped_by_signal
from discovery.etcd_resolver import EtcdResolver
from discovery.resolver import ResolverState
from discovery.tasks import first_of

Now = Callable[[], datetime]


async def run(connection: Connection, options: argparse.Namespace, console: Console) -> int:
    """Watches until a signal comes. Raises BrokenPipeError when nobody reads any more."""
    resolver = EtcdResolver(connection.client)
    newest = _Newest()
    resolver.subscribe(options.service, newest.put)
    try:
        with stopped_by_signal() as stop, reader_left(console.out) as left:
            await _follow(newest, stop, left, console)
        if left.is_set():
            raise BrokenPipeError
    finally:
        await resolver.close()
    return DONE


async def _follow(
    newest: _Newest, stop: asyncio.Event, left: asyncio.Event, console: Console
) -> None:
    shown = ResolverState()
    while not (stop.is_set() or left.is_set()):
        await first_of(newest.changed, stop, left)
        state = newest.take()
        for change in changes(shown, state):
            show(change, console)
        shown = state


def show(change: Change, console: Console, now: Now = lambda: datetime.now(UTC)) -> None:
    """Writes one change, with the time at which it became known here."""
    at = now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
    console.tell(f"{at} {change.described()}", {"time": at, **change.public()})


class _Newest:
    """Holds one state, the newest: a slow reader misses steps, and costs no memory."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self._state = ResolverState()

    def put(self, state: ResolverState) -> None:
        self._state = state
        self.changed.set()

    def take(self) -> ResolverState:
        self.changed.clear()
        return self._state
