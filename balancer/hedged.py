"""Calls that are sent to several endpoints, a little apart; the first answer counts.

When the next is sent, and which attempt is the call, decides `balancer.hedging`; this is the
call object around its attempts. Those not needed are cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from functools import partial
from typing import Any, TypeVar

import grpc
import grpc.aio

from balancer.attempt import outcome_of
from balancer.call import CANCELLED, DeferredCall, DeferredUnaryUnaryCall
from balancer.call_status import final_code, final_details, final_trailers
from balancer.dispatch import CallOptions, Dispatcher
from balancer.hedging import Finish, HedgeState, HedgingPolicy, Send
from balancer.managed_call import ManagedCall

Req = TypeVar("Req")
Res = TypeVar("Res")


class HedgedUnaryUnaryCall(ManagedCall[Req, Res], grpc.aio.UnaryUnaryCall[Req, Res]):
    """A grpc.aio.UnaryUnaryCall over attempts that run beside each other."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        request: Req,
        options: CallOptions,
        policy: HedgingPolicy,
    ) -> None:
        super().__init__(dispatcher, request, options)
        throttle = dispatcher.shared.throttle
        self._hedges = HedgeState(policy, throttle, deadline_s=self._deadline)
        self._attempts: dict[int, Any] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._drive()

    def __await__(self) -> Generator[Any, None, Res]:
        return self._response().__await__()

    def cancel(self) -> bool:
        """Ends it with all its attempts; False if it has ended already."""
        if self._final:
            return False
        attempts, self._attempts = self._attempts, {}
        self._end(DeferredUnaryUnaryCall(self._dispatcher, self._request, self._options, CANCELLED))
        for attempt in attempts.values():
            attempt.cancel()
        return True

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """As grpc.aio.Call; of the attempt that is the call in the end."""
        await self._until_final()
        metadata: grpc.aio.Metadata = await self._call.initial_metadata()
        return metadata

    async def wait_for_connection(self) -> None:
        """As grpc.aio.Call."""
        await self._attempts[0].wait_for_connection()

    async def _response(self) -> Res:
        try:
            await self._until_final()
        except asyncio.CancelledError:
            self.cancel()
            raise
        response: Res = await self._call
        return response

    def _drive(self) -> None:
        """Does what is to be done now, and comes back when more is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while not self._final:
            step = self._hedges.step(now_s=self._loop.time())
            if isinstance(step, Send):
                self._send(step)
            elif isinstance(step, Finish):
                self._end(self._attempts.pop(step.number))
                for number in step.cancel:
                    self._attempts[number].cancel()
            else:
                if step.until_s is not None:
                    self._timer = self._loop.call_at(step.until_s, self._drive)
                return

    def _send(self, step: Send) -> None:
        if step.number:
            self._dispatcher.shared.metrics.hedged()
        metadata = (*(self._options.metadata or ()), *step.metadata())
        options = self._options._replace(timeout=self.time_remaining(), metadata=metadata)
        attempt = self._dispatcher.start(self._request, options, step.tried)
        if attempt is None:
            call: Any = DeferredUnaryUnaryCall(self._dispatcher, self._request, options)
            endpoint = None
        else:
            call, endpoint = attempt.follow(), attempt.endpoint
        self._attempts[step.number] = call
        self._hedges.sent(step.number, endpoint, now_s=self._loop.time())
        call.add_done_callback(partial(self._ended, step.number, endpoint))

    def _ended(self, number: int, endpoint: str | None, call: Any) -> None:
        if self._final:
            return
        if isinstance(call, DeferredCall):
            endpoint = call.endpoint
        outcome = outcome_of(final_code(call), final_details(call), final_trailers(call), endpoint)
        self._hedges.after(number, outcome, now_s=self._loop.time())
        # By the loop: a call that has failed already ends while it is being sent.
        self._loop.call_soon(self._drive)

    def _end(self, call: Any) -> None:
        self._call = call
        if self._timer is not None:
            self._timer.cancel()
        self._finish()
