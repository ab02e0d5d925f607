"""The engine: runs transactions by performing what protocol.py decides.

One coordinator drives many transactions on one event loop. A transaction belongs to the
coordinator, not to the call that started it: a caller that goes away changes nothing,
and one that comes back with the same key finds the same transaction.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field

from txn import protocol
from txn.clock import Backoff, Clock
from txn.crash_point import AFTER_DECISION, CrashPoint, no_crash
from txn.decision_log import DecisionLog
from txn.errors import (
    Alarm,
    FieldViolation,
    IdempotencyConflict,
    InvalidOperation,
    NotFound,
    Overloaded,
    Refused,
    ShuttingDown,
    UnknownParticipant,
    Unreachable,
)
from txn.model import (
    Branch,
    BranchId,
    BranchKey,
    Decision,
    Prepare,
    RequestKey,
    TxnId,
    body_hash,
)
from txn.recovery import recover
from txn.state import Outcome, TransactionState, Vote
from txn.transaction import (
    Result,
    Transaction,
    View,
    answer,
    result_of,
    view_of_active,
    view_of_decision,
)
from txn.transport import ParticipantTransport

PARTICIPANT_UNAVAILABLE = "PARTICIPANT_UNAVAILABLE"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CoordinatorConfig:
    """Limits and intervals. `name` is the service name under which participants ask back."""

    name: str
    participants: frozenset[str]
    prepare_timeout_s: float = 5.0
    attempt_timeout_s: float = 2.0
    abort_attempts: int = 5
    max_active: int = 10_000
    alarm_retry_s: float = 30.0
    retry: Backoff = field(default_factory=lambda: Backoff(initial_s=0.05, max_s=2.0))

    def __post_init__(self) -> None:
        if not self.participants:
            raise ValueError("participants must not be empty")
        if min(self.prepare_timeout_s, self.attempt_timeout_s) <= 0:
            raise ValueError("timeouts must be positive")
        if min(self.abort_attempts, self.max_active) < 1:
            raise ValueError("abort_attempts and max_active must be at least 1")


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
        new_txn_id: Callable[[], TxnId],
        crash_point: CrashPoint = no_crash,
    ) -> None:
        self._config = config
        self._decisions = log
        self._transport = transport
        self._clock = clock
        self._rng = rng
        self._new_txn_id = new_txn_id
        self._crash_point = crash_point
        self._active: dict[TxnId, Transaction] = {}
        self._by_key: dict[tuple[str, str], Transaction] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> int:
        """Recovers, then serves. Returns how many commits were taken up again."""
        count = await recover(self._decisions, self._resume)
        self._serving = True
        return count

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
        request = RequestKey(caller, idempotency_key, body_hash(branches))
        found = await self._find_or_begin(request, branches)
        if isinstance(found, Decision):
            return result_of(found)
        try:
            async with asyncio.timeout(wait_s):
                await found.decided.wait()
                if wait_for_applied:
                    await found.applied.wait()
        except TimeoutError:
            pass
        if (winner := found.lost_to()) is not None:
            _refuse_other_body(winner.request, request)
        return answer(found, wait_for_applied=wait_for_applied)

    async def inquire(self, txn_id: TxnId) -> Outcome:
        """Answers a participant in doubt: PENDING while active, else what the log says for ever.

        Where the log says nothing the abort is written first, so that the answer is never
        taken from mere absence. Raises ShuttingDown before recovery is through.
        """
        self._refuse_unless_serving()
        active = self._active.get(txn_id)
        if active is not None:
            return active.progress.durable or Outcome.PENDING
        abort = Decision(
            txn_id, Outcome.ABORTED, None, (), self._clock.utc_us(), reason="INQUIRY", ended=True
        )
        return (await self._decisions.decide(abort)).outcome

    async def get(self, txn_id: TxnId) -> View:
        """One transaction. Raises NotFound."""
        if (active := self._active.get(txn_id)) is not None:
            return view_of_active(active)
        if (decision := await self._decisions.by_txn_id(txn_id)) is not None:
            return view_of_decision(decision)
        raise NotFound(f"no transaction {txn_id}")

    async def get_by_key(self, caller: str, idempotency_key: str) -> View:
        """The transaction that a key stands for. Raises NotFound: then a retry is safe."""
        if (active := self._by_key.get((caller, idempotency_key))) is not None:
            winner = active.lost_to()
            return view_of_active(active) if winner is None else view_of_decision(winner)
        decision = await self._decisions.by_key(caller, idempotency_key)
        if decision is None:
            raise NotFound("no transaction under this idempotency_key")
        return view_of_decision(decision)

    async def list_transactions(
        self, *, after: str, limit: int, unfinished_only: bool
    ) -> list[View]:
        """Logged transactions with a txn_id above `after`, ascending."""
        decisions = await self._decisions.list_decisions(
            after=after, limit=limit, unfinished_only=unfinished_only
        )
        return [view_of_decision(decision) for decision in decisions]

    async def _find_or_begin(
        self, request: RequestKey, branches: Sequence[Branch]
    ) -> Transaction | Decision:
        self._refuse_unless_serving()
        _refuse_malformed(branches)
        for index, branch in enumerate(branches):
            if branch.participant not in self._config.participants:
                raise UnknownParticipant(index, branch.participant)
        name = (request.caller, request.idempotency_key)
        if name not in self._by_key:
            decision = await self._decisions.by_key(*name)
            if decision is not None:
                _refuse_other_body(decision.request, request)
                # A commit that is still being applied is active, under its own id.
                return self._active.get(decision.txn_id, decision)
            self._refuse_unless_serving()
        # Looked up again: another call may have begun it during the read.
        active = self._by_key.get(name)
        if active is None:
            return self._begin(request, branches)
        _refuse_other_body(active.request, request)
        return active

    def _refuse_unless_serving(self) -> None:
        if not self._serving:
            raise ShuttingDown("the coordinator is starting or draining")

    def _begin(self, request: RequestKey, branches: Sequence[Branch]) -> Transaction:
        if len(self._active) >= self._config.max_active:
            raise Overloaded(f"{self._config.max_active} transactions are active")
        txn_id = self._new_txn_id()
        progress, actions = protocol.begin(branch.branch_id for branch in branches)
        transaction = Transaction(
            txn_id,
            request,
            {branch.branch_id: branch.participant for branch in branches},
            {
                branch.branch_id: Prepare(
                    BranchKey(txn_id, branch.branch_id), self._config.name, branch.operation
                )
                for branch in branches
            },
            progress,
        )
        self._activate(transaction, actions)
        return transaction

    def _resume(self, decision: Decision) -> None:
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
        transaction.stands = decision
        transaction.decided.set()
        self._activate(transaction, actions)

    def _activate(self, transaction: Transaction, actions: tuple[protocol.Action, ...]) -> None:
        self._active[transaction.txn_id] = transaction
        if (request := transaction.request) is not None:
            self._by_key[request.caller, request.idempotency_key] = transaction
        self._perform(transaction, actions)

    def _feed(self, transaction: Transaction, event: protocol.Event) -> None:
        transaction.progress, actions = protocol.step(transaction.progress, event)
        self._perform(transaction, actions)

    def _perform(self, transaction: Transaction, actions: tuple[protocol.Action, ...]) -> None:
        for action in actions:
            self._spawn(self._drive(transaction, action))
        if transaction.progress.state in (TransactionState.COMMITTED, TransactionState.ABORTED):
            self._retire(transaction)

    def _retire(self, transaction: Transaction) -> None:
        if self._active.pop(transaction.txn_id, None) is None:
            return
        transaction.applied.set()
        if (request := transaction.request) is not None:
            self._by_key.pop((request.caller, request.idempotency_key), None)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        self._idle.clear()
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            # Each active transaction has a driver; the last ones only write ends.
            self._idle.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("a transaction's driver failed", exc_info=error)

    async def _drive(self, transaction: Transaction, action: protocol.Action) -> None:
        """Performs one action and feeds back what came of it.

        It must get there whatever happens: a driver that died would leave its transaction
        active, and the participants in doubt, until the next start. So what is unexpected
        counts as "no answer", after which every action may be done again.
        """
        match action:
            case protocol.SendPrepare(branch_id):
                self._feed(transaction, await self._prepare(transaction, branch_id))
            case protocol.ForceOutcome(outcome):
                self._feed(transaction, await self._force(transaction, outcome))
            case protocol.SendCommit(branch_id):
                await self._settle(transaction, branch_id, self._transport.commit, None)
                self._feed(transaction, protocol.Settled(branch_id))
            case protocol.SendAbort(branch_id):
                await self._settle(
                    transaction, branch_id, self._transport.abort, self._config.abort_attempts
                )
                self._feed(transaction, protocol.Settled(branch_id))
            case protocol.WriteEnd():
                await self._decisions.end(transaction.txn_id)

    async def _prepare(self, transaction: Transaction, branch_id: BranchId) -> protocol.Event:
        """Asks until there is an answer, the time is up, or the transaction is lost anyway.

        Asking again is safe: a participant answers a repeated prepare with its first vote.
        """
        message = transaction.operations[branch_id]
        participant = transaction.participants[branch_id]
        deadline = self._clock.monotonic() + self._config.prepare_timeout_s
        attempt = 0
        while (left_s := deadline - self._clock.monotonic()) > 0:
            timeout_s = min(left_s, self._config.attempt_timeout_s)
            try:
                reply = await self._transport.prepare(participant, message, timeout_s)
                return protocol.Voted(branch_id, reply.vote, reply.reason)
            except Refused as refused:
                return protocol.Voted(branch_id, Vote.ABORT, refused.reason)
            except Unreachable as error:
                _log.info("prepare %s at %s: %s", message.key, participant, error)
            except Exception:  # noqa: BLE001 - see _drive
                _log.exception("prepare %s at %s", message.key, participant)
            if transaction.progress.state is not TransactionState.PREPARING:
                break
            await self._clock.sleep(self._config.retry.wait_s(attempt, self._rng))
            attempt += 1
        return protocol.PrepareFailed(branch_id, PARTICIPANT_UNAVAILABLE)

    async def _force(self, transaction: Transaction, outcome: Outcome) -> protocol.Event:
        """Writes the outcome row; the row that stands rules, not the one that was meant."""
        progress = transaction.progress
        decision = Decision(
            transaction.txn_id,
            outcome,
            transaction.request,
            transaction.logged_branches(),
            self._clock.utc_us(),
            reason=progress.reason,
            refused_branch_id=progress.refused_branch_id,
            ended=outcome is Outcome.ABORTED,
        )
        attempt = 0
        while True:
            try:
                stands = await self._decisions.decide(decision)
                break
            except Exception as error:  # noqa: BLE001 - see _drive
                # Nothing may be answered before it stands. Deciding again is safe, whether
                # or not the row was written: the row that stands is read back.
                _log.warning("decision of %s: %r", transaction.txn_id, error)
                await self._clock.sleep(self._config.retry.wait_s(attempt, self._rng))
                attempt += 1
        self._crash_point(AFTER_DECISION)
        transaction.stands = stands
        transaction.decided.set()
        mine = stands.txn_id == transaction.txn_id
        return protocol.OutcomeStands(stands.outcome if mine else Outcome.ABORTED)

    async def _settle(
        self,
        transaction: Transaction,
        branch_id: BranchId,
        send: Callable[[str, BranchKey, float], Coroutine[object, object, None]],
        attempts: int | None,
    ) -> None:
        """Sends phase two until acknowledged. Aborts are given up on: their participant asks."""
        key = BranchKey(transaction.txn_id, branch_id)
        participant = transaction.participants[branch_id]
        attempt = 0
        while attempts is None or attempt < attempts:
            try:
                await send(participant, key, self._config.attempt_timeout_s)
            except Alarm as alarm:
                # Never success: the branch stays unsettled, and is shown as such, until
                # somebody has looked.
                _log.critical("ALARM %s at %s: %s", key, participant, alarm)
                await self._clock.sleep(self._config.alarm_retry_s)
                continue
            except Unreachable as error:
                _log.info("phase two of %s at %s: %s", key, participant, error)
            except Exception:  # noqa: BLE001 - see _drive
                _log.exception("phase two of %s at %s", key, participant)
            else:
                return
            await self._clock.sleep(self._config.retry.wait_s(attempt, self._rng))
            attempt += 1


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
