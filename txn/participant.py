"""The participant's side: votes, applies, and asks when it is left in doubt.

A participant wraps a Resource, the business code of one kind of operation. Barrier row
and business change are one piece of work in one local transaction, so there is no moment
at which one is there without the other. A vote, and an acknowledgement, leave only after
the force.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from txn import barrier
from txn.barrier import OnAbort, OnCommit, OnPrepare
from txn.branch_table import BranchTable
from txn.clock import Clock
from txn.crash_point import AFTER_APPLY, AFTER_VOTE, CrashPoint, no_crash
from txn.errors import (
    BranchAborted,
    BranchCommitted,
    FieldViolation,
    IdempotencyConflict,
    InvalidOperation,
    NotFound,
    Overloaded,
    Refused,
    ResourceFailed,
    StoreError,
    UnknownBranch,
    Unreachable,
)
from txn.model import BranchKey, BranchRow, Operation, Prepare, VoteReply
from txn.state import BRANCH_MOVES, BranchState, Outcome, Vote, move
from txn.store.group_commit import Store
from txn.transport import CoordinatorTransport

LATE_PREPARE = "LATE_PREPARE"
REFUSED = "REFUSED"

_log = logging.getLogger(__name__)

Tx = TypeVar("Tx")
Tx_contra = TypeVar("Tx_contra", contravariant=True)
Op = TypeVar("Op")
Op_co = TypeVar("Op_co", covariant=True)
Op_contra = TypeVar("Op_contra", contravariant=True)

_UNKNOWN_COORDINATOR = FieldViolation(
    "coordinator", "coordinator.allowed", "is not a coordinator of this participant"
)


class Resource(Protocol[Tx_contra, Op_contra]):
    """The business code of one kind of operation.

    Each method runs inside `tx` and does no more than read and change it: no clock that
    matters, no network, no state of its own.
    """

    def prepare(self, tx: Tx_contra, key: BranchKey, operation: Op_contra) -> Vote:
        """Reserves what commit will need; returns COMMIT, or READ_ONLY when nothing is to commit.

        Raises Refused to vote ABORT, and Busy when another transaction is in the way; then
        nothing that was changed in `tx` stays.
        """

    def commit(self, tx: Tx_contra, key: BranchKey, operation: Op_contra) -> None:
        """Makes the reservation final. It has promised to be able to, so it must not fail."""

    def abort(self, tx: Tx_contra, key: BranchKey, operation: Op_contra) -> None:
        """Gives the reservation back."""


class Codec(Protocol[Op_co]):
    """Turns operations into what the resource takes."""

    def decode(self, operation: Operation) -> Op_co:
        """An operation from outside. Raises InvalidOperation when it breaks a rule."""

    def read(self, operation: Operation) -> Op_co:
        """An operation that was decoded before, perhaps by an earlier release."""


@dataclass(frozen=True, slots=True)
class InquiryConfig:
    """How a participant in doubt asks: first one to two intervals after its vote."""

    interval_s: float = 2.0
    jitter_s: float = 0.5
    timeout_s: float = 2.0
    in_doubt_max: int = 1_000
    concurrency: int = 32


class Participant(Generic[Tx, Op]):
    """Votes and applies for one resource over one store."""

    def __init__(
        self,
        *,
        store: Store[Tx],
        branches: BranchTable[Tx],
        resource: Resource[Tx, Op],
        codec: Codec[Op],
        coordinators: frozenset[str],
        clock: Clock,
        crash_point: CrashPoint = no_crash,
    ) -> None:
        """`coordinators` are the service names that a prepare may name to be asked back.

        Whoever else is named could leave a reservation in doubt for ever.
        """
        self._store = store
        self._branches = branches
        self._resource = resource
        self._codec = codec
        self._coordinators = coordinators
        self._clock = clock
        self._crash_point = crash_point

    async def prepare(self, message: Prepare) -> VoteReply:
        """Reserves and votes; the vote is durable on return.

        Raises InvalidOperation, IdempotencyConflict (the branch stands for another
        operation), Busy, StoreError or Overloaded; then nothing was written.
        """
        if message.coordinator not in self._coordinators:
            raise InvalidOperation([_UNKNOWN_COORDINATOR])
        operation = self._codec.decode(message.operation)
        try:
            reply = await self._store.write(lambda tx: self._prepare(tx, message, operation))
        except Refused as refused:
            return VoteReply(Vote.ABORT, refused.reason)
        self._crash_point(AFTER_VOTE)
        return reply

    async def commit(self, key: BranchKey) -> None:
        """Makes a prepared branch final; durable on return, and the same when repeated.

        Raises UnknownBranch, BranchAborted or ResourceFailed: alarms, never success.
        """
        await self._store.write(lambda tx: self._commit(tx, key), essential=True)
        self._crash_point(AFTER_APPLY)

    async def abort(self, key: BranchKey) -> None:
        """Gives back what a branch holds, or remembers that it must never hold anything.

        Raises BranchCommitted or ResourceFailed: alarms.
        """
        await self._store.write(lambda tx: self._abort(tx, key), essential=True)

    async def get(self, key: BranchKey) -> BranchRow:
        """What is remembered of a branch. Raises NotFound."""
        row = await self._store.read(lambda tx: self._branches.get(tx, key))
        if row is None:
            raise NotFound("no such branch")
        return row

    async def list_branches(
        self, *, after: BranchKey | None, limit: int, state: BranchState | None
    ) -> Sequence[BranchRow]:
        """Branches above `after`, in the order of their keys."""
        return await self._store.read(
            lambda tx: self._branches.list_rows(tx, after=after, limit=limit, state=state)
        )

    def _prepare(self, tx: Tx, message: Prepare, operation: Op) -> VoteReply:
        verdict = barrier.on_prepare(self._branches.get(tx, message.key), message.operation)
        match verdict:
            case OnPrepare.LATE:
                return VoteReply(Vote.ABORT, LATE_PREPARE)
            case OnPrepare.CONFLICT:
                raise IdempotencyConflict("the branch was prepared with another operation")
            case OnPrepare.REPEAT:
                return VoteReply(Vote.COMMIT)
            case OnPrepare.RUN:
                vote = self._resource.prepare(tx, message.key, operation)
        if vote is Vote.ABORT:
            # Said without raising; what was changed in `tx` must not stay all the same.
            raise Refused(REFUSED)
        if vote is Vote.COMMIT:
            state = move(BRANCH_MOVES, None, BranchState.PREPARED)
            self._branches.insert(tx, self._row(message, state))
        return VoteReply(vote)

    def _commit(self, tx: Tx, key: BranchKey) -> None:
        row = self._branches.get(tx, key)
        match barrier.on_commit(row):
            case OnCommit.UNKNOWN:
                raise UnknownBranch("the branch was never prepared here")
            case OnCommit.WAS_ABORTED:
                raise BranchAborted("the branch was aborted here")
            case OnCommit.APPLY:
                self._keep_promise(self._resource.commit, tx, row)
                self._move(tx, row, BranchState.COMMITTED)
            case OnCommit.DONE:
                pass

    def _abort(self, tx: Tx, key: BranchKey) -> None:
        row = self._branches.get(tx, key)
        match barrier.on_abort(row):
            case OnAbort.WAS_COMMITTED:
                raise BranchCommitted("the branch was committed here")
            case OnAbort.UNDO:
                self._keep_promise(self._resource.abort, tx, row)
                self._move(tx, row, BranchState.ABORTED)
            case OnAbort.REMEMBER:
                state = move(BRANCH_MOVES, None, BranchState.ABORTED)
                self._branches.insert(tx, BranchRow(key, state, "", None, self._clock.utc_us()))
            case OnAbort.DONE:
                pass

    def _row(self, message: Prepare, state: BranchState) -> BranchRow:
        return BranchRow(
            message.key, state, message.coordinator, message.operation, self._clock.utc_us()
        )

    def _keep_promise(
        self, apply: Callable[[Tx, BranchKey, Op], None], tx: Tx, row: BranchRow | None
    ) -> None:
        assert row is not None
        assert row.operation is not None
        try:
            # Its rules were checked when it was prepared; a newer release may have others.
            apply(tx, row.key, self._codec.read(row.operation))
        except Exception as error:
            _log.exception("a promise could not be kept: %s", row.key)
            raise ResourceFailed("the resource could not do what it had promised") from error

    def _move(self, tx: Tx, row: BranchRow | None, to: BranchState) -> None:
        assert row is not None
        self._branches.set_state(tx, row.key, move(BRANCH_MOVES, row.state, to))


class Inquirer(Generic[Tx, Op]):
    """Asks the coordinator about branches that stay in doubt. Never decides by itself."""

    def __init__(
        self,
        participant: Participant[Tx, Op],
        transport: CoordinatorTransport,
        *,
        clock: Clock,
        rng: random.Random,
        config: InquiryConfig | None = None,
    ) -> None:
        self._participant = participant
        self._transport = transport
        self._clock = clock
        self._rng = rng
        self._config = config or InquiryConfig()
        self._seen: frozenset[BranchKey] = frozenset()
        self._after: BranchKey | None = None

    async def run(self) -> None:
        """Looks every interval, until cancelled."""
        while True:
            wait_s = self._config.interval_s + self._rng.uniform(0, self._config.jitter_s)
            await self._clock.sleep(wait_s)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - who stops asking stays in doubt for ever
                _log.warning("inquiry put off: %r", error)

    async def look(self) -> None:
        """One round: asks about what was in doubt in the round before too.

        Being seen twice is the measure of age, so that no wall clock decides anything.
        More branches than in_doubt_max are gone through round by round.
        """
        rows = await self._participant.list_branches(
            after=self._after, limit=self._config.in_doubt_max, state=BranchState.PREPARED
        )
        full = len(rows) == self._config.in_doubt_max
        old = [row for row in rows if full or self._after or row.key in self._seen]
        self._after = rows[-1].key if full else None
        self._seen = frozenset(row.key for row in rows)
        places = asyncio.Semaphore(self._config.concurrency)
        await asyncio.gather(*(self._resolve(row, places) for row in old))

    async def _resolve(self, row: BranchRow, places: asyncio.Semaphore) -> None:
        async with places:
            try:
                outcome = await self._transport.inquire(
                    row.coordinator, row.key, self._config.timeout_s
                )
                if outcome is Outcome.COMMITTED:
                    await self._participant.commit(row.key)
                elif outcome is Outcome.ABORTED:
                    await self._participant.abort(row.key)
            except (Unreachable, StoreError, Overloaded) as error:
                _log.info("%s stays in doubt: %s", row.key, error)
            except Exception:  # noqa: BLE001 - said below
                # A row that cannot be resolved must not keep the others from being asked about.
                _log.critical("ALARM %s could not be resolved", row.key, exc_info=True)
