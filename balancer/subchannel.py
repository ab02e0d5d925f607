"""One connection to one endpoint, and what became of it.

Each subchannel is a grpc.aio channel to a single address. gRPC connects, backs off and
multiplexes; what is added here is that it connects before the first call and again after
every loss, that it knows why the last attempt failed, and that it can be closed without
disturbing the calls it carries.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol

import grpc
import grpc.aio
from grpc import ChannelConnectivity

from balancer.config import ChannelConfig
from balancer.health import Health, HealthWatch, StreamOpener
from balancer.metrics import NO_METRICS, EndpointMetrics
from balancer.policy import Subchannel
from discovery.endpoint import Endpoint

PROBE_TIMEOUT_S: Final = 1.0
# Should the connection come up in the very moment of asking, a server receives a health
# check with an empty message, which every server may receive at any time.
PROBE_METHOD: Final = "/grpc.health.v1.Health/Check"

Kind = Literal["unary_unary", "unary_stream", "stream_unary", "stream_stream"]


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC method as a stub describes it."""

    kind: Kind
    path: str
    request_serializer: Callable[[Any], bytes] | None = None
    response_deserializer: Callable[[bytes], Any] | None = None
    registered: bool | None = False

    def at(self, path: str) -> Method:
        """The method itself; of another path, when an interceptor names one, never registered.

        gRPC keeps registered methods for ever, and nothing bounds the names that interceptors
        may come up with.
        """
        return self if path == self.path else replace(self, path=path, registered=False)


class Binder(Protocol):
    """Who keeps a multicallable of a subchannel."""

    def forget(self, subchannel: Subchannel) -> None:
        """Called when `subchannel` is closed."""


class AioSubchannel:
    """A connection to `endpoint` that is kept up until `close`.

    `on_change` is called on the event loop whenever `state` differs from before. It does not
    connect before `may_connect` is set.
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
        self.state = ChannelConnectivity.IDLE
        self.last_error = ""
        self._on_change = on_change
        self._channel = _open(endpoint.address, config, credentials)
        self._health = health_watch(self._channel, endpoint, config, on_change)
        self._pace_s = config.initial_backoff_s
        self._next_attempt = 0.0
        self.in_flight = 0
        """Calls that have started here and not ended."""
        self.calls = 0
        """Calls that have ever started here."""
        self._idle = asyncio.Event()
        # Weak: a stub may come and go.
        self._binders: weakref.WeakSet[Binder] = weakref.WeakSet()
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    def __repr__(self) -> str:
        return f"<AioSubchannel {self.endpoint.address} {self.state.name}>"

    @property
    def serving(self) -> bool:
        """Whether its server says that it serves, or is not asked."""
        return self._health is None or self._health.health is Health.SERVING

    @property
    def health(self) -> HealthWatch | None:
        """What its server says of itself; None if it is not asked."""
        return self._health

    def is_ready(self) -> bool:
        """Whether it is READY at this moment; notices a loss before it is reported."""
        if self._channel.get_state() is ChannelConnectivity.READY:
            return True
        self._leave_ready()
        return False

    def bind(self, method: Method, binder: Binder) -> Callable[..., Any]:
        """The multicallable of grpc.aio for `method`, which `binder` keeps until it closes."""
        self._binders.add(binder)
        bound: Callable[..., Any] = getattr(self._channel, method.kind)(
            method.path,
            method.request_serializer,
            method.response_deserializer,
            _registered_method=method.registered,
        )
        return bound

    def started(self) -> None:
        """Counts a call as in flight until `ended`."""
        self.in_flight += 1
        self.calls += 1

    def ended(self) -> None:
        """Says that a call is no longer in flight."""
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    async def drain(self, timeout_s: float) -> None:
        """Waits until no call is in flight, but not longer than `timeout_s`."""
        if self.in_flight:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._idle.wait()

    async def close(self) -> None:
        """Cancels what is in flight and closes the connection. May be repeated."""
        self._watching.cancel()
        if self._health is not None:
            self._health.stop()
        if self.state is not ChannelConnectivity.SHUTDOWN:
            self.state = ChannelConnectivity.SHUTDOWN
            self.metrics.left()
        for binder in self._binders:
            binder.forget(self)
        await self._channel.close()
        await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            state = self._channel.get_state()
            if state is ChannelConnectivity.IDLE:
                self._report(state)
                if self._may_connect is not None:
                    await self._may_connect.wait()
                state = await self._reconnect()
            if state is ChannelConnectivity.TRANSIENT_FAILURE:
                self._leave_ready()
                self.last_error = await self._why_it_failed()
            self._report(state)
            # Returns at once if the state is another by now.
            await self._channel.wait_for_state_change(state)

    async def _reconnect(self) -> ChannelConnectivity:
        """Connects again, but not in a storm to a server that accepts and hangs up.

        gRPC backs off from attempts that fail, not from connections that are lost.
        """
        now = self._watching.get_loop().time()
        await asyncio.sleep(max(0.0, self._next_attempt - now))
        self._next_attempt = max(now, self._next_attempt) + self._pace_s
        return self._channel.get_state(try_to_connect=True)

    def _leave_ready(self) -> None:
        """Reports a lost connection as being reconnected, whose outcome is to come."""
        if self.state is ChannelConnectivity.READY:
            self._report(ChannelConnectivity.CONNECTING)

    def _report(self, state: ChannelConnectivity) -> None:
        if state is self.state:
            return
        self.state = state
        if self._health is not None:
            self._health.follow(state)
        self.metrics.state_changed(state)
        self._on_change()

    async def _why_it_failed(self) -> str:
        """Asks by a call, the only one whom gRPC tells; it fails without being sent."""
        probe: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        probe = self._channel.unary_unary(PROBE_METHOD)
        return await probe(b"", timeout=PROBE_TIMEOUT_S).details()


def health_watch(
    channel: StreamOpener,
    endpoint: Endpoint,
    config: ChannelConfig,
    on_change: Callable[[], None],
) -> HealthWatch | None:
    """Who asks `endpoint` over `channel` whether it serves; None if nobody is to."""
    if config.health is None or not config.health.enabled:
        return None
    rng = random.Random()  # noqa: S311 - jitter, not secrets
    return HealthWatch(channel, config.health, on_change, address=endpoint.address, rng=rng)


def _open(
    address: str, config: ChannelConfig, credentials: grpc.ChannelCredentials | None
) -> grpc.aio.Channel:
    target, options = grpc_target(address), config.grpc_options()
    if credentials is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, credentials, options)


def grpc_target(address: str) -> str:
    """`host:port` as a gRPC target that asks DNS only about names (grpc/doc/naming.md)."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return f"dns:///{address}"
    return f"ipv{version}:{address}"
