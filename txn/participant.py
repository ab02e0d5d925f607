"""The participant's side: votes, and applies.

A participant wraps the business code of one kind of operation (resource.py). Barrier row
and business change are one piece of work in one local transaction, so there is no moment
at which one is there without the other. A vote, and an acknowledgement, leave only after
the force. Messages that come at the same time, on whatever way, are one group.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from txn import barrier
from txn.barrier import OnAbort, OnCommit, OnPerform, OnPrepare, OnResolve
from txn.branch_table import BranchTable
from txn.clock import Clock
from txn.crash_point import (
    AFTER_FORGETTING,
    BEFORE_FORGETTING,
    FORGET_ARRIVES,
    CrashPoint,
    no_crash,
)
from txn.crashing import around_answers, around_store
from txn.errors import (
    Alarm,
    BranchForgotten,
    Busy,
    FieldViolation,
    IdempotencyConflict,
    InvalidOperation,
    NotFound,
    Refused,
    ResourceFailed,
    StoreFull,
    TxnError,
    Unreachable,
)
from txn.metrics import NO_METRICS, ParticipantMetrics
from txn.model import (
    ONE_PHASE,
    TO_DO,
    TOLD,
    Abort,
    Batch,
    BranchKey,
    BranchRow,
    Commit,
    Message,
    Operation,
    Perform,
    Prepare,
    Reply,
    Resolve,
    TxnId,
    VoteReply,
    log_id_of,
)
from txn.resource import REFUSED, BatchResource, Codec, Item, OneAtATime, Resource
from txn.state import BRANCH_MOVES, BranchState, Vote, move
from txn.store.group_commit import Done, Failed, Store, write_unhurried

LATE_PREPARE = "LATE_PREPARE"
INVALID_OPERATION = "INVALID_OPERATION"

_log = logging.getLogger(__name__)

Tx = TypeVar("Tx")
Op = TypeVar("Op")
LATE = VoteReply(Vote.ABORT, LATE_PREPARE)
YES = VoteReply(Vote.COMMIT)
_READ_ONLY = VoteReply(Vote.READ_ONLY)

UNKNOWN_COORDINATOR = FieldViolation(
    "coordinator", "coordinator.allowed", "is not a coordinator of this participant"
)


class _Work(NamedTuple):
    """A message, and its operation where it carries one that could be decoded."""

    message: Message
    operation: Any


class Participant(Generic[Tx, Op]):
    """Votes and applies for one resource over one store."""

    def __init__(
        self,
        *,
        store: Store[Tx],
        branches: BranchTable[Tx],
        resource: Resource[Tx, Op] | BatchResource[Tx, Op],
        codec: Codec[Op],
        coordinators: frozenset[str],
        clock: Clock,
        crash_point: CrashPoint = no_crash,
        metrics: ParticipantMetrics = NO_METRICS,
    ) -> None:
        """`coordinators` are the service names that a prepare may name to be asked back.

        Whoever else is named could leave a reservation in doubt for ever.
        """
        self._store = around_store(store, crash_point)
        self._branches = branches
        self._alone = not hasattr(resource, "prepare_all")
        self._resource: BatchResource[Tx, Op] = (
            OneAtATime(resource) if self._alone else resource  # type: ignore[arg-type, assignment]
        )
        self._codec = codec
        self.coordinators = coordinators
        self._clock = clock
        self._crash_point = crash_point
        self._metrics = metrics
        # One object for ever: what shares it is run together.
        self._apply_all = self._apply
        self._answered = around_answers(self._answers, crash_point)

    async def prepare(self, message: Prepare) -> VoteReply:
        """Reserves and votes; the vote is durable on return.

        Raises InvalidOperation, IdempotencyConflict (the branch stands for another
        operation), Busy, StoreError or Overloaded; then nothing was written.
        """
        reply = await self._one(message)
        assert reply is not None
        return reply

    async def commit(self, key: BranchKey) -> None:
        """Makes a prepared branch final; durable on return, and the same when repeated.

        Raises UnknownBranch, BranchAborted or ResourceFailed: alarms, never success.
        """
        await self._one(Commit(key))

    async def abort(self, key: BranchKey) -> None:
        """Gives back what a branch holds, or remembers that it must never hold anything.

        Raises BranchCommitted or ResourceFailed: alarms.
        """
        await self._one(Abort(key))

    async def exchange(self, batch: Batch) -> list[Reply]:
        """Answers every message of a batch, once all of it is durable; errors are answers too."""
        self._forget(batch)
        return [
            inside(result)
            if isinstance(result, Exception) and not isinstance(result, TxnError)
            else result
            for result in await self._results(batch.messages)
        ]

    async def forget(self, keys: Sequence[BranchKey], horizon: TxnId) -> int:
        """Forgets commits of which nobody will ask again, see `Batch`, and some aborts.

        Returns how many rows went. In no hurry: it goes with the next force that there is.
        Raises StoreError or Overloaded.
        """
        forgetting = self._forgetting(keys, horizon)
        deleted = await write_unhurried(self._store, forgetting, self._clock)
        self._crash_point(AFTER_FORGETTING)
        return deleted

    async def get(self, key: BranchKey) -> BranchRow:
        """What is remembered of a branch. Raises NotFound."""
        rows = await self._store.look_up(lambda tx: self._branches.get_all(tx, [key]))
        if key not in rows:
            raise NotFound("no such branch")
        return rows[key]

    async def list_branches(
        self, *, after: BranchKey | None, limit: int, state: BranchState | None
    ) -> Sequence[BranchRow]:
        """Branches above `after`, in the order of their keys."""
        return await self._store.read(
            lambda tx: self._branches.list_rows(tx, after=after, limit=limit, state=state)
        )

    async def _one(self, message: Message) -> VoteReply | None:
        (result,) = await self._results([message])
        if isinstance(result, Exception):
            raise result
        return result

    async def _results(self, messages: Sequence[Message]) -> list[VoteReply | Exception | None]:
        began_s = self._clock.monotonic()
        results = await self._answered(messages)
        self._metrics.answered(len(messages), self._clock.monotonic() - began_s)
        if alarms := [each for each in results if isinstance(each, Alarm)]:
            self._metrics.alarmed(len(alarms))
        return results

    async def _answers(self, messages: Sequence[Message]) -> list[VoteReply | Exception | None]:
        results: list[VoteReply | Exception | None] = [None] * len(messages)
        works: dict[int, _Work] = {}
        refused: dict[int, str] = {}
        for at, message in enumerate(messages):
            if not isinstance(message, TO_DO):
                works[at] = _Work(message, None)
                continue
            try:
                works[at] = _Work(message, self._decoded(message))
            except InvalidOperation as error:
                results[at] = error
                refused[at] = INVALID_OPERATION
        if works:
            written = await self._written(list(works.values()))
            for at, result in zip(works, written, strict=True):
                results[at] = result
                if isinstance(result, Refused):
                    results[at] = VoteReply(Vote.ABORT, result.reason)
                    refused[at] = result.reason
        if refused:
            await self._remember_refusals(messages, refused, results)
        return results

    async def _remember_refusals(
        self,
        messages: Sequence[Message],
        refused: Mapping[int, str],
        results: list[VoteReply | Exception | None],
    ) -> None:
        """A perform that is refused leaves a row, so that none that is late succeeds.

        Where a resource raises, or an operation breaks a rule, no local transaction was left to
        write it. Should the same one have succeeded meanwhile, that is the answer.
        """
        works = {
            at: _Work(Resolve(messages[at].key, reason), None)
            for at, reason in refused.items()
            if isinstance(messages[at], Perform)
        }
        if not works:
            return
        try:
            # Not essential: nothing was promised, and who is not answered asks again.
            written = await self._write(list(works.values()), essential=False)
        except TxnError as error:
            written = [error] * len(works)
        for at, result in zip(works, written, strict=True):
            # So late that it is below the horizon: it was over long ago, and is never done.
            late = isinstance(result, BranchForgotten)
            results[at] = VoteReply(Vote.ABORT, refused[at]) if late else result

    async def _written(self, works: Sequence[_Work]) -> Sequence[VoteReply | Exception | None]:
        promised = [work for work in works if not isinstance(work.message, TO_DO)]
        try:
            return await self._write(works, essential=len(promised) == len(works))
        except StoreFull as full:
            if len(promised) == len(works):
                return [full] * len(works)
            # What was promised may use room that new work may not.
            kept = iter(await self._written(promised)) if promised else iter(())
            return [full if isinstance(work.message, TO_DO) else next(kept) for work in works]
        except TxnError as error:
            return [error] * len(works)

    async def _write(
        self, works: Sequence[_Work], *, essential: bool
    ) -> Sequence[VoteReply | Exception | None]:
        return await self._store.write_all(
            self._apply_all, works, essential=essential, alone=self._alone
        )

    def _decoded(self, message: Prepare | Perform) -> Op:
        if message.coordinator not in self.coordinators:
            raise InvalidOperation([UNKNOWN_COORDINATOR])
        return self._codec.decode(message.operation)

    def _apply(self, tx: Tx, works: Sequence[_Work]) -> Sequence[VoteReply | TxnError | None]:
        replies: list[VoteReply | TxnError | None] = [None] * len(works)
        for round_ in _rounds(works):
            rows = self._branches.get_all(tx, [works[at].message.key for at in round_])
            # What frees goes before what takes.
            self._settle(tx, works, round_, rows, replies)
            self._vote(tx, works, round_, rows, replies)
            self._in_one_phase(tx, works, round_, rows, replies)
        return replies

    def _settle(
        self,
        tx: Tx,
        works: Sequence[_Work],
        round_: Iterable[int],
        rows: Mapping[BranchKey, BranchRow],
        replies: list[VoteReply | TxnError | None],
    ) -> None:
        to_commit: list[BranchRow] = []
        to_abort: list[BranchRow] = []
        to_remember: list[BranchRow] = []
        for at in round_:
            message = works[at].message
            if not isinstance(message, TOLD):
                continue
            row = rows.get(message.key)
            verdict = (
                barrier.on_commit(row) if isinstance(message, Commit) else barrier.on_abort(row)
            )
            if verdict in barrier.ALARMS:
                alarm, says = barrier.ALARMS[verdict]
                replies[at] = alarm(says)
            elif verdict is OnAbort.REMEMBER:
                to_remember.append(self._row(message.key, BranchState.ABORTED))
            elif row is not None and verdict is OnCommit.APPLY:
                to_commit.append(row)
            elif row is not None and verdict is OnAbort.UNDO:
                to_abort.append(row)
        self._keep_promises(tx, self._resource.commit_all, to_commit, BranchState.COMMITTED)
        self._keep_promises(tx, self._resource.abort_all, to_abort, BranchState.ABORTED)
        if to_remember:
            self._branches.insert_all(tx, to_remember)

    def _vote(
        self,
        tx: Tx,
        works: Sequence[_Work],
        round_: Iterable[int],
        rows: Mapping[BranchKey, BranchRow],
        replies: list[VoteReply | TxnError | None],
    ) -> None:
        to_run: list[int] = []
        for at, verdict in self._verdicts(tx, works, round_, rows):
            if verdict is OnPrepare.RUN:
                to_run.append(at)
            elif verdict is OnPrepare.CONFLICT:
                replies[at] = IdempotencyConflict("the branch was prepared with another operation")
            else:
                replies[at] = YES if verdict is OnPrepare.REPEAT else LATE
        if not to_run:
            return
        votes = self._resource.prepare_all(tx, _items(works, to_run))
        prepared: list[BranchRow] = []
        for at, vote in zip(to_run, votes, strict=True):
            replies[at] = _reply(vote)
            if vote is Vote.COMMIT:
                message = works[at].message
                assert isinstance(message, Prepare)
                prepared.append(
                    self._row(
                        message.key, BranchState.PREPARED, message.coordinator, message.operation
                    )
                )
        if prepared:
            self._branches.insert_all(tx, prepared)

    def _in_one_phase(
        self,
        tx: Tx,
        works: Sequence[_Work],
        round_: Iterable[int],
        rows: Mapping[BranchKey, BranchRow],
        replies: list[VoteReply | TxnError | None],
    ) -> None:
        """What is asked to be done is, and what is asked about is answered; each leaves a row."""
        to_run: list[int] = []
        to_remember: list[BranchRow] = []
        horizon_of = self._horizons(tx)
        for at in round_:
            message = works[at].message
            if not isinstance(message, ONE_PHASE):
                continue
            key = message.key
            row = rows.get(key)
            horizon = horizon_of(key.txn_id)
            verdict = (
                barrier.on_perform(row, key, message.operation, horizon)
                if isinstance(message, Perform)
                else barrier.on_resolve(row, key, horizon)
            )
            if verdict is OnPerform.RUN:
                to_run.append(at)
            elif isinstance(message, Resolve) and verdict is OnResolve.REMEMBER:
                to_remember.append(self._row(key, BranchState.ABORTED, reason=message.reason))
                replies[at] = VoteReply(Vote.ABORT, message.reason)
            elif verdict in barrier.ALARMS:
                alarm, says = barrier.ALARMS[verdict]
                replies[at] = alarm(says)
            elif verdict in (OnPerform.REPEAT, OnResolve.COMMITTED):
                replies[at] = YES
            else:
                reason = "" if row is None else row.reason
                late = LATE_PREPARE if verdict is OnPerform.LATE else ""
                replies[at] = VoteReply(Vote.ABORT, reason or late)
        if to_run:
            to_remember += self._performed(tx, works, to_run, replies)
        if to_remember:
            self._branches.insert_all(tx, to_remember)

    def _performed(
        self,
        tx: Tx,
        works: Sequence[_Work],
        to_run: Sequence[int],
        replies: list[VoteReply | TxnError | None],
    ) -> list[BranchRow]:
        """Reserves and makes final; returns what has to be remembered of that.

        Nothing is promised before: a resource that fails at commit has what it did undone.
        """
        votes = self._resource.prepare_all(tx, _items(works, to_run))
        agreed: list[int] = []
        remember: list[BranchRow] = []
        for at, vote in zip(to_run, votes, strict=True):
            reply = replies[at] = _reply(vote)
            message = works[at].message
            assert isinstance(message, Perform)
            if reply is YES:
                agreed.append(at)
                row = self._row(
                    message.key, BranchState.COMMITTED, message.coordinator, message.operation
                )
                remember.append(row)
            elif isinstance(reply, VoteReply) and reply.vote is Vote.ABORT:
                row = self._row(message.key, BranchState.ABORTED, reason=reply.reason)
                remember.append(row)
        if agreed:
            self._resource.commit_all(tx, _items(works, agreed))
        return remember

    def _verdicts(
        self,
        tx: Tx,
        works: Sequence[_Work],
        round_: Iterable[int],
        rows: Mapping[BranchKey, BranchRow],
    ) -> Iterable[tuple[int, OnPrepare]]:
        horizon_of = self._horizons(tx)
        for at in round_:
            message = works[at].message
            if isinstance(message, Prepare):
                key = message.key
                yield (
                    at,
                    barrier.on_prepare(
                        rows.get(key), key, message.operation, horizon_of(key.txn_id)
                    ),
                )

    def _horizons(self, tx: Tx) -> Callable[[TxnId], str]:
        """The horizon that concerns a transaction; that of each log is read once."""
        known: dict[str, str] = {}

        def of(txn_id: TxnId) -> str:
            log_id = log_id_of(txn_id)
            if log_id not in known:
                known[log_id] = self._branches.prepare_horizon(tx, log_id)
            return known[log_id]

        return of

    def _row(
        self,
        key: BranchKey,
        state: BranchState,
        coordinator: str = "",
        operation: Operation | None = None,
        reason: str = "",
    ) -> BranchRow:
        to = move(BRANCH_MOVES, None, state)
        return BranchRow(key, to, coordinator, operation, self._clock.utc_us(), reason)

    def _keep_promises(
        self,
        tx: Tx,
        apply: Callable[[Tx, Sequence[Item[Op]]], None],
        rows: Sequence[BranchRow],
        to: BranchState,
    ) -> None:
        if not rows:
            return
        for row in rows:
            move(BRANCH_MOVES, row.state, to)
        try:
            # Their rules were checked when they were prepared; a newer release may have others.
            apply(tx, [Item(row.key, self._read(row.operation)) for row in rows])
        except Exception as error:
            if len(rows) == 1:
                _log.exception("a promise could not be kept: %s", rows[0].key)
            raise ResourceFailed("the resource could not do what it had promised") from error
        self._branches.set_state_all(tx, [row.key for row in rows], to)

    def _read(self, operation: Operation | None) -> Op:
        assert operation is not None
        return self._codec.read(operation)

    def _forget(self, batch: Batch) -> None:
        keys, horizon = batch.forgettable, batch.prepare_horizon
        if not keys or horizon is None:
            return
        self._crash_point(FORGET_ARRIVES)
        try:
            self._store.write_lazily(self._forgetting(keys, horizon), self._forgotten)
        except TxnError as error:
            _log.info("%d branches are not forgotten: %s", len(keys), error)

    def _forgetting(self, keys: Sequence[BranchKey], horizon: TxnId) -> Callable[[Tx], int]:
        log_id = log_id_of(horizon)

        def forget(tx: Tx) -> int:
            self._crash_point(BEFORE_FORGETTING)
            return self._branches.forget(tx, keys, log_id, horizon)

        return forget

    def _forgotten(self, result: Done[Any] | Failed) -> None:
        if isinstance(result, Done):
            self._crash_point(AFTER_FORGETTING)


def _items(works: Sequence[_Work], places: Iterable[int]) -> list[Item[Any]]:
    return [Item(works[at].message.key, works[at].operation) for at in places]


def inside(error: Exception) -> Unreachable:
    """What the other side hears of an error that nobody foresaw."""
    _log.error("a branch failed", exc_info=error)
    return Unreachable("INTERNAL")


def _reply(vote: Vote | Refused | Busy) -> VoteReply | TxnError:
    if isinstance(vote, Busy):
        return vote
    if isinstance(vote, Refused):
        return VoteReply(Vote.ABORT, vote.reason)
    if vote is Vote.COMMIT:
        return YES
    return _READ_ONLY if vote is Vote.READ_ONLY else VoteReply(Vote.ABORT, REFUSED)


def _rounds(works: Sequence[_Work]) -> Sequence[Sequence[int]]:
    """Which of them may be done at once: several messages for one branch keep their order."""
    seen: dict[BranchKey, int] = {}
    rounds: list[list[int]] = []
    for at, work in enumerate(works):
        number = seen.get(work.message.key, 0)
        seen[work.message.key] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(at)
    return rounds
