"""One attempt of a thread's call: an endpoint is picked, the call is sent there, it ends.

`balancer.sync_dispatch` says when an attempt is made and what follows on it. Here is what every
call pays for, so that nothing is made for it that not every call needs.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection
from functools import partial
from typing import Any, Final, Literal, NamedTuple, Protocol

import grpc

from balancer.dispatch import PICKS_TO_AVOID
from balancer.guard import NobodyAdmitted
from balancer.metrics import NO_METRICS, Running
from balancer.pins import Pins
from balancer.policy import CompletionHook, MetadataType, PickInfo, PickResult, Subchannel
from balancer.pool import Pool
from balancer.subchannel import Method
from balancer.sync_subchannel import SyncSubchannel

# A picker may name subchannels that are lost already, and chance or a hash may name one more
# than once. Where some are excluded, PICKS_TO_AVOID takes its place.
PICKS_PER_ATTEMPT_MAX: Final = 5

# Looked up by every call; a member of an enum is found in Python.
_OK: Final = grpc.StatusCode.OK
_CANCELLED: Final = grpc.StatusCode.CANCELLED

Style = Literal["__call__", "with_call", "future"]


class Rpc(NamedTuple):
    """One call as its caller asked for it; `timeout` is in seconds."""

    style: Style
    request: Any
    timeout: float | None
    metadata: MetadataType | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class Attempt(Protocol):
    """Where a call goes, counted as in flight there; a PickResult whose subchannel is ours."""

    @property
    def subchannel(self) -> SyncSubchannel:
        """Who takes the call."""

    @property
    def on_done(self) -> CompletionHook | None:
        """Who wants to know how it ended."""


class Attempts:
    """Makes the attempts of calls of one method."""

    def __init__(self, method: Method, pool: Pool, pins: Pins) -> None:
        self._method = method
        self._path = method.path
        self._pool = pool
        self._pins = pins
        self._is_stream = method.kind != "unary_unary"
        self._request_is_unary = method.kind.startswith("unary")
        # A subchannel that is closed takes its multicallables with it: see `forget`.
        self._bound: dict[Subchannel, Any] = {}

    def forget(self, subchannel: Subchannel) -> None:
        """Lets go of a subchannel that is closed."""
        self._bound.pop(subchannel, None)

    def pick(self, rpc: Rpc, excluded: Collection[Subchannel] = ()) -> Attempt | None:
        """An attempt on a subchannel that is READY and not `excluded`; None if none is found.

        It counts as in flight until it ends, which `run` and `begin` see to.
        """
        request = rpc.request if self._request_is_unary else None
        info = PickInfo(self._path, rpc.metadata or (), request)
        for _ in range(PICKS_TO_AVOID if excluded else PICKS_PER_ATTEMPT_MAX):
            picker = self._pool.picker
            if picker is None:
                return None
            try:
                picked: Any = picker.pick(info)
            except NobodyAdmitted:
                return None
            subchannel = picked.subchannel
            if not isinstance(subchannel, SyncSubchannel):
                raise TypeError(f"the policy picked what it was not given: {subchannel!r}")
            if subchannel not in excluded and subchannel.acquire():
                return picked if subchannel.metrics is NO_METRICS else _counted(picked)
            if picked.on_done is not None:
                picked.on_done(None)
        return None

    def pick_other(self, rpc: Rpc, tried: Collection[Subchannel]) -> Attempt | None:
        """As `pick`, where the call has not been if that can be."""
        return (self.pick(rpc, tried) if tried else None) or self.pick(rpc)

    def run(self, attempt: Attempt, rpc: Rpc) -> Any:
        """What gRPC's multicallable returns, blocking until then. Raises grpc.RpcError."""
        code: grpc.StatusCode | None = None
        try:
            response = self._invoke(attempt.subchannel, rpc)
            code = _OK
        except grpc.RpcError as error:
            code = _code_of(error)
            raise
        finally:
            _end(attempt, code)
        return response

    def begin(self, attempt: Attempt, rpc: Rpc) -> Any:
        """A call object, with whose end the attempt ends."""
        try:
            call = self._invoke(attempt.subchannel, rpc)
        except BaseException:
            _end(attempt, None)
            raise
        if self._is_stream:
            self._pins.pin(call, attempt.subchannel)
        # Weak, so that a call which nobody holds is cancelled, as gRPC's are.
        ended = partial(_end_with, weakref.ref(call), attempt)
        if not call.add_callback(ended):
            ended()
        return call

    def _invoke(self, subchannel: SyncSubchannel, rpc: Rpc) -> Any:
        bound = self._bound.get(subchannel) or self._bind(subchannel)
        style, request, timeout, metadata, credentials, _, compression = rpc
        # To wait for this one connection would be wrong: others may be READY.
        return getattr(bound, style)(request, timeout, metadata, credentials, False, compression)

    def _bind(self, subchannel: SyncSubchannel) -> Any:
        bound = self._bound[subchannel] = subchannel.bind(self._method, self)
        if subchannel.closed:
            # It may have asked to be forgotten just before.
            self.forget(subchannel)
        return bound


def _counted(picked: Attempt) -> Attempt:
    """`picked`, with an attempt that starts now and is told to who counts."""
    metrics = picked.subchannel.metrics
    metrics.attempt_started()
    running = Running(metrics.attempt_ended)
    on_done = picked.on_done

    def ended(code: grpc.StatusCode | None) -> None:
        if on_done is not None:
            on_done(code)
        # One that gRPC refused to start has no code of its own.
        running.ended(code or _CANCELLED)

    counted: Any = PickResult(picked.subchannel, ended)
    attempt: Attempt = counted
    return attempt


def _end(attempt: Attempt, code: grpc.StatusCode | None) -> None:
    """Says that it is over, with `code`, or None if it was never started."""
    attempt.subchannel.release()
    if attempt.on_done is not None:
        attempt.on_done(code)


def _end_with(reference: weakref.ref[Any], attempt: Attempt) -> None:
    call = reference()
    # Who lets go of a call cancels it.
    _end(attempt, _CANCELLED if call is None else call.code())


def _code_of(error: grpc.RpcError) -> grpc.StatusCode:
    ended: Any = error
    code: grpc.StatusCode = ended.code()
    return code
