"""The engine: runs transactions by performing what protocol.py decides.

One coordinator drives many transactions on one event loop. A transaction belongs to the
coordinator, not to the call that started it: a caller that goes away changes nothing,
and one that comes back with the same key finds the same transaction.

Everything goes in batches: requests come many at a time, messages to a participant gather
in its lane (lane.py), outcomes gather before a force (deciding.py), and what comes back is
fed to the rules in one go. No transaction has a task of its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from heapq import nsmallest
from typing import Any, TypeAlias, cast

from txn import protocol
from txn.audit import AuditRecord
from txn.claiming import Claimer
from txn.clock import US_PER_S, Clock, SteadyUtc
from txn.config import CoordinatorConfig
from txn.crash_point import (
    AFTER_IDENTITY,
    AFTER_PRESUMED_ABORT,
    ANSWER_LEAVES,
    BEFORE_IDENTITY,
    BEFORE_PRESUMED_ABORT,
    DURING_RECOVERY,
    ENDED_ANSWER_LEAVES,
    ENDED_INQUIRY_ARRIVES,
    INQUIRY_ARRIVES,
    CrashPoint,
    no_crash,
)
from txn.crashing import around_transport
from txn.deciding import Decider
from txn.decision_log import DecisionLog, Standing
from txn.epoch_keeper import EpochKeeper
from txn.errors import (
    FieldViolation,
    ForceRefused,
    IdempotencyConflict,
    InvalidOperation,
    NotFound,
    OtherLog,
    Overloaded,
    ShuttingDown,
    TooOld,
    TxnError,
    UnknownParticipant,
)
from txn.explaining import RECORDS_SHOWN_MAX, Explanation, Now, explain
from txn.forcing import Forcer, Resolution
from txn.lane import Ask, Happened, Lane, Pace
from txn.metrics import NO_METRICS, Activity, CoordinatorMetrics
from txn.model import (
    Abort,
    Branch,
    BranchKey,
    Commit,
    CoordinatorInfo,
    Decision,
    Ended,
    Epoch,
    Message,
    Perform,
    Prepare,
    RequestKey,
    Resolve,
    TxnId,
    body_hash,
)
from txn.recovery import recover
from txn.state import Outcome, TransactionState, Vote
from txn.timeline import FINISHED_MAX, Mark, Moment
from txn.transaction import (
    Request,
    Result,
    Transaction,
    View,
    answer,
    result_of,
    view_of_active,
    view_of_decision,
    view_of_undecided,
)
from txn.transport import ParticipantTransport

# What a request has come to: it runs, it is decided already, or it was refused.
Begun: TypeAlias = Transaction | Decision | TxnError

_OVER = (TransactionState.COMMITTED, TransactionState.ABORTED)
# In one phase: nothing was done, and if there was another reason its coordinator died with it.
INTERRUPTED = "INTERRUPTED"
# Transactions that one alarm names.
ALARM_NAMED_MAX = 20

_log = logging.getLogger(__name__)


class Coordinator:
    """Runs transactions; see the module's docstring. Not thread-safe: one event loop owns it."""

    def __init__(
        self,
        *,
        config: CoordinatorConfig,
        log: DecisionLog,
        transport: ParticipantTransport,
        clock: Clock,
        rng: random.Random,
        new_txn_id: Callable[[str], str],
        crash_point: CrashPoint = no_crash,
        metrics: CoordinatorMetrics = NO_METRICS,
    ) -> None:
        """`new_txn_id(after)` returns a unique id that sorts above `after`, of up to 32 characters.

        The epoch and the name of the log are added to each, so that other coordinators know
        whose it is, and one over another log never answers for it. That ids ascend, whatever
        the wall clock does, is what makes `Batch.prepare_horizon` a promise.
        """
        self._config = config
        self._decisions = log
        self._transport = around_transport(transport, crash_point)
        self._clock = clock
        self._utc = SteadyUtc(clock)
        self._rng = rng
        self._new_txn_id = new_txn_id
        self._log_id = ""
        self._newest_id = ""
        self._crash_point = crash_point
        self._decider = Decider(
            log,
            retry=config.retry,
            clock=clock,
            utc=self._utc,
            rng=rng,
            crash_point=crash_point,
            spawn=self._spawn,
            deliver=self._feed,
            ended=self._forget,
            metrics=metrics,
        )
        self._claimer = Claimer(
            log,
            self._decider,
            clock=clock,
            utc=self._utc,
            crash_point=crash_point,
            spawn=self._spawn,
            deliver=self._feed,
            ended=self._forget,
            metrics=metrics,
        )
        self._forcer = Forcer(
            log, self._claimer, utc=self._utc, active=self._find_active, deliver=self._feed
        )
        self._writes: dict[type[protocol.Action], Callable[[Transaction, Any], None]] = {
            protocol.ForceOutcome: lambda t, action: self._decider.decide(t, action.outcome),
            protocol.WriteEnd: lambda t, _: self._decider.end(t),
            protocol.ForceClaim: lambda t, _: self._claimer.claim(t),
            protocol.ForceClosed: lambda t, action: self._claimer.close(t, action.outcome),
            protocol.WriteCommitted: lambda t, _: self._claimer.commit(t),
            protocol.ForceStated: lambda t, action: self._forcer.write_stated(t, action.outcome),
        }
        self._epochs = EpochKeeper(
            log, clock=clock, own_horizon=self._own_horizon, begin_above=self._begin_above
        )
        self._metrics = metrics
        self._active: dict[TxnId, Transaction] = {}
        # For who asks what became of them; without their operations.
        self._finished: deque[Transaction] = deque(maxlen=FINISHED_MAX)
        self._pace = Pace(config, clock, self._spawn, self._active.__len__)
        self._lanes: dict[str, Lane] = {}
        # In the order of their ids, since these ascend.
        self._preparing: dict[TxnId, None] = {}
        self._by_key: dict[tuple[str, str], Transaction] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving = False
        self._idle = asyncio.Event()
        self._idle.set()
        metrics.watch(self._activity)

    @property
    def participants(self) -> frozenset[str]:
        """Who may be named in a branch."""
        return self._config.participants

    async def identify(self) -> str:
        """The name of the log, which may have to be given to it. Nothing is decided yet."""
        self._crash_point(BEFORE_IDENTITY)
        self._log_id = await self._decisions.identity(f"-{self._rng.getrandbits(64):016x}")
        self._crash_point(AFTER_IDENTITY)
        return self._log_id

    async def start(self) -> int:
        """Recovers, then serves. Returns how many commits and claims were taken up again."""
        if not self._log_id:
            await self.identify()
        inherited = await self._epochs.begin(self._config.instance)
        newest = await self._decisions.newest_txn_id()
        if newest is not None:
            self._begin_above(newest)
            await self._resume_time(newest)
        count = await recover(self._decisions, inherited, self._resume)
        # Not before all claims are known: they hold the horizon back.
        await self._epochs.look()
        self._serving = True
        self._spawn(self._epochs.run())
        return count

    async def take_over(self, epoch: Epoch) -> int | None:
        """Ends the epoch of another coordinator, and goes on with what it has begun.

        That one decides nothing from then on, whatever it believes. Returns how many commits
        and claims were taken up; None when it was over already. Raises StoreError: try again.
        """
        count = await self._epochs.take_over(epoch, self._resume_all)
        if count is None:
            return None
        _log.warning("took over from epoch %d: %d transactions go on here", epoch, count)
        self._metrics.took_over(count)
        return count

    def info(self) -> CoordinatorInfo:
        """Which coordinator this is. Raises ShuttingDown before it has an epoch."""
        if not self._epochs.epoch:
            raise ShuttingDown("the coordinator is starting")
        instance = self._config.instance
        return CoordinatorInfo(self._log_id, self._epochs.epoch, instance, len(self._active))

    async def look(self) -> None:
        """Has `others` be those of now. Raises Fenced, or StoreError."""
        await self._epochs.look()

    def others(self) -> tuple[Standing, ...]:
        """The other coordinators of this log, as of a moment ago."""
        return self._epochs.others()

    async def _resume_all(self, inherited: frozenset[Epoch]) -> int:
        """Nobody else will: so this is tried until it is done, and again from the beginning."""
        attempt = 0
        while True:
            try:
                return await recover(self._decisions, inherited, self._resume)
            except TxnError as error:
                _log.warning("what was taken over is not known yet: %r", error)
            await self._clock.sleep(self._config.retry.wait_s(attempt, self._rng))
            attempt += 1

    async def _resume_time(self, newest: TxnId) -> None:
        row = await self._decisions.by_txn_id(newest)
        if row is not None and (behind_s := self._utc.resume(row.decided_at_us)) >= 1.0:
            _log.warning("the clock is %.0f s behind the newest outcome of the log", behind_s)

    async def close(self, grace_s: float) -> None:
        """Refuses new transactions, lets active ones finish for `grace_s`, then stops driving.

        What is still active is finished by the next start: nothing is lost by stopping.
        """
        self._serving = False
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("closing with %d transactions active", len(self._active))
        # The last ends have gathered and go in the next turn.
        await asyncio.sleep(0)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def execute(
        self,
        *,
        caller: str,
        idempotency_key: str,
        branches: Sequence[Branch],
        wait_s: float,
        wait_for_applied: bool = True,
    ) -> Result:
        """Runs one transaction, or joins the one that this key stands for; waits up to `wait_s`.

        Raises IdempotencyConflict, InvalidOperation (no branches, or two of one name),
        UnknownParticipant, Overloaded or ShuttingDown; then nothing was done. A PENDING
        result resolves later: call again with the same key.
        """
        request = Request(caller, idempotency_key, branches, wait_for_applied)
        (begun,) = await self.begin([request])
        if isinstance(begun, Transaction):
            await self._wait(begun, wait_s, wait_for_applied=wait_for_applied)
        return conclude(request, begun)

    async def begin(self, requests: Sequence[Request]) -> list[Begun]:
        """Starts each request, or finds what its key stands for; never waits for an outcome.

        Watch the transactions and call `conclude` when they are final. Errors are those of
        `execute`, in place of what they belong to: one bad request does not harm the others.
        """
        found: list[Begun | RequestKey] = [self._identified(request) for request in requests]
        names = [
            (key.caller, key.idempotency_key)
            for key in found
            if isinstance(key, RequestKey) and (key.caller, key.idempotency_key) not in self._by_key
        ]
        logged = await self._decisions.by_keys(names) if names else {}
        return [
            self._found_or_begun(request, key, logged) if isinstance(key, RequestKey) else key
            for request, key in zip(requests, found, strict=True)
        ]

    async def inquire(self, txn_ids: Sequence[TxnId]) -> list[Outcome | TxnError]:
        """Answers a participant in doubt: PENDING while active, else what the log says for ever.

        Where the log says nothing the abort is written first, so that the answer is never
        taken from mere absence. OtherLog stands in the place of a transaction that another
        log decides, TooOld in that of one that the log may have forgotten. Raises ShuttingDown
        before recovery is through.
        """
        self._refuse_unless_serving()
        self._crash_point(INQUIRY_ARRIVES)
        answers: dict[TxnId, Outcome | TxnError] = {}
        unknown: list[TxnId] = []
        elsewhere: list[TxnId] = []
        if any(map(self._epochs.is_news, txn_ids)):
            await self._epochs.look()
        for txn_id in txn_ids:
            if not txn_id.endswith(self._log_id):
                answers[txn_id] = OtherLog("the transaction belongs to another coordinator's log")
            elif (active := self._active.get(txn_id)) is not None:
                answers[txn_id] = active.progress.durable or Outcome.PENDING
            elif self._epochs.stands_elsewhere(txn_id):
                elsewhere.append(txn_id)
            else:
                unknown.append(txn_id)
        answers.update(await self._decided_elsewhere(elsewhere))
        answers.update(await self._presume_aborted(unknown))
        self._crash_point(ANSWER_LEAVES)
        return [answers[txn_id] for txn_id in txn_ids]

    async def ended(self, txn_ids: Sequence[TxnId]) -> Ended:
        """Tells a participant which of its committed transactions nobody will ask about again.

        Raises ShuttingDown before recovery is through.
        """
        self._refuse_unless_serving()
        self._crash_point(ENDED_INQUIRY_ARRIVES)
        horizon = self._prepare_horizon()
        if horizon is None:
            return Ended(frozenset(), None)
        own = [each for each in txn_ids if each.endswith(self._log_id) and each < horizon]
        ended = await self._decisions.ended(own) if own else frozenset()
        self._crash_point(ENDED_ANSWER_LEAVES)
        return Ended(ended, horizon)

    async def _decided_elsewhere(self, txn_ids: Sequence[TxnId]) -> dict[TxnId, Outcome]:
        """What another coordinator has decided, as long as it may: PENDING where it has not."""
        rows = await self._decisions.by_txn_ids(txn_ids) if txn_ids else {}
        return {
            txn_id: rows[txn_id].outcome if txn_id in rows else Outcome.PENDING
            for txn_id in txn_ids
        }

    async def _presume_aborted(
        self, txn_ids: Sequence[TxnId]
    ) -> Iterable[tuple[TxnId, Outcome | TxnError]]:
        if not txn_ids:
            return ()
        now_us = self._utc.written_us()
        self._crash_point(BEFORE_PRESUMED_ABORT)
        stand = await self._decisions.decide_all(
            [
                Decision(txn_id, Outcome.ABORTED, None, (), now_us, reason="INQUIRY", ended=True)
                for txn_id in txn_ids
            ]
        )
        self._crash_point(AFTER_PRESUMED_ABORT)
        if old := [
            txn_id for txn_id, row in zip(txn_ids, stand, strict=True) if isinstance(row, TooOld)
        ]:
            # Who still asks was away for longer than the log remembers, or is an old backup.
            named = ", ".join(old[:ALARM_NAMED_MAX])
            _log.critical("ALARM %d in doubt are older than the log: %s", len(old), named)
        return [
            (txn_id, row.outcome if isinstance(row, Decision) else row)
            for txn_id, row in zip(txn_ids, stand, strict=True)
        ]

    async def get(self, txn_id: TxnId) -> View:
        """One transaction. Raises NotFound or StoreError."""
        if (active := self._active.get(txn_id)) is not None:
            return self._shown(active)
        elsewhere = await self._stands_elsewhere(txn_id)
        if (decision := await self._decisions.by_txn_id(txn_id)) is not None:
            return view_of_decision(self._claimer.known(decision))
        if elsewhere:
            return view_of_undecided(txn_id)
        raise NotFound(f"no transaction {txn_id}")

    async def get_by_key(self, caller: str, idempotency_key: str) -> View:
        """The transaction that a key stands for. Raises NotFound: then a retry is safe."""
        name = (caller, idempotency_key)
        if (active := self._by_key.get(name)) is not None:
            winner = active.lost_to()
            return self._shown(active) if winner is None else view_of_decision(winner)
        decision = (await self._decisions.by_keys([name])).get(name)
        if decision is None:
            raise NotFound("no transaction under this idempotency_key")
        return view_of_decision(self._claimer.known(decision))

    async def list_transactions(
        self, *, after: str, limit: int, unfinished_only: bool
    ) -> list[View]:
        """Transactions with a txn_id above `after`, ascending: those that have a row.

        Those that are unfinished need none: what is active here is among them.
        """
        unwritten = self._claimer.unwritten()
        decisions = await self._decisions.list_decisions(
            after=after, limit=limit + len(unwritten), unfinished_only=unfinished_only
        )
        known = [unwritten.get(row.txn_id) or self._claimer.known(row) for row in decisions]
        wanted = [each for each in known if not (unfinished_only and each.ended)]
        shown = {each.txn_id: view_of_decision(each) for each in wanted}
        # Looked at only now: what has finished during the read has an end, or is one of those.
        for txn_id in nsmallest(limit, [each for each in self._active if each > after]):
            if unfinished_only or txn_id in shown:
                shown[txn_id] = self._shown(self._active[txn_id])
        return [shown[txn_id] for txn_id in sorted(shown)[:limit]]

    async def explain(self, txn_id: TxnId) -> Explanation:
        """All that is known here of one transaction.

        Raises NotFound where that is nothing, or StoreError.
        """
        elsewhere = await self._stands_elsewhere(txn_id)
        records = await self._decisions.list_audit(after=0, limit=RECORDS_SHOWN_MAX, txn_id=txn_id)
        row = await self._decisions.by_txn_id(txn_id)
        row = None if row is None else self._claimer.known(row)
        active = self._active.get(txn_id)
        finished = next((each for each in self._finished if each.txn_id == txn_id), None)
        view = None if row is None else view_of_decision(row)
        if active is not None:
            view = self._shown(active)
        elif row is None and elsewhere:
            view = view_of_undecided(txn_id)
        if view is None and finished is None and not records:
            raise NotFound(f"nothing is known of {txn_id}")
        now = Now(self._clock.monotonic(), self._clock.utc_us())
        return explain(txn_id, view, active or finished, row, records, now)

    async def resolve(
        self, txn_id: TxnId, resolution: Resolution, *, operator: str, reason: str
    ) -> AuditRecord:
        """Does by force what an operator says, see forcing.py; durable on return.

        Raises ForceRefused, InvalidOperation, OtherLog, TooOld or ShuttingDown, or what the
        store says: then nothing was changed.
        """
        self._refuse_unless_serving()
        if not txn_id.endswith(self._log_id):
            raise OtherLog("the transaction belongs to another coordinator's log")
        if await self._stands_elsewhere(txn_id):
            raise ForceRefused("active elsewhere", "the coordinator of its epoch decides it")
        return await self._forcer.force(txn_id, resolution, operator, reason)

    async def list_audit(self, *, after: int, limit: int) -> Sequence[AuditRecord]:
        """What operators have forced, in the order of the records' numbers."""
        return await self._decisions.list_audit(after=after, limit=limit)

    async def _stands_elsewhere(self, txn_id: TxnId) -> bool:
        """Whether another coordinator may still decide it; to be asked before its row is read.

        Asked afterwards, one that was decided and whose coordinator has ended since would be
        taken for one that never was.
        """
        if not txn_id.endswith(self._log_id):
            return False
        if self._epochs.is_news(txn_id):
            await self._epochs.see()
        return self._epochs.stands_elsewhere(txn_id)

    def _find_active(self, txn_id: TxnId) -> Transaction | None:
        return self._active.get(txn_id)

    def _shown(self, active: Transaction) -> View:
        return view_of_active(active, self._clock.monotonic())

    async def _wait(
        self, transaction: Transaction, wait_s: float, *, wait_for_applied: bool
    ) -> None:
        final: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def watcher() -> None:
            if transaction.final(wait_for_applied=wait_for_applied) and not final.done():
                final.set_result(None)

        transaction.watch(watcher)
        watcher()
        try:
            async with asyncio.timeout(wait_s):
                await final
        except TimeoutError:
            pass
        finally:
            transaction.unwatch(watcher)

    def _identified(self, request: Request) -> RequestKey | TxnError:
        try:
            self._refuse_unless_serving()
            _refuse_malformed(request.branches)
            for index, branch in enumerate(request.branches):
                if branch.participant not in self._config.participants:
                    raise UnknownParticipant(index, branch.participant)
        except TxnError as error:
            return error
        return RequestKey(request.caller, request.idempotency_key, body_hash(request.branches))

    def _found_or_begun(
        self, request: Request, key: RequestKey, logged: dict[tuple[str, str], Decision]
    ) -> Begun:
        name = (key.caller, key.idempotency_key)
        # Looked up only now: another call may have begun it during the read.
        found: Transaction | Decision | None = self._by_key.get(name)
        if found is None and (decision := logged.get(name)) is not None:
            # A commit that is still being applied is active, under its own id.
            found = self._active.get(decision.txn_id) or self._claimer.known(decision)
        try:
            if found is None:
                self._refuse_unless_serving()
                return self._begin(key, request.branches)
            _refuse_other_body(found.request, key)
        except TxnError as error:
            return error
        return found

    def _refuse_unless_serving(self) -> None:
        if not self._serving:
            raise ShuttingDown("the coordinator is starting or draining")

    def _begin(self, request: RequestKey, branches: Sequence[Branch]) -> Transaction:
        if len(self._active) >= self._config.max_active:
            raise Overloaded(f"{self._config.max_active} transactions are active")
        self._newest_id = self._new_txn_id(self._newest_id)
        txn_id = TxnId(f"{self._newest_id}.{self._epochs.epoch}{self._log_id}")
        if self._takes_one_phase(branches):
            progress, actions = protocol.begin_in_one_phase(branches[0].branch_id)
        else:
            progress, actions = protocol.begin([branch.branch_id for branch in branches])
            self._preparing[txn_id] = None
        transaction = Transaction(
            txn_id,
            request,
            {branch.branch_id: branch.participant for branch in branches},
            {branch.branch_id: branch.operation for branch in branches},
            progress,
        )
        self._activate(transaction, actions)
        return transaction

    def _takes_one_phase(self, branches: Sequence[Branch]) -> bool:
        return (
            len(branches) == 1
            and self._config.one_phase
            and self._transport.offers_one_phase(branches[0].participant)
            # What two phases begin can be aborted in time.
            and not self._claimer.owes_an_answer(branches[0].participant)
        )

    def _begin_above(self, newest: TxnId) -> None:
        name = newest.removesuffix(self._log_id)
        name, dot, epoch = name.rpartition(".")
        self._newest_id = max(self._newest_id, name if dot else epoch)

    def _resume(self, decision: Decision) -> None:
        if decision.txn_id in self._active:
            return
        assert decision.request is not None, "only aborts that were inquired about have no key"
        claimed = decision.outcome is Outcome.PENDING
        if claimed:
            progress, actions = protocol.resume_claim(decision.branches[0].branch_id, INTERRUPTED)
        elif decision.outcome is Outcome.ABORTED:
            progress, actions = protocol.resume_abort(each.branch_id for each in decision.branches)
        else:
            progress, actions = protocol.resume(
                (branch.branch_id, branch.vote) for branch in decision.branches
            )
        transaction = Transaction(
            decision.txn_id,
            decision.request,
            {branch.branch_id: branch.participant for branch in decision.branches},
            {},
            progress,
        )
        transaction.moments.append((self._clock.monotonic(), Mark.RESUMED, "", 0))
        age_us = self._clock.utc_us() - decision.decided_at_us
        transaction.age_before_s = max(0.0, age_us / US_PER_S)
        if claimed:
            self._claimer.hold_back(transaction)
        else:
            transaction.decide(decision)
        self._activate(transaction, actions)
        self._crash_point(DURING_RECOVERY)

    def _activate(self, transaction: Transaction, actions: Iterable[protocol.Action]) -> None:
        transaction.began_s = transaction.decided_s = self._clock.monotonic()
        self._active[transaction.txn_id] = transaction
        self._idle.clear()
        request = transaction.request
        self._by_key[request.caller, request.idempotency_key] = transaction
        self._perform(transaction, actions)
        if transaction.progress.state in _OVER:
            self._retire(transaction)

    def _feed(self, happened: Sequence[Happened]) -> None:
        now_s = self._clock.monotonic()
        moment: Moment | None = None
        for transaction, event in happened:
            # One for all that are alike: what is kept of a transaction should be little.
            if moment is None or moment[1] is not event:
                moment = (now_s, event, "", 0)
            transaction.moments.append(moment)
            transaction.progress, actions = protocol.step(transaction.progress, event)
            if actions:
                self._perform(transaction, actions)
            if transaction.progress.state in _OVER:
                self._retire(transaction)

    def _perform(self, transaction: Transaction, actions: Iterable[protocol.Action]) -> None:
        if transaction.progress.state is not TransactionState.PREPARING:
            self._preparing.pop(transaction.txn_id, None)
        for action in actions:
            write = self._writes.get(type(action))
            if write is None:
                self._ask(transaction, cast("protocol.Send", action))
            else:
                write(transaction, action)

    def _ask(self, transaction: Transaction, action: protocol.Send) -> None:
        branch_id = action.branch_id
        key = BranchKey(transaction.txn_id, branch_id)
        message: Message
        until_s = 0.0
        if isinstance(action, protocol.SendPrepare):
            message = Prepare(key, self._config.name, transaction.operations[branch_id])
            until_s = self._clock.monotonic() + self._config.prepare_timeout_s
        elif isinstance(action, protocol.SendCommit):
            message = Commit(key)
        elif isinstance(action, protocol.SendPerform):
            message = Perform(key, self._config.name, transaction.operations[branch_id])
            until_s = self._clock.monotonic() + self._config.prepare_timeout_s
        elif isinstance(action, protocol.SendResolve):
            message = Resolve(key)
            self._claimer.doubt(transaction, transaction.participants[branch_id])
        else:
            message = Abort(key)
            # Who was told by an operator does not ask.
            until_s = math.inf if transaction.owes_an_end() else 0.0
        lane = self._lane(transaction.participants[branch_id])
        lane.ask(Ask(transaction, branch_id, message, until_s))

    def _lane(self, participant: str) -> Lane:
        lane = self._lanes.get(participant)
        if lane is None:
            lane = self._lanes[participant] = Lane(
                participant,
                config=self._config,
                transport=self._transport,
                clock=self._clock,
                rng=self._rng,
                spawn=self._spawn,
                deliver=self._feed,
                pace=self._pace,
                prepare_horizon=partial(self._prepare_horizon, participant),
                confirm=self._epochs.look,
                metrics=self._metrics,
            )
        return lane

    def _activity(self) -> Activity:
        active = tuple(self._active.values())
        age_s = self._clock.monotonic() - active[0].began_s if active else 0.0
        return Activity(len(active), age_s, 1 + len(self._epochs.others()))

    def _prepare_horizon(self, participant: str | None = None) -> TxnId | None:
        """Below it no transaction of this log prepares, or ever will: later ids are above.

        Nor has it a claim that is open at that participant, or at any: what became of that may
        have to be asked there yet. The same holds for the other coordinators of the log, see
        EpochKeeper. Never above what was durable when it was looked at, so that it holds for
        those that begin later, too: their ids begin above the newest row of the log.
        """
        horizon = self._epochs.horizon
        return None if horizon is None else self._own_horizon(horizon, participant)

    def _own_horizon(self, newest: TxnId, participant: str | None = None) -> TxnId:
        claimed = self._claimer.oldest_open(participant) or newest
        return min(next(iter(self._preparing), newest), claimed, newest)

    def _forget(self, ended: Sequence[Transaction]) -> None:
        """Their ends are durable: no recovery will ask the participants again."""
        keys: dict[str, list[BranchKey]] = {}
        moment: Moment = (self._clock.monotonic(), Mark.END_DURABLE, "", 0)
        for transaction in ended:
            transaction.moments.append(moment)
            for branch_id, branch in transaction.progress.branches.items():
                if branch.vote is Vote.COMMIT:
                    key = BranchKey(transaction.txn_id, branch_id)
                    keys.setdefault(transaction.participants[branch_id], []).append(key)
        for participant, those in keys.items():
            self._lane(participant).forget(those)

    def _retire(self, transaction: Transaction) -> None:
        if self._active.pop(transaction.txn_id, None) is None:
            return
        transaction.finish()
        if transaction.owes_an_end():
            self._decider.end(transaction)
        transaction.operations = {}
        self._finished.append(transaction)
        request = transaction.request
        if self._by_key.get(name := (request.caller, request.idempotency_key)) is transaction:
            # It may be that of one that was taken over meanwhile.
            del self._by_key[name]
        if not self._active:
            self._idle.set()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("a driver of transactions failed", exc_info=error)


def conclude(request: Request, begun: Begun) -> Result:
    """What the caller is told now. Raises what stands in place of a result."""
    if isinstance(begun, TxnError):
        raise begun
    if isinstance(begun, Decision):
        return result_of(begun)
    if (winner := begun.lost_to()) is not None:
        _refuse_other_body(winner.request, begun.request)
    return answer(begun, wait_for_applied=request.wait_for_applied)


def _refuse_malformed(branches: Sequence[Branch]) -> None:
    if not branches:
        raise InvalidOperation([FieldViolation("branches", "branches.some", "must not be empty")])
    if len({branch.branch_id for branch in branches}) < len(branches):
        raise InvalidOperation(
            [FieldViolation("branches", "branches.unique", "branch_id must be unique")]
        )


def _refuse_other_body(first: RequestKey | None, request: RequestKey) -> None:
    if first is None or first.body_hash != request.body_hash:
        raise IdempotencyConflict("idempotency_key was used for other branches")
