"""Starting calls: pick, and if nobody can be picked, decide whether to wait.

A call with a READY subchannel is started at once and is gRPC's own call object. Any other
waits as a deferred call (`balancer.call`) under the rules of gRPC (grpc/doc/wait-for-
ready.md): while the target is unresolved or connecting it is queued until its deadline;
when nothing can be reached it fails at once, unless it is willing to wait.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio

from balancer.call_status import Status, final_code
from balancer.config import ChannelConfig
from balancer.guard import NobodyAdmitted
from balancer.metrics import NO_METRICS, ChannelMetrics, Running
from balancer.pins import Pins
from balancer.policy import CompletionHook, MetadataType, Picker, PickInfo, PickResult, Subchannel
from balancer.pool import Pool
from balancer.subchannel import AioSubchannel, Method
from balancer.throttle import RetryThrottle
from balancer.waiting import Waiting

# A policy that answers for the call alone (a hash) would give the same one for ever.
PICKS_TO_AVOID: Final = 8
_CLOSED = "Channel is closed."


class CallOptions(NamedTuple):
    """What a caller says about one call besides the request. `timeout` is in seconds."""

    timeout: float | None
    metadata: MetadataType | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class Shared(NamedTuple):
    """What the calls of one channel share."""

    throttle: RetryThrottle
    rng: random.Random
    metrics: ChannelMetrics
    pins: Pins


class Attempt:
    """A call that was started on a subchannel, and who wants to know how it ended.

    All of them hear of it by one callback, since gRPC's cost as much as a pick.
    """

    __slots__ = ("_on_done", "_running", "_subchannel", "_then", "call")

    def __init__(
        self, call: Any, subchannel: AioSubchannel, on_done: CompletionHook | None
    ) -> None:
        self.call = call
        self._subchannel = subchannel
        self._on_done = on_done

    @property
    def endpoint(self) -> str:
        """The address it went to."""
        return self._subchannel.endpoint.address

    def follow(self, then: Callable[[Attempt, grpc.StatusCode], None] | None = None) -> Any:
        """The call, counted as in flight until it ends; then the policy is told, and `then`.

        To be called once, by whoever started it: a call may have ended already.
        """
        call, self._then = self.call, then
        subchannel = self._subchannel
        subchannel.started()
        metrics, self._running = subchannel.metrics, None
        if metrics is not NO_METRICS:
            metrics.attempt_started()
            self._running = Running(metrics.attempt_ended)
        call.add_done_callback(self._ended)
        return call

    def _ended(self, call: Any) -> None:
        self._subchannel.ended()
        on_done, then, running = self._on_done, self._then, self._running
        if on_done is None and then is None and running is None:
            return
        code = final_code(call)
        if running is not None:
            running.ended(code)
        if on_done is not None:
            on_done(code)
        if then is not None:
            then(self, code)


class Dispatcher:
    """Starts calls of one method on the subchannels that the policy picks."""

    def __init__(
        self,
        method: Method,
        pool: Pool,
        waiting: Waiting,
        config: ChannelConfig,
        shared: Shared,
    ) -> None:
        self.waiting = waiting
        self.shared = shared
        self._method = method
        self._pool = pool
        self._config = config
        self._is_stream = method.kind != "unary_unary"
        self._request_is_unary = method.kind.startswith("unary")
        self.method_config = config.methods.of(method.path)
        self._leaves_it_to_callers = (
            self.method_config.timeout_s is None and self.method_config.wait_for_ready is None
        )
        # What is streamed in cannot be streamed in twice.
        self.is_repeatable = self._request_is_unary and self.method_config.is_repeatable
        # A subchannel that is closed takes its multicallables with it: see `forget`.
        self._bound: dict[Subchannel, Callable[..., Any]] = {}

    def check_open(self) -> None:
        """Raises grpc.aio.UsageError once the channel is closed, as gRPC's does."""
        if self.waiting.closed:
            raise grpc.aio.UsageError(_CLOSED)

    def count(self, call: Any) -> None:
        """Has `call`, which was just made, counted as one of the channel's."""
        metrics = self.shared.metrics
        metrics.call_started()
        running = Running(metrics.call_ended)
        call.add_done_callback(lambda ended: running.ended(final_code(ended)))

    def forget(self, subchannel: Subchannel) -> None:
        """Lets go of a subchannel that is closed."""
        self._bound.pop(subchannel, None)

    def with_deadline(self, options: CallOptions) -> CallOptions:
        """`options`, bounded if it is a unary call that says nothing."""
        if self._leaves_it_to_callers and options.timeout is not None:
            return options
        config = self.method_config
        timeout = config.timeout_for(options.timeout)
        if timeout is None and self._method.kind == "unary_unary":
            timeout = self._config.default_timeout_s
        wait_for_ready = options.wait_for_ready
        if wait_for_ready is None:
            wait_for_ready = config.wait_for_ready
        return options._replace(timeout=timeout, wait_for_ready=wait_for_ready)

    def start(
        self, request: Any, options: CallOptions, avoid: frozenset[str] = frozenset()
    ) -> Attempt | None:
        """The real call, started on the picked subchannel; None if none is READY.

        It is to be followed at once (`Attempt.follow`). Addresses in `avoid` are picked only
        when nobody else is found.
        """
        info = PickInfo(
            self._method.path, options.metadata or (), request if self._request_is_unary else None
        )
        while (picker := self._pool.picker) is not None:
            try:
                picked = _pick_other(picker, info, avoid) if avoid else picker.pick(info)
            except NobodyAdmitted:
                return None
            attempt = self._attempt(picked, request, options)
            if attempt is not None:
                return attempt
            self._pool.refresh()
        return None

    async def start_when_ready(
        self, request: Any, options: CallOptions, time_remaining: Callable[[], float | None]
    ) -> Attempt | Status:
        """As `start`, waiting for a connection, and followed; a Status if it is refused."""
        self._pool.wake()
        while True:
            attempt = self.start(request, options._replace(timeout=time_remaining()))
            if attempt is not None:
                attempt.follow()
                return attempt
            refusal = self.refusal(options)
            if refusal is not None:
                return refusal
            await self._pool.changed()

    def refusal(self, options: CallOptions) -> Status | None:
        """Why a call with `options` must not wait any longer; None if it may."""
        if self._pool.failure is None or options.wait_for_ready:
            return None
        return Status(grpc.StatusCode.UNAVAILABLE, self._pool.failure)

    def queue_refusal(self) -> Status | None:
        """Why a call must not begin to wait; None if there is room."""
        if not self.waiting.is_full():
            return None
        details = f"{self.waiting.limit} calls wait for a connection already"
        return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, details)

    def _attempt(self, picked: PickResult, request: Any, options: CallOptions) -> Attempt | None:
        """A call on what was picked; None, and the pick is given back, if it is not READY."""
        # What is bound is an AioSubchannel; of what is not, `_ours` says so.
        subchannel: Any = picked.subchannel
        bound = self._bound.get(subchannel)
        on_done = picked.on_done
        call = None
        try:
            # Bound only when READY: who is closed has been forgotten, and is not to come back.
            if (bound is not None or _ours(subchannel)) and subchannel.is_ready():
                call = (bound or self._bind(subchannel))(
                    request,
                    timeout=options.timeout,
                    metadata=options.metadata,
                    credentials=options.credentials,
                    # To wait for this one connection would be wrong: others may be READY.
                    wait_for_ready=False,
                    compression=options.compression,
                )
                if self._is_stream:
                    self.shared.pins.pin(call, subchannel)
                return Attempt(call, subchannel, on_done)
            return None
        finally:
            if call is None and on_done is not None:
                on_done(None)

    def _bind(self, subchannel: AioSubchannel) -> Callable[..., Any]:
        bound = self._bound[subchannel] = subchannel.bind(self._method, self)
        return bound


def _ours(subchannel: Subchannel) -> bool:
    """True; raises TypeError for what no policy was given."""
    if not isinstance(subchannel, AioSubchannel):
        raise TypeError(f"the policy picked what it was not given: {subchannel!r}")
    return True


def _pick_other(picker: Picker, info: PickInfo, avoid: frozenset[str]) -> PickResult:
    """A pick outside of `avoid`, as far as a few tries find one."""
    picked = picker.pick(info)
    for _ in range(PICKS_TO_AVOID):
        if picked.subchannel.endpoint.address not in avoid:
            break
        if picked.on_done is not None:
            picked.on_done(None)
        picked = picker.pick(info)
    return picked
