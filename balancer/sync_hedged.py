"""Calls of threads that are sent to several endpoints, a little apart; the first answer counts.

When the next is sent, and which attempt is the call, decides `balancer.hedging`; this is the
call around its attempts. Those not needed are cancelled. A blocking call waits for its moments
in its own thread, any other has them among the waiting calls.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterable
from functools import partial
from typing import Any

from balancer.attempt import outcome_of
from balancer.hedging import Finish, HedgeState, HedgingPolicy, Send
from balancer.sync_attempts import Rpc
from balancer.sync_call import CANCELLED, POLICY_FAILED, NeverSent
from balancer.sync_dispatch import SyncDispatcher
from balancer.sync_managed import ManagedCall
from balancer.sync_repeats import Whereabouts

_log = logging.getLogger(__name__)


class HedgedCall(ManagedCall):
    """A future over attempts that run beside each other. Raises ValueError once closed.

    Its attempts are sent by whoever calls `drive`, `due_in` seconds from now, and whenever one
    of them ends.
    """

    def __init__(self, dispatcher: SyncDispatcher, policy: HedgingPolicy, rpc: Rpc) -> None:
        super().__init__(dispatcher, rpc._replace(style="future"))
        throttle = dispatcher.shared.throttle
        self._hedges = HedgeState(policy, throttle, deadline_s=self._deadline)
        self._attempts: dict[int, Any] = {}
        self._tried: tuple[Whereabouts, ...] = ()
        self._due_s: float | None = None
        self._is_driving = False
        self.drive()

    def cancel(self) -> bool:
        """Ends it with all its attempts; False if it has ended already."""
        with self._news:
            unwanted = self._settle(NeverSent(CANCELLED), self._attempts)
        return self._end(unwanted)

    def cancelled(self) -> bool:
        """Whether it was cancelled here."""
        return self._final and bool(self._call.cancelled())

    def due_in(self) -> float | None:
        """Seconds until the next attempt is due; None if none is."""
        due_s = self._due_s
        return None if due_s is None or self._final else max(0.0, due_s - time.monotonic())

    def wait(self) -> None:
        """Sends what is due, in this thread, until the call has ended."""
        while not self._final:
            self.drive()
            with self._news:
                if not self._final:
                    self._news.wait(self.due_in())

    def drive(self) -> None:
        """Does what is to be done now."""
        with self._news:
            # An attempt that fails at once says so while it is being sent.
            if self._is_driving or self._final:
                return
            self._is_driving = True
            try:
                finished = self._until_nothing_is_due()
            finally:
                self._is_driving = False
            if finished is None:
                return
            unwanted = self._settle(self._attempts[finished.number], finished.cancel)
        self._end(unwanted)

    def follow(self) -> None:
        """Has the attempts sent by the thread that places waiting calls."""
        if self.due_in() is not None:
            self._dispatcher.place(_Moments(self))

    def _until_nothing_is_due(self) -> Finish | None:
        while True:
            step = self._hedges.step(now_s=time.monotonic())
            if isinstance(step, Finish):
                return step
            if not isinstance(step, Send):
                self._due_s = step.until_s
                return None
            self._send(step)

    def _send(self, step: Send) -> None:
        if step.number:
            self._dispatcher.shared.metrics.hedged()
        metadata = (*(self._rpc.metadata or ()), *step.metadata())
        rpc = self._rpc._replace(timeout=self.time_remaining(), metadata=metadata)
        where = Whereabouts(tuple(each.subchannel for each in self._tried if each.subchannel))
        call = self._start(rpc, where, is_first=not step.number)
        self._attempts[step.number] = call
        self._tried += (where,)
        at = where.subchannel
        address = None if at is None else at.endpoint.address
        self._hedges.sent(step.number, address, now_s=time.monotonic())
        ended = partial(_heard, weakref.ref(self), step.number, where)
        if not call.add_callback(ended):
            ended()

    def _start(self, rpc: Rpc, where: Whereabouts, *, is_first: bool) -> Any:
        try:
            return self._context.run(self._dispatcher.start, rpc, where)
        except Exception:
            if is_first:
                raise
            _log.exception("a hedge could not be started")
            return NeverSent(POLICY_FAILED)

    def ended(self, number: int, where: Whereabouts) -> None:
        """Takes note that an attempt has ended, and goes on."""
        with self._news:
            if self._final:
                return
            call = self._attempts[number]
            at = where.subchannel
            outcome = outcome_of(
                call.code(),
                str(call.details()),
                tuple(call.trailing_metadata() or ()),
                None if at is None else at.endpoint.address,
            )
            self._hedges.after(number, outcome, now_s=time.monotonic())
        before_s = self._due_s
        self.drive()
        if self._due_s != before_s:
            # Who waits for the next moment waits for another one now.
            with self._news:
                self._news.notify_all()
            self._dispatcher.wake()

    def _settle(self, call: Any, others: Iterable[int]) -> list[Any] | None:
        """Makes `call` the call; the attempts `others`, or None if it has ended before."""
        if self._final:
            return None
        self._call, self._final = call, True
        unwanted = [self._attempts[each] for each in others]
        self._attempts = {}
        return unwanted

    def _end(self, unwanted: list[Any] | None) -> bool:
        """Tells everybody, without a lock; False if that was done before."""
        if unwanted is None:
            return False
        self._finish()
        for attempt in unwanted:
            attempt.cancel()
        self._dispatcher.wake()
        return True


class _Moments:
    """When a hedged call is to be driven, for whoever places waiting calls.

    It does not hold the call: one that nobody holds is cancelled.
    """

    def __init__(self, call: HedgedCall) -> None:
        self._call = weakref.ref(call)

    def advance(self) -> None:
        """Sends what is due."""
        call = self._call()
        if call is not None and call.due_in() == 0:
            call.drive()

    def is_waiting(self) -> bool:
        """Whether there will be more to send."""
        return self.due_in() is not None

    def due_in(self) -> float | None:
        """Seconds until there is; None if never."""
        call = self._call()
        return None if call is None else call.due_in()


def _heard(reference: weakref.ref[HedgedCall], number: int, where: Whereabouts) -> None:
    call = reference()
    if call is not None:
        call.ended(number, where)
