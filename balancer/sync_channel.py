"""A grpc.Channel that spreads calls over the endpoints of a target, for threaded programs.

    with balancer.sync_channel("ledger", resolver=resolver) as channel:
        LedgerServiceStub(channel).GetAccount(request, timeout=1.0)

Unmodified stubs and `grpc.intercept_channel` take it; `interceptors` of its own do the same.
Calls run in the threads that make them: one with a READY endpoint costs a pick more than on a
plain channel and is gRPC's own call object. Resolving and connecting happen in a daemon thread
with an event loop.

It does not survive a fork: make it in the process that uses it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
from grpc import ChannelConnectivity

from balancer.channel_setup import policy_of, resolver_of
from balancer.config import ChannelConfig
from balancer.describe import ChannelFacts, as_text
from balancer.dispatch import Shared
from balancer.interceptors import MultiCallableOf
from balancer.metrics import NO_METRICS, ChannelMetrics, Metrics
from balancer.pins import Pins
from balancer.policy import Policy
from balancer.subchannel import Method
from balancer.survey import name_of, survey
from balancer.sync_control import ControlPlane
from balancer.sync_dispatch import SyncDispatcher
from balancer.sync_intercepted import (
    InterceptedSyncStreamStream,
    InterceptedSyncStreamUnary,
    InterceptedSyncUnaryStream,
    InterceptedSyncUnaryUnary,
)
from balancer.sync_interceptors import Chain, SyncInterceptor, sync_sorted_by_kind
from balancer.sync_multicallable import (
    SyncStreamStream,
    SyncStreamUnary,
    SyncUnaryStream,
    SyncUnaryUnary,
)
from balancer.sync_states import StateListeners
from balancer.sync_waiting import Waiting
from balancer.throttle import RetryThrottle
from discovery.resolver import Resolver
from discovery.sync import SyncResolver
from discovery.target import Target, parse_target

Req = TypeVar("Req")
Res = TypeVar("Res")

_DEFAULT_CONFIG: Final = ChannelConfig()


def sync_channel(
    target: str,
    *,
    resolver: Resolver | SyncResolver | None = None,
    policy: str | Policy = "round_robin",
    config: ChannelConfig = _DEFAULT_CONFIG,
    credentials: grpc.ChannelCredentials | None = None,
    interceptors: Sequence[SyncInterceptor] = (),
    metrics: Metrics = NO_METRICS,
    rng: random.Random | None = None,
) -> BalancedSyncChannel:
    """As `balancer.channel`, for threads. Connects in the background.

    `resolver` is a SyncResolver, or any that needs a loop and is used by no other: it is
    subscribed to on the channel's own. Close the channel when it is no longer used; a
    program that forgets to still ends.

    Raises InvalidTargetError, MissingResolverError, UnknownPolicyError; TypeError for what is
    no interceptor.
    """
    parsed = parse_target(target)
    rng = rng or random.Random()  # noqa: S311 - it spreads calls, and a system call is dear
    built = policy_of(policy, config, rng)
    return BalancedSyncChannel(
        parsed,
        resolver=resolver_of(parsed, resolver),
        policy=built,
        policy_name=name_of(policy),
        config=config,
        credentials=credentials,
        rng=rng,
        interceptors=interceptors,
        metrics=metrics,
    )


class BalancedSyncChannel(grpc.Channel):
    """A channel over many endpoints, for threads. Made by `balancer.sync_channel`."""

    def __init__(
        self,
        target: Target,
        *,
        resolver: Resolver | SyncResolver,
        policy: Policy,
        config: ChannelConfig,
        credentials: grpc.ChannelCredentials | None,
        rng: random.Random,
        policy_name: str,
        interceptors: Sequence[SyncInterceptor] = (),
        metrics: Metrics = NO_METRICS,
    ) -> None:
        self._interceptors = sync_sorted_by_kind(interceptors)
        self._target = target
        self._config = config
        self._policy_name = policy_name
        self._told: ChannelMetrics
        self._told = told = metrics.channel(str(target))
        self._waiting = Waiting(config.max_queued_calls, told)
        self._pins = Pins(lambda each: self._pool.is_leaving(each), _beside)
        self._shared = Shared(RetryThrottle(config.throttle), rng, told, self._pins)
        self._listeners = StateListeners(self.get_state)
        self._control = ControlPlane(
            target,
            resolver=resolver,
            policy=policy,
            config=config,
            credentials=credentials,
            on_change=self._changed,
            rng=rng,
            metrics=told,
        )
        self._pool = self._control.pool

    def __repr__(self) -> str:
        return f"<BalancedSyncChannel {self._target} {self.get_state().name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        self.close()
        return None

    def close(self) -> None:
        """Cancels every call and closes every connection. May be repeated."""
        self._listeners.clear()
        self._waiting.close()
        self._control.close()
        told, self._told = self._told, NO_METRICS
        told.closed()

    def describe(self) -> str:
        """Who could get a call now, who does not, and why: a table for people."""
        return as_text(self.facts())

    def facts(self) -> ChannelFacts:
        """What `describe` tells, for programs (`balancer.describe.as_dict`)."""
        return survey(self._pool, policy=self._policy_name, waiting=len(self._waiting))

    def when_draining(self, call: grpc.Call, callback: Callable[[Any], None]) -> None:
        """Calls `callback(call)` once when the endpoint of a stream drains, at once if it does.

        It runs in a thread of its own. The stream stays where it is; a new one is picked
        elsewhere. Nothing is said of a call that has ended, or that nobody holds.
        """
        self._pins.ask(call, callback)

    def get_state(self, try_to_connect: bool = False) -> ChannelConnectivity:
        """READY if any endpoint is; CONNECTING, IDLE or TRANSIENT_FAILURE otherwise.

        With `try_to_connect` a lazy channel connects, which any other has done already.
        """
        if try_to_connect:
            self._pool.wake()
        return self._pool.state

    def subscribe(
        self,
        callback: Callable[[ChannelConnectivity], None],
        try_to_connect: bool | None = False,
    ) -> None:
        """Calls `callback`, in a thread of its own, with the state and each that follows.

        Raises ValueError when `sync_states.MAX_LISTENERS` have subscribed.
        """
        if try_to_connect:
            self._pool.wake()
        self._listeners.add(callback)

    def unsubscribe(self, callback: Callable[[ChannelConnectivity], None]) -> None:
        """Undoes one `subscribe`."""
        self._listeners.remove(callback)

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Req], bytes] | None = None,
        response_deserializer: Callable[[bytes], Res] | None = None,
        _registered_method: bool | None = False,
    ) -> grpc.UnaryUnaryMultiCallable[Req, Res]:
        """As grpc.Channel."""
        described = Method(
            "unary_unary", method, request_serializer, response_deserializer, _registered_method
        )
        make = partial(self._dispatcher, described)
        intercepts = self._interceptors.unary_unary
        if not intercepts:
            return SyncUnaryUnary(make(method))
        chain = self._chain(method, intercepts, lambda path: SyncUnaryUnary(make(path)))
        return InterceptedSyncUnaryUnary(chain)

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Req], bytes] | None = None,
        response_deserializer: Callable[[bytes], Res] | None = None,
        _registered_method: bool | None = False,
    ) -> grpc.UnaryStreamMultiCallable[Req, Res]:
        """As grpc.Channel."""
        described = Method(
            "unary_stream", method, request_serializer, response_deserializer, _registered_method
        )
        make = partial(self._dispatcher, described)
        intercepts = self._interceptors.unary_stream
        if not intercepts:
            return SyncUnaryStream(make(method))
        chain = self._chain(method, intercepts, lambda path: SyncUnaryStream(make(path)))
        return InterceptedSyncUnaryStream(chain)

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[[Req], bytes] | None = None,
        response_deserializer: Callable[[bytes], Res] | None = None,
        _registered_method: bool | None = False,
    ) -> grpc.StreamUnaryMultiCallable[Req, Res]:
        """As grpc.Channel."""
        described = Method(
            "stream_unary", method, request_serializer, response_deserializer, _registered_method
        )
        make = partial(self._dispatcher, described)
        intercepts = self._interceptors.stream_unary
        if not intercepts:
            return SyncStreamUnary(make(method))
        chain = self._chain(method, intercepts, lambda path: SyncStreamUnary(make(path)))
        return InterceptedSyncStreamUnary(chain)

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[Req], bytes] | None = None,
        response_deserializer: Callable[[bytes], Res] | None = None,
        _registered_method: bool | None = False,
    ) -> grpc.StreamStreamMultiCallable[Req, Res]:
        """As grpc.Channel."""
        described = Method(
            "stream_stream", method, request_serializer, response_deserializer, _registered_method
        )
        make = partial(self._dispatcher, described)
        intercepts = self._interceptors.stream_stream
        if not intercepts:
            return SyncStreamStream(make(method))
        chain = self._chain(method, intercepts, lambda path: SyncStreamStream(make(path)))
        return InterceptedSyncStreamStream(chain)

    def _chain(
        self, path: str, intercepts: Sequence[Callable[..., Any]], make: MultiCallableOf
    ) -> Chain:
        return Chain(path, intercepts, make, self._waiting.check_open)

    def _dispatcher(self, method: Method, path: str) -> SyncDispatcher:
        return SyncDispatcher(
            method.at(path), self._pool, self._waiting, self._config, self._shared
        )

    def _changed(self) -> None:
        self._waiting.changes.publish()
        self._listeners.tell()
        self._pins.look()


def _beside(run: Callable[[], None]) -> None:
    threading.Thread(target=run, name="tallystick draining", daemon=True).start()
