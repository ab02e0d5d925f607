"""A participant whose vote is PostgreSQL's own PREPARE TRANSACTION.

For business tables that live there: the code of a branch is one method with any SQL, run when it
is prepared. To commit it and to abort it is the database's, which holds the locks of what was
written until then. What that costs, and why it is done so: docs/adr/0009-prepared-transactions.md.

Needs the extra `tallystick[postgres]`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from txn.clock import Clock
from txn.crash_point import (
    AFTER_FORGETTING,
    BEFORE_FORGETTING,
    FORGET_ARRIVES,
    CrashPoint,
    no_crash,
)
from txn.crashing import around_answers, around_each
from txn.errors import Alarm, BranchForgotten, InvalidOperation, Refused, TxnError
from txn.metrics import NO_METRICS, ParticipantMetrics
from txn.model import (
    TO_DO,
    Abort,
    Batch,
    BranchKey,
    BranchRow,
    Commit,
    Message,
    Perform,
    Prepare,
    Reply,
    Resolve,
    TxnId,
    VoteReply,
)
from txn.participant import INVALID_OPERATION, UNKNOWN_COORDINATOR, inside
from txn.resource import Codec
from txn.state import BranchState, Vote
from txn.store.postgres import PostgresTx
from txn.store.postgres_prepared import PreparedStore

_log = logging.getLogger(__name__)

Op = TypeVar("Op")
Op_contra = TypeVar("Op_contra", contravariant=True)


class PreparedResource(Protocol[Op_contra]):
    """The business code of one kind of operation."""

    def run(self, tx: PostgresTx, key: BranchKey, operation: Op_contra) -> Vote:
        """Does all of it in `tx`; returns COMMIT, or READ_ONLY when nothing is to commit.

        What it has done takes effect when the branch is committed, and till then keeps its locks.
        Raises Refused to vote ABORT, and Busy when another transaction is in the way; so is
        whoever has a lock for too long, without its doing. Then nothing stays. It must not end
        `tx`, and is called from several threads at once, each with its own.
        """


class PreparedParticipant(Generic[Op]):
    """Votes and applies; a ParticipantKind."""

    def __init__(
        self,
        *,
        store: PreparedStore,
        resource: PreparedResource[Op],
        codec: Codec[Op],
        coordinators: frozenset[str],
        clock: Clock,
        crash_point: CrashPoint = no_crash,
        metrics: ParticipantMetrics = NO_METRICS,
    ) -> None:
        """As Participant. Any number of them may share a schema, in as many processes."""
        self._store = store
        self._resource = resource
        self._codec = codec
        self.coordinators = coordinators
        self._clock = clock
        self._crash_point = crash_point
        self._metrics = metrics
        self._do = around_each(self._done, crash_point)
        self._answered = around_answers(self._answers, crash_point)
        self._forgetting: asyncio.Task[None] | None = None

    async def prepare(self, message: Prepare) -> VoteReply:
        """Runs and votes; the vote is durable on return.

        Raises InvalidOperation, IdempotencyConflict, Busy, ResourceFailed, StoreError or
        Overloaded; then nothing was prepared, unless the answer to it was lost: ask again.
        """
        reply = await self._one(message)
        assert reply is not None
        return reply

    async def commit(self, key: BranchKey) -> None:
        """Makes a prepared branch final; durable on return, and the same when repeated.

        Raises UnknownBranch or BranchAborted, which are alarms, StoreError or Overloaded.
        """
        await self._one(Commit(key))

    async def abort(self, key: BranchKey) -> None:
        """Undoes a branch, or remembers that it must never be run.

        Raises BranchCommitted, which is an alarm, StoreError or Overloaded.
        """
        await self._one(Abort(key))

    async def exchange(self, batch: Batch) -> list[Reply]:
        """Answers every message, once each is durable; errors are answers too.

        Those of different branches go side by side, as far as there are connections.
        """
        self._forget_beside(batch)
        return await self._results(batch.messages)

    async def forget(self, keys: Sequence[BranchKey], horizon: TxnId) -> int:
        """As Participant.forget. Raises StoreError or Overloaded."""
        self._crash_point(BEFORE_FORGETTING)
        deleted = await self._store.forget(keys, horizon)
        self._crash_point(AFTER_FORGETTING)
        return deleted

    async def get(self, key: BranchKey) -> BranchRow:
        """What is remembered of a branch; no operation while it is prepared. Raises NotFound."""
        return await self._store.get(key)

    async def list_branches(
        self, *, after: BranchKey | None, limit: int, state: BranchState | None
    ) -> Sequence[BranchRow]:
        """Branches above `after`, in the order of their keys, whichever process prepared them."""
        return await self._store.list_rows(after, limit, state)

    async def close(self) -> None:
        """Waits for what was to be forgotten. The store stays open."""
        if self._forgetting is not None:
            await asyncio.wait([self._forgetting])

    async def _one(self, message: Message) -> VoteReply | None:
        (reply,) = await self._results([message])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _results(self, messages: Sequence[Message]) -> list[Reply]:
        began_s = self._clock.monotonic()
        replies = await self._answered(messages)
        self._metrics.answered(len(messages), self._clock.monotonic() - began_s)
        if alarms := sum(isinstance(each, Alarm) for each in replies):
            self._metrics.alarmed(alarms)
        return replies

    async def _answers(self, messages: Sequence[Message]) -> list[Reply]:
        places: dict[BranchKey, list[int]] = {}
        for at, message in enumerate(messages):
            places.setdefault(message.key, []).append(at)
        replies: list[Reply] = [None] * len(messages)

        async def in_order(of_one: Sequence[int]) -> None:
            for at in of_one:
                replies[at] = await self._answer(messages[at])

        await asyncio.gather(*map(in_order, places.values()))
        return replies

    async def _answer(self, message: Message) -> Reply:
        try:
            return await self._do(message)
        except Refused as refused:
            return VoteReply(Vote.ABORT, refused.reason)
        except TxnError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the others of its batch are answered all the same
            return inside(error)

    async def _done(self, message: Message) -> VoteReply | None:
        if not isinstance(message, TO_DO):
            return await self._store.settle(message)
        try:
            operation = self._decoded(message)
        except InvalidOperation:
            if isinstance(message, Perform):
                return await self._never(Resolve(message.key, INVALID_OPERATION))
            raise
        return await self._store.vote(
            message, lambda tx: self._resource.run(tx, message.key, operation)
        )

    def _decoded(self, message: Prepare | Perform) -> Op:
        if message.coordinator not in self.coordinators:
            raise InvalidOperation([UNKNOWN_COORDINATOR])
        return self._codec.decode(message.operation)

    async def _never(self, resolve: Resolve) -> VoteReply | None:
        """A perform that breaks a rule leaves a row, so that none that is late succeeds."""
        try:
            return await self._store.settle(resolve)
        except BranchForgotten:
            # So late that it is below the horizon: it was over long ago, and is never done.
            return VoteReply(Vote.ABORT, resolve.reason)

    def _forget_beside(self, batch: Batch) -> None:
        """One at a time; what is not forgotten now the forgetter finds."""
        keys, horizon = batch.forgettable, batch.prepare_horizon
        if not keys or horizon is None or not (self._forgetting is None or self._forgetting.done()):
            return
        self._crash_point(FORGET_ARRIVES)
        self._forgetting = asyncio.ensure_future(self._forget(keys, horizon))

    async def _forget(self, keys: Sequence[BranchKey], horizon: TxnId) -> None:
        try:
            await self.forget(keys, horizon)
        except TxnError as error:
            _log.info("%d branches are not forgotten: %s", len(keys), error)
