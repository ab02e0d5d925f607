"""How calls of threads begin: once, one attempt after the other, or several beside each other."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc

from balancer.metrics import NO_METRICS, Running
from balancer.sync_attempts import Rpc
from balancer.sync_dispatch import SyncDispatcher
from balancer.sync_hedged import HedgedCall
from balancer.sync_managed import ManagedCall
from balancer.sync_retrying import RetryingCall


def caller(dispatcher: SyncDispatcher) -> Callable[[Rpc], Any]:
    """What makes blocking calls: returns what gRPC's multicallable does.

    It raises grpc.RpcError, and ValueError once the channel is closed.
    """
    if dispatcher.hedging is None and dispatcher.shared.metrics is NO_METRICS:
        return dispatcher.call
    return partial(_counted_call, dispatcher)


def _counted_call(dispatcher: SyncDispatcher, rpc: Rpc) -> Any:
    running = dispatcher.running()
    if running is None:
        return _call(dispatcher, rpc)
    # What a policy or a serializer raises is nobody's status.
    code = grpc.StatusCode.UNKNOWN
    try:
        response = _call(dispatcher, rpc)
        code = grpc.StatusCode.OK
    except grpc.RpcError as error:
        ended: Any = error
        code = ended.code()
        raise
    finally:
        running.ended(code)
    return response


def start(dispatcher: SyncDispatcher, rpc: Rpc) -> Any:
    """A call object, without blocking. Raises ValueError once the channel is closed."""
    started = _start(dispatcher, dispatcher.with_deadline(rpc))
    running = dispatcher.running()
    if running is not None:
        _count(started, running)
    return started


def _call(dispatcher: SyncDispatcher, rpc: Rpc) -> Any:
    hedging = dispatcher.hedging
    if hedging is None:
        return dispatcher.call(rpc)
    hedged = HedgedCall(dispatcher, hedging, dispatcher.with_deadline(rpc))
    hedged.wait()
    response = hedged.result()
    return (response, hedged) if rpc.style == "with_call" else response


def _start(dispatcher: SyncDispatcher, rpc: Rpc) -> Any:
    method = dispatcher.again()
    if method is None:
        return dispatcher.start(rpc)
    if dispatcher.hedging is None:
        return RetryingCall(dispatcher, method, rpc)
    hedged = HedgedCall(dispatcher, dispatcher.hedging, rpc)
    hedged.follow()
    return hedged


def _count(started: Any, running: Running) -> None:
    """Has the end of a call told to `running`, also if nobody holds it until then."""
    if isinstance(started, ManagedCall):
        started.counted_by(running)
        return
    reference = weakref.ref(started)

    def ended() -> None:
        held = reference()
        running.ended(grpc.StatusCode.CANCELLED if held is None else held.code())

    if not started.add_callback(ended):
        ended()
