"""One connection to one endpoint, for calls made by threads.

What `balancer.subchannel` is to grpc.aio this is to grpc.Channel: gRPC connects, backs off
and multiplexes; what is added is that it connects before the first call and again after
every loss, that it knows why the last attempt failed, and that it can be closed without
disturbing the calls it carries. The state is kept on the loop of the channel's own thread;
`acquire`, `release` and `bind` are for the threads that call.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

import grpc
from grpc import ChannelConnectivity

from balancer.config import ChannelConfig
from balancer.health import Health, HealthWatch
from balancer.metrics import NO_METRICS, EndpointMetrics
from balancer.subchannel import (
    PROBE_METHOD,
    PROBE_TIMEOUT_S,
    Binder,
    Method,
    grpc_target,
    health_watch,
)
from balancer.sync_link import Link, in_a_thread, post
from balancer.sync_stream import SyncStreamOpener
from discovery.endpoint import Endpoint

# The state is looked at, since gRPC tells no thread of it: often while an attempt to connect
# may end, seldom while READY, when calls look for themselves.
LOOK_MIN_S: Final = 0.001
LOOK_MAX_S: Final = 0.05
LOOK_READY_S: Final = 0.25


class SyncSubchannel:
    """A connection to `endpoint` that is kept up until `close`. Made on an event loop.

    `on_change` is called on that loop whenever `state` differs from before. It does not connect
    before `may_connect` is set.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        config: ChannelConfig,
        credentials: grpc.ChannelCredentials | None,
        on_change: Callable[[], None],
        metrics: EndpointMetrics = NO_METRICS,
        may_connect: asyncio.Event | None = None,
    ) -> None:
        self._may_connect = may_connect
        self.endpoint = endpoint
        self.metrics = metrics
        # `next` of it is one step for threads too, and costs a sixth of a lock.
        self._starts = itertools.count()
        self._reads = 0
        self.state = ChannelConnectivity.IDLE
        self.last_error = ""
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        # One for each call in flight; a list that grows and shrinks needs no lock either.
        self._marks: list[None] = []
        self._retired = False
        self._idle = asyncio.Event()
        # Weak: a stub may come and go.
        self._binders: weakref.WeakSet[Binder] = weakref.WeakSet()
        self._pace_s = config.initial_backoff_s
        self._next_attempt = 0.0
        self._channel = _open(endpoint.address, config, credentials)
        self._link = Link(self._channel)
        self._health = health_watch(SyncStreamOpener(self._channel), endpoint, config, on_change)
        self._look = asyncio.Event()
        self._rest_s = LOOK_MIN_S
        self._watching = self._loop.create_task(self._watch())

    def __repr__(self) -> str:
        return f"<SyncSubchannel {self.endpoint.address} {self.state.name}>"

    @property
    def serving(self) -> bool:
        """Whether its server says that it serves, or is not asked."""
        return self._health is None or self._health.health is Health.SERVING

    @property
    def health(self) -> HealthWatch | None:
        """What its server says of itself; None if it is not asked."""
        return self._health

    @property
    def in_flight(self) -> int:
        """Calls that have started here and not ended."""
        return len(self._marks)

    @property
    def calls(self) -> int:
        """Calls that have ever started here."""
        with self._lock:
            # To look at the count is to take a step, which is no call.
            seen = next(self._starts) - self._reads
            self._reads += 1
        return seen

    @property
    def closed(self) -> bool:
        """Whether `close` has begun."""
        return self.state is ChannelConnectivity.SHUTDOWN

    def acquire(self) -> bool:
        """Counts a call as in flight if it can be sent at this moment.

        From then until `release` the connection is not closed, unless its drain takes too
        long. Notices a loss before it is reported.
        """
        # Counted first and asked then, as `_retire` does the reverse: one of both sees the other.
        self._marks.append(None)
        if self._retired:
            self.release()
            return False
        if self._link.is_ready():
            next(self._starts)
            return True
        self.release()
        post(self._loop, self._notice_loss)
        return False

    def release(self) -> None:
        """Says that a call is no longer in flight."""
        self._marks.pop()
        if self._retired and not self._marks:
            post(self._loop, self._idle.set)

    def bind(self, method: Method, binder: Binder) -> Any:
        """The multicallable of gRPC for `method`, which `binder` keeps until it closes.

        Raises ValueError once closed, as gRPC's calls do.
        """
        # Generated code says that registering a method is not safe for threads.
        with self._lock:
            if self.closed:
                raise ValueError(f"{self!r} is closed")
            self._binders.add(binder)
            return getattr(self._channel, method.kind)(
                method.path,
                method.request_serializer,
                method.response_deserializer,
                _registered_method=method.registered,
            )

    async def drain(self, timeout_s: float) -> None:
        """Takes no more calls, and waits for those in flight, but not beyond `timeout_s`."""
        if self._retire():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._idle.wait()

    async def close(self) -> None:
        """Cancels what is in flight and closes the connection. May be repeated."""
        self._retire()
        self._watching.cancel()
        if self._health is not None:
            self._health.stop()
        if not self.closed:
            self.state = ChannelConnectivity.SHUTDOWN
            self.metrics.left()
        with self._lock:
            binders = list(self._binders)
        for binder in binders:
            binder.forget(self)
        await in_a_thread(self._channel.close)
        await asyncio.gather(self._watching, return_exceptions=True)

    def _retire(self) -> bool:
        """Refuses calls from now on; returns whether any are in flight."""
        self._retired = True
        return bool(self._marks)

    async def _watch(self) -> None:
        while True:
            self._look.clear()
            state = self._link.state()
            if state is ChannelConnectivity.IDLE:
                self._report(state)
                if self._may_connect is not None:
                    await self._may_connect.wait()
                state = await self._reconnect()
            if state is ChannelConnectivity.TRANSIENT_FAILURE:
                self._leave_ready()
                self.last_error = await self._why_it_failed()
            self._report(state)
            await self._rest()

    async def _rest(self) -> None:
        """Returns when the state is worth another look."""
        rest_s = LOOK_READY_S if self.state is ChannelConnectivity.READY else self._rest_s
        self._rest_s = min(2 * self._rest_s, LOOK_MAX_S)
        timer = self._loop.call_later(rest_s, self._look.set)
        await self._look.wait()
        timer.cancel()

    async def _reconnect(self) -> ChannelConnectivity:
        """Connects again, but not in a storm to a server that accepts and hangs up.

        gRPC backs off from attempts that fail, not from connections that are lost.
        """
        now = self._loop.time()
        await asyncio.sleep(max(0.0, self._next_attempt - now))
        self._next_attempt = max(now, self._next_attempt) + self._pace_s
        self._rest_s = LOOK_MIN_S
        return self._link.state(try_to_connect=True)

    def _notice_loss(self) -> None:
        self._leave_ready()
        self._look.set()

    def _leave_ready(self) -> None:
        """Reports a lost connection as being reconnected, whose outcome is to come."""
        if self.state is ChannelConnectivity.READY:
            self._report(ChannelConnectivity.CONNECTING)

    def _report(self, state: ChannelConnectivity) -> None:
        if state is self.state or self.closed:
            return
        self.state = state
        if self._health is not None:
            self._health.follow(state)
        self.metrics.state_changed(state)
        self._on_change()

    async def _why_it_failed(self) -> str:
        """Asks by a call, the only one whom gRPC tells; it fails without being sent."""
        try:
            probe: Any = self._channel.unary_unary(PROBE_METHOD)
            call = probe.future(b"", timeout=PROBE_TIMEOUT_S)
        except ValueError:
            return "the connection is closed"
        ended = asyncio.Event()
        call.add_done_callback(lambda _: post(self._loop, ended.set))
        await ended.wait()
        return str(call.details())


def _open(
    address: str, config: ChannelConfig, credentials: grpc.ChannelCredentials | None
) -> grpc.Channel:
    target, options = grpc_target(address), config.grpc_options()
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)
