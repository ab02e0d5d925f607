"""The coordinator's writes in one phase: claims are forced first, and closed last.

A claim says whose a key is before anything is sent. It is closed when the outcome is known:
a commit with whatever force comes next, since its participant keeps it until then; what only
the coordinator knows is forced (docs/adr/0005-one-phase-for-a-single-branch.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from txn import protocol
from txn.audit import Signature
from txn.clock import Clock, SteadyUtc
from txn.crash_point import (
    AFTER_CLAIM,
    AFTER_CLOSE,
    AFTER_DECISION,
    BEFORE_CLAIM,
    BEFORE_CLOSE,
    BEFORE_DECISION,
    CrashPoint,
)
from txn.deciding import Decider, Deciding, Standing, attempt, row_of
from txn.decision_log import DecisionLog
from txn.errors import LogDamaged, StoreClosed, TxnError
from txn.lane import Happened, Spawn
from txn.metrics import NO_METRICS, CoordinatorMetrics, Phase
from txn.model import Decision, TxnId
from txn.state import Outcome
from txn.transaction import Transaction

# Until what was not even queued is tried again.
CLOSE_AGAIN_S = 1.0

_log = logging.getLogger(__name__)


class Claimer:
    """See the module's docstring. Belongs to one event loop."""

    def __init__(
        self,
        log: DecisionLog,
        decider: Decider,
        *,
        clock: Clock,
        utc: SteadyUtc,
        crash_point: CrashPoint,
        spawn: Spawn,
        deliver: Callable[[Sequence[Happened]], None],
        ended: Callable[[Sequence[Transaction]], None],
        metrics: CoordinatorMetrics = NO_METRICS,
    ) -> None:
        """`deliver` is told what stands, `ended` which commits nobody will ask about any more."""
        self._decisions = log
        self._decider = decider
        self._clock = clock
        self._utc = utc
        self._crash_point = crash_point
        self._spawn = spawn
        self._deliver = deliver
        self._ended = ended
        self._metrics = metrics
        # By participant, those whose outcome is not durable here, in the order of their ids.
        self._open: dict[str, dict[TxnId, None]] = {}
        # Commits that are known, and not durable here yet.
        self._known: dict[TxnId, Decision] = {}
        # By participant, those of which it has yet to say what became of them.
        self._doubtful: dict[str, set[TxnId]] = {}
        self._claiming: Deciding = []
        self._closing: Deciding = []
        self._committed: list[Transaction] = []

    def claim(self, transaction: Transaction) -> None:
        """Writes down whose the key is, however often that has to be tried."""
        self.hold_back(transaction)
        if not self._claiming:
            self._spawn(self._force_claims())
        claim = row_of(transaction, Outcome.PENDING, self._utc, ended=False)
        self._claiming.append((transaction, claim))

    def hold_back(self, transaction: Transaction) -> None:
        """Its claim is open: what becomes of it may have to be asked at its participant."""
        (participant,) = transaction.participants.values()
        those = self._open.setdefault(participant, {})
        late = transaction.txn_id < next(reversed(those), transaction.txn_id)
        those[transaction.txn_id] = None
        if late:
            # Of a coordinator that was taken over.
            self._open[participant] = dict.fromkeys(sorted(those))

    def oldest_open(self, participant: str | None = None) -> TxnId | None:
        """Of the claims at one participant, or at any."""
        if participant is not None:
            return next(iter(self._open.get(participant, ())), None)
        return min((next(iter(those)) for those in self._open.values() if those), default=None)

    def _let_go(self, transaction: Transaction) -> None:
        (participant,) = transaction.participants.values()
        self._open.get(participant, {}).pop(transaction.txn_id, None)

    def doubt(self, transaction: Transaction, participant: str) -> None:
        """The participant is asked what became of it, since it has not said so in time."""
        self._doubtful.setdefault(participant, set()).add(transaction.txn_id)

    def owes_an_answer(self, participant: str) -> bool:
        """Whether a participant leaves claims open, so that there should be no more of them."""
        return bool(self._doubtful.get(participant))

    def close(self, transaction: Transaction, outcome: Outcome) -> None:
        """Makes the claim an outcome, however often that has to be tried."""
        self._answered(transaction)
        if not self._closing:
            self._spawn(self._force_closed())
        row = row_of(transaction, outcome, self._utc, ended=outcome is Outcome.ABORTED)
        self._closing.append((transaction, row))

    def commit(self, transaction: Transaction) -> None:
        """The participant has it: that stands, and is written down with the next force."""
        self._answered(transaction)
        row = row_of(transaction, Outcome.COMMITTED, self._utc, ended=True)
        self._known[row.txn_id] = row
        if not self._committed:
            asyncio.get_running_loop().call_soon(self._close_committed)
        self._committed.append(transaction)
        transaction.decide(row)

    def state(self, transaction: Transaction, outcome: Outcome, by: Signature) -> None:
        """Makes the claim what an operator says, however often that has to be tried.

        Its end is not written: its participant is told, and has to acknowledge.
        """
        self._answered(transaction)
        row = row_of(transaction, outcome, self._utc, ended=False)
        write = partial(self._force_stated, by)
        points = (BEFORE_DECISION, AFTER_DECISION)
        self._spawn(self._decider.force([(transaction, row)], write, self._closed, points))

    async def _force_stated(self, by: Signature, rows: Sequence[Decision]) -> Standing:
        pending = Outcome.PENDING
        stand = [(await self._decisions.force(row, by, over=pending)).stands for row in rows]
        return [row or LogDamaged("a claim was written and is not there") for row in stand]

    def known(self, row: Decision) -> Decision:
        """What is known of a row that was read: a commit stands before it is durable here."""
        return self._known.get(row.txn_id, row)

    def unwritten(self) -> dict[TxnId, Decision]:
        """The rows that `known` changes, for who reads many: taken before, since all may go."""
        return self._known.copy()

    def _answered(self, transaction: Transaction) -> None:
        for participant in transaction.participants.values():
            if doubtful := self._doubtful.get(participant):
                doubtful.discard(transaction.txn_id)

    async def _force_claims(self) -> None:
        those, self._claiming = self._claiming, []
        await self._decider.force(
            those, self._decisions.decide_all, self._claimed, (BEFORE_CLAIM, AFTER_CLAIM)
        )

    def _claimed(self, those: Deciding, stand: Standing) -> None:
        now_s = self._clock.monotonic()
        happened: list[Happened] = []
        for (transaction, _), row in zip(those, stand, strict=True):
            if not isinstance(row, Decision):
                _log.warning("claim of %s: %r", transaction.txn_id, row)
                continue
            transaction.decided_s = now_s
            if row.txn_id == transaction.txn_id and row.outcome is Outcome.PENDING:
                happened.append((transaction, protocol.ClaimStands()))
            else:
                # Of another who has the key; it may itself be a claim.
                self._let_go(transaction)
                transaction.decide(self.known(row))
                happened.append((transaction, protocol.OutcomeStands(Outcome.ABORTED)))
        if happened:
            self._metrics.took(Phase.CLAIM, now_s - those[0][0].began_s)
            self._deliver(happened)

    async def _force_closed(self) -> None:
        those, self._closing = self._closing, []
        self._metrics.took(Phase.PERFORM, self._clock.monotonic() - those[0][0].decided_s)
        await self._decider.force(
            those, self._decisions.close_all, self._closed, (BEFORE_DECISION, AFTER_DECISION)
        )

    def _closed(self, those: Deciding, stand: Standing) -> None:
        happened: list[Happened] = []
        aborted = 0
        for (transaction, _), row in zip(those, stand, strict=True):
            if not isinstance(row, Decision):
                _log.warning("outcome of %s: %r", transaction.txn_id, row)
                continue
            self._let_go(transaction)
            transaction.decide(row)
            aborted += row.outcome is Outcome.ABORTED
            happened.append((transaction, protocol.OutcomeStands(row.outcome)))
        if happened:
            self._metrics.decided(len(happened) - aborted, aborted)
            self._deliver(happened)

    def _close_committed(self) -> None:
        those, self._committed = self._committed, []
        self._crash_point(BEFORE_CLOSE)
        self._metrics.took(Phase.PERFORM, self._clock.monotonic() - those[0].decided_s)
        self._metrics.decided(len(those), 0)
        self._write(those)

    def _write(self, those: list[Transaction]) -> None:
        rows = [self._known[transaction.txn_id] for transaction in those]
        try:
            self._decisions.close_lazily(
                rows, lambda: self._durable(those), lambda: self._lost(those)
            )
        except StoreClosed:
            # The next start asks their participants.
            return
        except TxnError as error:
            _log.warning("%d outcomes: %r", len(those), error)
            self._spawn(self._write_again(those))

    async def _write_again(self, those: list[Transaction]) -> None:
        await self._clock.sleep(CLOSE_AGAIN_S)
        self._write(those)

    def _lost(self, those: list[Transaction]) -> None:
        """One of them cannot be written, and took the others with it."""
        self._spawn(self._close_each(those))

    async def _close_each(self, those: list[Transaction]) -> None:
        while those:
            rows = [self._known[transaction.txn_id] for transaction in those]
            stand = await attempt(self._decisions.close_all, rows)
            if any(isinstance(row, StoreClosed) for row in stand):
                # The next start asks their participants.
                return
            written = [isinstance(row, Decision) for row in stand]
            self._durable([each for each, is_ in zip(those, written, strict=True) if is_])
            those = [each for each, is_ in zip(those, written, strict=True) if not is_]
            await self._clock.sleep(CLOSE_AGAIN_S)

    def _durable(self, those: list[Transaction]) -> None:
        self._crash_point(AFTER_CLOSE)
        for transaction in those:
            self._let_go(transaction)
            self._known.pop(transaction.txn_id, None)
        self._ended(those)
