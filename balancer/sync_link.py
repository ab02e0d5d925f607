"""A plain grpc.Channel that can be asked for its state, and closed from an event loop.

`grpc.Channel.subscribe` would do less and cost more: it keeps a thread per channel that
looks every 0.2 s, connects as late as that, makes closing wait as long, and its thread
dies of an exception when the channel is closed under it. So this asks the object beneath,
as `grpc.aio.Channel.get_state` does too; all that is not public API of gRPC is here.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, Final

import grpc
from grpc import ChannelConnectivity

_READY: Final = ChannelConnectivity.READY.value[0]
_STATES: Final = {state.value[0]: state for state in ChannelConnectivity}


class Link:
    """The state of `channel`, which may be asked from any thread."""

    def __init__(self, channel: grpc.Channel) -> None:
        core: Any = channel
        self._check: Any = core._channel.check_connectivity_state  # noqa: SLF001 - see the module's docstring

    def state(self, *, try_to_connect: bool = False) -> ChannelConnectivity:
        """The state at this moment; SHUTDOWN once closed."""
        try:
            return _STATES[self._check(try_to_connect)]
        except ValueError:
            return ChannelConnectivity.SHUTDOWN

    def is_ready(self) -> bool:
        """Whether it is READY at this moment. Every call asks."""
        try:
            return bool(self._check(False) == _READY)
        except ValueError:
            return False


async def in_a_thread(work: Callable[[], None]) -> None:
    """Runs what blocks in a daemon thread of its own, so that no exit waits for it."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            post(loop, done.set)

    threading.Thread(target=run, name="tallystick closing", daemon=True).start()
    await done.wait()


def post(loop: asyncio.AbstractEventLoop, work: Callable[[], object]) -> None:
    """Has `work` called on `loop` soon; from any thread, and for nothing once it is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(work)
