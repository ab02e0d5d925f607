"""The coordinator's writes: outcomes, many with one force, and ends that ride along.

What has gathered in one turn of the event loop is handed to the log together. Nothing is
answered before it stands, and the row that stands rules, not the one that was meant.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

from txn import protocol
from txn.clock import Backoff, Clock, SteadyUtc
from txn.crash_point import AFTER_DECISION, AFTER_END, BEFORE_DECISION, BEFORE_END, CrashPoint
from txn.decision_log import DecisionLog
from txn.errors import TxnError
from txn.lane import Happened, Spawn
from txn.metrics import NO_METRICS, CoordinatorMetrics, Phase
from txn.model import Decision
from txn.state import Outcome
from txn.transaction import Transaction

_log = logging.getLogger(__name__)

# One object for all transactions.
_STANDS = {outcome: protocol.OutcomeStands(outcome) for outcome in Outcome}

Deciding = list[tuple[Transaction, Decision]]
Standing = Sequence[Decision | TxnError]


class Decider:
    """See the module's docstring. Belongs to one event loop."""

    def __init__(
        self,
        log: DecisionLog,
        *,
        retry: Backoff,
        clock: Clock,
        utc: SteadyUtc,
        rng: random.Random,
        crash_point: CrashPoint,
        spawn: Spawn,
        deliver: Callable[[Sequence[Happened]], None],
        ended: Callable[[Sequence[Transaction]], None],
        metrics: CoordinatorMetrics = NO_METRICS,
    ) -> None:
        """`deliver` is told which outcomes stand, `ended` which ends are durable."""
        self._decisions = log
        self._retry = retry
        self._clock = clock
        self._utc = utc
        self._rng = rng
        self._crash_point = crash_point
        self._spawn = spawn
        self._deliver = deliver
        self._ended = ended
        self._metrics = metrics
        self._deciding: Deciding = []
        self._ending: list[Transaction] = []

    def decide(self, transaction: Transaction, outcome: Outcome) -> None:
        """Writes the outcome row, however often that has to be tried."""
        decision = row_of(transaction, outcome, self._utc, ended=outcome is Outcome.ABORTED)
        if not self._deciding:
            self._spawn(self._force_gathered())
        self._deciding.append((transaction, decision))

    def end(self, transaction: Transaction) -> None:
        """Writes down, with the next force, that everybody has acknowledged."""
        if not self._ending:
            asyncio.get_running_loop().call_soon(self._end_all)
        self._ending.append(transaction)

    async def _force_gathered(self) -> None:
        """What was decided until this task began, in one turn of the loop, is forced together."""
        those, self._deciding = self._deciding, []
        began_s = self._clock.monotonic()
        self._metrics.took(Phase.PREPARE, began_s - those[0][0].began_s)

        def announce(those: Deciding, stand: Standing) -> None:
            self._announce(those, stand, began_s)

        await self.force(
            those, self._decisions.decide_all, announce, (BEFORE_DECISION, AFTER_DECISION)
        )

    async def force(
        self,
        those: Deciding,
        write: Callable[[Sequence[Decision]], Awaitable[Standing]],
        announce: Callable[[Deciding, Standing], None],
        crash_points: tuple[str, str],
    ) -> None:
        """Writes rows, however often that has to be tried, and announces what stands.

        Writing again has to be safe, whether or not a row was written: what stands is read back.
        """
        before, after = crash_points
        tried = 0
        while those:
            if tried:
                await self._clock.sleep(self._retry.wait_s(tried - 1, self._rng))
            tried += 1
            self._crash_point(before)
            stand = await attempt(write, [decision for _, decision in those])
            self._crash_point(after)
            announce(those, stand)
            those = [
                each
                for each, row in zip(those, stand, strict=True)
                if not isinstance(row, Decision)
            ]

    def _announce(self, those: Deciding, stand: Standing, began_s: float) -> None:
        now_s = self._clock.monotonic()
        committed = 0
        happened: list[Happened] = []
        for (transaction, _), row in zip(those, stand, strict=True):
            if not isinstance(row, Decision):
                _log.warning("decision of %s: %r", transaction.txn_id, row)
                continue
            transaction.decided_s = now_s
            transaction.decide(row)
            outcome = row.outcome if row.txn_id == transaction.txn_id else Outcome.ABORTED
            committed += outcome is Outcome.COMMITTED
            happened.append((transaction, _STANDS[outcome]))
        if happened:
            self._metrics.took(Phase.DECIDE, now_s - began_s)
            self._metrics.decided(committed, len(happened) - committed)
            self._deliver(happened)

    def _end_all(self) -> None:
        those, self._ending = self._ending, []
        self._crash_point(BEFORE_END)
        self._metrics.took(Phase.APPLY, self._clock.monotonic() - those[0].decided_s)
        try:
            self._decisions.end_all(
                [transaction.txn_id for transaction in those], lambda: self._have_ended(those)
            )
        except TxnError as error:
            # They count as unfinished, which is always safe.
            _log.warning("%d ends: %r", len(those), error)

    def _have_ended(self, those: Sequence[Transaction]) -> None:
        self._crash_point(AFTER_END)
        self._ended(those)


def row_of(transaction: Transaction, outcome: Outcome, utc: SteadyUtc, *, ended: bool) -> Decision:
    """The row that says `outcome`, or a claim, with what is known of the transaction now."""
    progress = transaction.progress
    return Decision(
        transaction.txn_id,
        outcome,
        transaction.request,
        transaction.logged_branches(),
        utc.written_us(),
        reason=progress.reason,
        refused_branch_id=progress.refused_branch_id,
        ended=ended,
    )


async def attempt(
    write: Callable[[Sequence[Decision]], Awaitable[Standing]], decisions: Sequence[Decision]
) -> Standing:
    """Writes rows once; what stands, or an error in the place of what is not known."""
    try:
        return await write(decisions)
    except Exception as error:  # noqa: BLE001 - no transaction may hang because a store was busy
        _log.warning("%d decisions: %r", len(decisions), error)
        return [TxnError(repr(error))] * len(decisions)
