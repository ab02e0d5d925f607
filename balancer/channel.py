"""A grpc.aio.Channel that spreads calls over the endpoints of a target.

Unmodified stubs take it. A call with a READY endpoint costs one pick more than on a plain
channel and is gRPC's own call object; only a call that has to wait is ours.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
import grpc.aio
from grpc import ChannelConnectivity

from balancer.channel_setup import policy_of, resolver_of
from balancer.config import ChannelConfig
from balancer.describe import ChannelFacts, as_text
from balancer.dispatch import Dispatcher, Shared
from balancer.interceptors import (
    Chains,
    InterceptedStreamStream,
    InterceptedStreamUnary,
    InterceptedUnaryStream,
    InterceptedUnaryUnary,
    sorted_by_kind,
)
from balancer.metrics import NO_METRICS, ChannelMetrics, Metrics
from balancer.multicallable import StreamStream, StreamUnary, UnaryStream, UnaryUnary
from balancer.pins import Pins
from balancer.policy import Policy
from balancer.pool import Pool
from balancer.subchannel import AioSubchannel, Method
from balancer.survey import name_of, survey
from balancer.throttle import RetryThrottle
from balancer.waiting import Waiting
from discovery.resolver import Resolver
from discovery.target import Target, parse_target

Req = TypeVar("Req")
Res = TypeVar("Res")

_DEFAULT_CONFIG: Final = ChannelConfig()


def channel(
    target: str,
    *,
    resolver: Resolver | None = None,
    policy: str | Policy = "round_robin",
    config: ChannelConfig = _DEFAULT_CONFIG,
    credentials: grpc.ChannelCredentials | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    metrics: Metrics = NO_METRICS,
    rng: random.Random | None = None,
) -> BalancedChannel:
    """A channel to everyone who serves `target`. Connects in the background.

    `target` is `etcd:///tallystick/ledger`, a bare `ledger`, or `static:///a:1,b:2`, which
    needs no `resolver`. `policy` is a registered name or a Policy of your own. Without
    `credentials` connections are not encrypted. `interceptors`, outermost first, run once per
    call, around its retries. `metrics` counts what happens. `rng` makes the spread reproducible.

    Call it inside a running event loop, and close the channel there. Raises
    InvalidTargetError, MissingResolverError, UnknownPolicyError; ValueError for what is no
    interceptor.
    """
    parsed = parse_target(target)
    rng = rng or random.Random()  # noqa: S311 - it spreads calls, and a system call is dear
    built = policy_of(policy, config, rng)
    return BalancedChannel(
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


class BalancedChannel(grpc.aio.Channel):
    """A channel over many endpoints. Made by `balancer.channel`."""

    def __init__(
        self,
        target: Target,
        *,
        resolver: Resolver,
        policy: Policy,
        config: ChannelConfig,
        credentials: grpc.ChannelCredentials | None,
        rng: random.Random,
        policy_name: str,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
        metrics: Metrics = NO_METRICS,
    ) -> None:
        self._interceptors = sorted_by_kind(interceptors)
        self._chains = Chains()
        self._target = target
        self._config = config
        self._policy_name = policy_name
        self._told: ChannelMetrics
        self._told = told = metrics.channel(str(target))
        self._waiting = Waiting(config.max_queued_calls, told)
        self._pins = Pins(lambda each: self._pool.is_leaving(each), lambda run: run())
        self._shared = Shared(RetryThrottle(config.throttle), rng, told, self._pins)
        self._pool = Pool(
            str(target),
            policy,
            config,
            lambda endpoint, on_change, may_connect: AioSubchannel(
                endpoint,
                config,
                credentials,
                on_change,
                told.endpoint(endpoint.address),
                may_connect,
            ),
            rng,
            self._pins.look,
        )
        self._subscription = resolver.subscribe(target.service, self._pool.update)

    def __repr__(self) -> str:
        return f"<BalancedChannel {self._target} {self.get_state().name}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        await self.close()
        return None

    async def close(self, grace: float | None = None) -> None:
        """Refuses new calls and closes once those under way have ended.

        After `grace` seconds (None: at once) they are cancelled.
        """
        if grace is not None and grace < 0:
            raise ValueError(f"grace must be non-negative, got {grace}.")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (grace or 0.0)
        self._waiting.closed = True
        await self._chains.close(grace or 0.0)
        await self._waiting.close(max(0.0, deadline - loop.time()))
        self._subscription.close()
        await self._pool.close(max(0.0, deadline - loop.time()))
        told, self._told = self._told, NO_METRICS
        told.closed()

    def describe(self) -> str:
        """Who could get a call now, who does not, and why: a table for people."""
        return as_text(self.facts())

    def facts(self) -> ChannelFacts:
        """What `describe` tells, for programs (`balancer.describe.as_dict`)."""
        return survey(self._pool, policy=self._policy_name, waiting=len(self._waiting))

    def when_draining(self, call: grpc.aio.Call, callback: Callable[[Any], None]) -> None:
        """Calls `callback(call)` once when the endpoint of a stream drains, at once if it does.

        The stream stays where it is. A new one is picked elsewhere. Nothing is said of a call
        that has ended.
        """
        self._pins.ask(call, callback)

    def get_state(self, try_to_connect: bool = False) -> ChannelConnectivity:
        """READY if any endpoint is; CONNECTING, IDLE or TRANSIENT_FAILURE otherwise.

        With `try_to_connect` a lazy channel connects, which any other has done already.
        """
        if try_to_connect:
            self._pool.wake()
        return self._pool.state

    async def wait_for_state_change(self, last_observed_state: ChannelConnectivity) -> None:
        """Returns when `get_state` is not `last_observed_state`."""
        while self._pool.state is last_observed_state:
            await self._pool.changed()

    async def channel_ready(self) -> None:
        """Returns when a call would start at once. Raises UsageError once closed."""
        while (state := self.get_state(try_to_connect=True)) is not ChannelConnectivity.READY:
            if state is ChannelConnectivity.SHUTDOWN:
                raise grpc.aio.UsageError("Channel is closed.")
            await self._pool.changed()

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Req], bytes] | None = None,
        response_deserializer: Callable[[bytes], Res] | None = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.UnaryUnaryMultiCallable[Req, Res]:
        """As grpc.aio.Channel."""
        described = Method(
            "unary_unary", method, request_serializer, response_deserializer, _registered_method
        )
        make = partial(self._dispatcher, described)
        intercepts = self._interceptors.unary_unary
        if not intercepts:
            return UnaryUnary(make(method))
        return InterceptedUnaryUnary(
            method, intercepts, self._chains, lambda path: UnaryUnary(make(path))
        )

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Req], bytes] | None = None,
        response_deserializer: Callable[[bytes], Res] | None = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.UnaryStreamMultiCallable[Req, Res]:
        """As grpc.aio.Channel."""
        described = Method(
            "unary_stream", method, request_serializer, response_deserializer, _registered_method
        )
        make = partial(self._dispatcher, described)
        intercepts = self._interceptors.unary_stream
        if not intercepts:
            return UnaryStream(make(method))
        return InterceptedUnaryStream(
            method, intercepts, self._chains, lambda path: UnaryStream(make(path))
        )

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[[Req], bytes] | None = None,
        response_deserializer: Callable[[bytes], Res] | None = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.StreamUnaryMultiCallable[Req, Res]:
        """As grpc.aio.Channel."""
        described = Method(
            "stream_unary", method, request_serializer, response_deserializer, _registered_method
        )
        make = partial(self._dispatcher, described)
        intercepts = self._interceptors.stream_unary
        if not intercepts:
            return StreamUnary(make(method))
        return InterceptedStreamUnary(
            method, intercepts, self._chains, lambda path: StreamUnary(make(path))
        )

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[Req], bytes] | None = None,
        response_deserializer: Callable[[bytes], Res] | None = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.StreamStreamMultiCallable[Req, Res]:
        """As grpc.aio.Channel."""
        described = Method(
            "stream_stream", method, request_serializer, response_deserializer, _registered_method
        )
        make = partial(self._dispatcher, described)
        intercepts = self._interceptors.stream_stream
        if not intercepts:
            return StreamStream(make(method))
        return InterceptedStreamStream(
            method, intercepts, self._chains, lambda path: StreamStream(make(path))
        )

    def _dispatcher(self, method: Method, path: str) -> Dispatcher:
        return Dispatcher(method.at(path), self._pool, self._waiting, self._config, self._shared)
