"""The epochs as one coordinator sees them: its own, those of the others, and their horizon.

Several coordinators share a log, each under an epoch of its own. What a participant may forget
depends on all of them: so each announces its horizon, and tells the lowest that it has read,
never above what was durable at that moment. A coordinator that begins later begins its ids
above that (docs/adr/0007-several-coordinators.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from txn.clock import Clock
from txn.decision_log import DecisionLog, Epochs, Standing, lowest_horizon
from txn.errors import Fenced, TxnError
from txn.model import NO_EPOCH, Epoch, TxnId, epoch_of

# How old what is known of the others may be, and what they know of this one.
LOOK_S = 0.5

_log = logging.getLogger(__name__)


class EpochKeeper:
    """See the module's docstring. Belongs to one event loop."""

    def __init__(
        self,
        log: DecisionLog,
        *,
        clock: Clock,
        own_horizon: Callable[[TxnId], TxnId],
        begin_above: Callable[[TxnId], None],
    ) -> None:
        """`own_horizon(newest)` is that of this coordinator alone, `newest` at most.

        `begin_above(newest)` has every id that is made from then on be above.
        """
        self._decisions = log
        self._clock = clock
        self._own_horizon = own_horizon
        self._begin_above = begin_above
        self._seen = Epochs((), NO_EPOCH, None)
        self._announced: TxnId | None = None
        # Whoever looks, or takes over, does so alone: what was inherited holds the horizon
        # back only once it is known here.
        self._one_at_a_time = asyncio.Lock()
        self.epoch = NO_EPOCH
        self.horizon: TxnId | None = None
        """Below it no transaction of the log is prepared, or will be, but for those of here."""

    async def begin(self, instance: str) -> frozenset[Epoch]:
        """Begins this coordinator's epoch; returns whose work goes on in it."""
        self.epoch, inherited = await self._decisions.begin_epoch(instance)
        return inherited

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await self._clock.sleep(LOOK_S)
            try:
                await self.look()
            except TxnError as error:
                # What was known before holds; only nothing is forgotten meanwhile.
                _log.warning("the epochs could not be looked at: %r", error)

    async def see(self) -> None:
        """Reads who stands, and tells nobody anything. Raises StoreError."""
        seen = await self._decisions.epochs()
        # Others may have looked meanwhile.
        if seen.newest > self._seen.newest:
            self._seen = seen

    async def look(self) -> None:
        """Reads who stands, and announces this one's horizon. Raises Fenced, or StoreError."""
        async with self._one_at_a_time:
            await self._look()

    async def take_over(
        self, epoch: Epoch, resume: Callable[[frozenset[Epoch]], Awaitable[int]]
    ) -> int | None:
        """Ends the epoch of another and has `resume` take up what was begun in it.

        Returns what that returned; None when the epoch was over already.
        """
        async with self._one_at_a_time:
            inherited = await self._decisions.take_over(epoch)
            count = await resume(inherited) if inherited else None
            self._announced = None
            await self._look()
        return count

    def others(self) -> tuple[Standing, ...]:
        """Those that stood when somebody looked last."""
        return tuple(each for each in self._seen.standing if each.epoch != self.epoch)

    def stands_elsewhere(self, txn_id: TxnId) -> bool:
        """Whether another coordinator may still decide a transaction."""
        epoch = epoch_of(txn_id)
        return epoch != self.epoch and any(each.epoch == epoch for each in self._seen.standing)

    def is_news(self, txn_id: TxnId) -> bool:
        """Whether it was begun in an epoch that was not there when somebody looked last."""
        return epoch_of(txn_id) > self._seen.newest

    async def _look(self) -> None:
        seen = await self._decisions.epochs()
        if all(each.epoch != self.epoch for each in seen.standing):
            await self._end()
        newest = seen.newest_txn_id
        if newest is not None:
            self._begin_above(newest)
        self._seen = seen
        self.horizon = lowest_horizon([newest, *(each.horizon for each in self.others())])
        if newest is None or not self.others():
            return
        horizon = self._own_horizon(newest)
        if horizon != self._announced:
            await self._decisions.announce(horizon)
            self._announced = horizon

    async def _end(self) -> None:
        """Another has taken over: any write ends the process, and nothing is told any more."""
        await self._decisions.announce(TxnId(""))
        raise Fenced(f"epoch {self.epoch} is over")
