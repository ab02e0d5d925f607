"""Starting the calls of threads: pick, and if nobody can be picked, decide whether to wait.

The rules are those of `balancer.dispatch`. A call is made of attempts (`balancer.sync_attempts`);
one that is tried again picks once more, and avoids where it has been. The attempts of a blocking
call follow each other here, in its own thread; those of any other in `balancer.sync_retrying`.
"""

from __future__ import annotations

import time
from typing import Any

import grpc

from balancer.call_status import Status
from balancer.config import ChannelConfig
from balancer.dispatch import Shared
from balancer.method_config import MethodConfig
from balancer.metrics import NO_METRICS, Running
from balancer.pool import Pool
from balancer.retry import Retry
from balancer.subchannel import Method
from balancer.sync_attempts import Attempt, Attempts, Rpc
from balancer.sync_call import CHANNEL_CLOSED, DEADLINE_EXCEEDED, DeferredCall, NeverSent
from balancer.sync_repeats import Repeats, Whereabouts
from balancer.sync_waiting import Placeable, Waiting


class SyncDispatcher:
    """Starts calls of one method on the subchannels that the policy picks."""

    def __init__(
        self,
        method: Method,
        pool: Pool,
        waiting: Waiting,
        config: ChannelConfig,
        shared: Shared,
    ) -> None:
        self.shared = shared
        self._attempts = Attempts(method, pool, shared.pins)
        self._pool = pool
        self._waiting = waiting
        self._default_timeout_s = config.default_timeout_s if method.kind == "unary_unary" else None
        self._method_config = config.methods.of(method.path)
        self._leaves_it_to_callers = (
            self._method_config.timeout_s is None and self._method_config.wait_for_ready is None
        )
        # What is streamed in cannot be streamed in twice.
        self._is_repeatable = method.kind.startswith("unary") and self._method_config.is_repeatable
        self.hedging = self._method_config.hedging if method.kind == "unary_unary" else None

    def again(self) -> MethodConfig | None:
        """What says whether a call may be tried again; None for one that never is."""
        return self._method_config if self._is_repeatable else None

    def call(self, rpc: Rpc) -> Any:
        """What gRPC's multicallable returns, blocking until then.

        Raises grpc.RpcError, and ValueError once the channel is closed.
        """
        rpc = first = self.with_deadline(rpc)
        started = time.monotonic()
        repeats: Repeats | None = None
        while True:
            attempt = self._attempts.pick(rpc) if repeats is None else self._pick(rpc, repeats)
            if attempt is None:
                attempt, rpc = self._wait(rpc, repeats)
            try:
                response = self._attempts.run(attempt, rpc)
            except ValueError:
                if not self._was_closed_under(attempt):
                    raise
            except grpc.RpcError as error:
                if not self._is_repeatable:
                    raise
                repeats = repeats or self._repeats(first, started)
                repeats.subchannel = attempt.subchannel
                retry = repeats.after(error)
                if retry is None:
                    raise
                self._pause(retry.delay_s)
                self.shared.metrics.retried()
                rpc = next_rpc(first, retry, repeats)
            else:
                if self._is_repeatable:
                    self.shared.throttle.succeeded()
                return response

    def running(self) -> Running | None:
        """Counts a call as begun; None if nobody counts."""
        metrics = self.shared.metrics
        if metrics is NO_METRICS:
            return None
        metrics.call_started()
        return Running(metrics.call_ended)

    def start(self, rpc: Rpc, where: Whereabouts | None = None) -> Any:
        """A call object, without blocking; gRPC's own if it can start at once.

        `rpc` has the deadline of `with_deadline`, and `where` learns where it goes. Raises
        ValueError once the channel is closed.
        """
        call = self._try(rpc, where)
        if call is not None:
            return call
        refusal = self._enter(rpc)
        return self._defer(rpc, where) if refusal is None else NeverSent(refusal)

    def start_later(self, rpc: Rpc, repeats: Repeats, delay_s: float) -> DeferredCall | None:
        """As `start`, in so many seconds; None if too many calls wait already."""
        return self._defer(rpc, repeats, delay_s) if self._waiting.enter() else None

    def place(self, call: Placeable) -> None:
        """Has `call` advanced when it is due."""
        self._waiting.add(call)

    def wake(self) -> None:
        """Says that a call is due at another time than before."""
        self._waiting.changes.publish()

    def with_deadline(self, rpc: Rpc) -> Rpc:
        """`rpc` as its method is configured, bounded if it is a unary call that says nothing."""
        config = self._method_config
        if rpc.timeout is not None and self._leaves_it_to_callers:
            return rpc
        timeout = config.timeout_for(rpc.timeout)
        if timeout is None:
            timeout = self._default_timeout_s
        wait_for_ready = rpc.wait_for_ready
        if wait_for_ready is None:
            wait_for_ready = config.wait_for_ready
        if timeout == rpc.timeout and wait_for_ready == rpc.wait_for_ready:
            return rpc
        return rpc._replace(timeout=timeout, wait_for_ready=wait_for_ready)

    def _pick(self, rpc: Rpc, where: Whereabouts | None) -> Attempt | None:
        return self._attempts.pick_other(rpc, () if where is None else where.tried)

    def _repeats(self, rpc: Rpc, started: float) -> Repeats:
        deadline = None if rpc.timeout is None else started + rpc.timeout
        return Repeats(self._method_config, self.shared, deadline)

    def _pause(self, delay_s: float) -> None:
        """Returns after `delay_s`. Raises NeverSent if the channel is closed meanwhile."""
        changes, due = self._waiting.changes, time.monotonic() + delay_s
        while True:
            seen, left = changes.version, due - time.monotonic()
            if self._waiting.closed:
                raise NeverSent(CHANNEL_CLOSED)
            if left <= 0:
                return
            changes.wait(seen, left)

    def _try(self, rpc: Rpc, where: Whereabouts | None) -> Any:
        while (attempt := self._pick(rpc, where)) is not None:
            if where is not None:
                where.subchannel = attempt.subchannel
            try:
                return self._attempts.begin(attempt, rpc)
            except ValueError:
                if not self._was_closed_under(attempt):
                    raise
                if where is not None:
                    where.subchannel = None
        return None

    def _was_closed_under(self, attempt: Attempt) -> bool:
        """Whether its drain took too long just then, so that it was refused, not sent."""
        return attempt.subchannel.closed and not self._waiting.closed

    def _wait(self, rpc: Rpc, repeats: Repeats | None) -> tuple[Attempt, Rpc]:
        """An attempt, when one can be had, and the call with the time left. Raises NeverSent."""
        deadline = None if rpc.timeout is None else time.monotonic() + rpc.timeout
        changes = self._waiting.changes
        refusal = self._enter(rpc)
        if refusal is not None:
            raise NeverSent(refusal)
        try:
            while refusal is None:
                seen = changes.version
                attempt = self._pick(rpc, repeats)
                if deadline is not None:
                    rpc = rpc._replace(timeout=deadline - time.monotonic())
                if attempt is not None:
                    return attempt, rpc
                refusal = self._refusal(rpc)
                if refusal is None:
                    changes.wait(seen, rpc.timeout)
        finally:
            self._waiting.leave()
        raise NeverSent(refusal)

    def _defer(self, rpc: Rpc, where: Whereabouts | None, delay_s: float = 0.0) -> DeferredCall:
        """A call object that waits in the place just entered."""

        def begin(timeout: float | None) -> Any:
            now = rpc._replace(timeout=timeout)
            return self._try(now, where) or self._refusal(now)

        call = DeferredCall(rpc.timeout, begin, self._waiting, delay_s)
        self._waiting.add(call)
        return call

    def _enter(self, rpc: Rpc) -> Status | None:
        """Takes a place among those that wait, or says why not. Raises ValueError if closed."""
        self._waiting.check_open()
        self._pool.wake()
        refusal = self._refusal(rpc)
        if refusal is not None:
            return refusal
        if self._waiting.enter():
            return None
        details = f"{self._waiting.limit} calls wait for a connection already"
        return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, details)

    def _refusal(self, rpc: Rpc) -> Status | None:
        """Why a call must not wait any longer; None if it may."""
        if self._waiting.closed:
            return CHANNEL_CLOSED
        if rpc.timeout is not None and rpc.timeout <= 0:
            return DEADLINE_EXCEEDED
        failure = self._pool.failure
        if failure is None or rpc.wait_for_ready:
            return None
        return Status(grpc.StatusCode.UNAVAILABLE, failure)


def next_rpc(rpc: Rpc, retry: Retry, repeats: Repeats) -> Rpc:
    """The attempt that follows others of `rpc`, with the time that is left."""
    metadata = (*(rpc.metadata or ()), *retry.metadata())
    return rpc._replace(timeout=repeats.time_remaining(), metadata=metadata)
