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

from txn import protocol
from txn.clock import Clock
from txn.crash_point import CrashPoint, no_crash
from txn.decision_log import DecisionLog
from txn.errors import (
    FieldViolation,
    IdempotencyConflict,
    InvalidOperation,
    NotFound,
    OtherLog,
    Overloaded,
    ShuttingDown,
    UnknownParticipant,
)
from txn.model import (
    Branch,
    BranchKey,
    Decision,
    Prepare,
    RequestKey,
    TxnId,
    body_hash,
)
from txn.phases import CoordinatorConfig, Phases
from txn.recovery import recover
from txn.state import Outcome, TransactionState
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
        new_txn_id: Callable[[], str],
        crash_point: CrashPoint = no_crash,
    ) -> None:
        """Ids from `new_txn_id` are unique, sort by age, and have at most 47 characters.

        The name of the log is added to each, so that a coordinator over another log never
        answers for it.
        """
        self._config = config
        self._decisions = log
        self._clock = clock
        self._rng = rng
        self._new_txn_id = new_txn_id
        self._log_id = ""
        self._phases = Phases(config, log, transport, clock=clock, rng=rng, crash_point=crash_point)
        self._active: dict[TxnId, Transaction] = {}
        self._by_key: dict[tuple[str, str], Transaction] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> int:
        """Recovers, then serves. Returns how many commits were taken up again."""
        self._log_id = await self._decisions.identity(f"-{self._rng.getrandbits(64):016x}")
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
        taken from mere absence. Raises ShuttingDown before recovery is through, and
        OtherLog for a transaction that another log decides.
        """
        self._refuse_unless_serving()
        if not txn_id.endswith(self._log_id):
            raise OtherLog("the transaction belongs to another coordinator's log")
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
        txn_id = TxnId(self._new_txn_id() + self._log_id)
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
        """Performs one action and feeds back what came of it."""
        match action:
            case protocol.SendPrepare(branch_id):
                self._feed(transaction, await self._phases.prepare(transaction, branch_id))
            case protocol.ForceOutcome(outcome):
                self._feed(transaction, await self._phases.force(transaction, outcome))
            case protocol.SendCommit(branch_id):
                self._feed(transaction, await self._phases.commit(transaction, branch_id))
            case protocol.SendAbort(branch_id):
                self._feed(transaction, await self._phases.abort(transaction, branch_id))
            case protocol.WriteEnd():
                await self._decisions.end(transaction.txn_id)


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
