"""One participant over a file of its own, which may be started again."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from txn.clock import SystemClock
from txn.errors import Busy, GroupLost
from txn.model import (
    Abort,
    Batch,
    BranchKey,
    Commit,
    Message,
    Reply,
    VoteReply,
)
from txn.participant import Participant
from txn.participant_check.rules import Broken, Rule
from txn.participant_check.subject import COORDINATOR, Subject
from txn.participant_check.watched import WatchedAlone, WatchedBatches
from txn.state import Vote
from txn.store import sql_branches
from txn.store.loop_store import LoopStore
from txn.store.opening import Schema, SqliteStore
from txn.store.sqlite import SqliteReader, SqliteWriter

Op = TypeVar("Op")
T = TypeVar("T")
Tx = sqlite3.Connection


class _Lost(Exception):
    """The store is of no use any more."""


@contextmanager
def unheard() -> Iterator[None]:
    """The loop does not log what is raised for a lost group: a broken rule says it."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), _Lost):
            return
        if before is None:
            loop.default_exception_handler(context)
        else:
            before(loop, context)

    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(before)


class _Unforced(SqliteWriter):
    """Power stays on while a resource is checked: what is written outlives the store as it is."""

    def __init__(self, path: Path, schema: Schema) -> None:
        super().__init__(path, schema)
        self._connection.execute("PRAGMA synchronous = OFF")


class Site(Generic[Op]):
    """One participant over a file of its own, which may be started again."""

    def __init__(self, path: Path, subject: Subject[Op]) -> None:
        self.path = path
        self._subject = subject
        self._store: SqliteStore | None = None

    async def start(self) -> None:
        """Opens the store, with a new resource."""
        schema = {**self._subject.schema, **sql_branches.schema()}
        self._lost: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._store = LoopStore(
            self.path.stem,
            writer=lambda: _Unforced(self.path, schema),
            reader=lambda: SqliteReader(self.path),
            on_commit_failure=self._commit_failed,
        )
        resource = self._subject.resource()
        batches = hasattr(resource, "prepare_all")
        self.watched: Any = (WatchedBatches if batches else WatchedAlone)(resource)
        self.suffix = "_all" if batches else ""
        self._participant: Participant[Tx, Op] = Participant(
            store=self._store,
            branches=sql_branches.SqlBranchTable(),
            resource=self.watched,
            codec=self._subject,
            coordinators=frozenset({COORDINATOR}),
            clock=SystemClock(),
        )

    async def set_up(self) -> None:
        """Fills the tables, once. Raises ValueError when that cannot be committed."""
        assert self._store is not None
        if self._subject.setup is not None:
            try:
                await self._durable(self._store.write(self._subject.setup), "setup")
            except Broken as error:
                raise ValueError(error.seen) from None

    async def restart(self) -> None:
        """As after a crash: only what is in the file is left."""
        await self.close()
        await self.start()

    async def close(self) -> None:
        """Closes the store."""
        if self._store is not None:
            store, self._store = self._store, None
            await store.close()

    async def state(self) -> object:
        """What the tables hold."""
        assert self._store is not None
        return await self._store.read(self._subject.state)

    async def tell(self, *messages: Message) -> list[Reply]:
        """All at once. Raises Broken for what the resource did on the way."""
        self.watched.raised = None
        verbs = dict.fromkeys(type(message).__name__.lower() for message in messages)
        exchange = self._participant.exchange(Batch(messages))
        replies = await self._durable(exchange, " and ".join(verbs))
        if self.watched.broken is not None:
            raise self.watched.broken
        _in_one_transaction(replies)
        return replies

    async def prepare(self, key: BranchKey, number: int) -> VoteReply | Busy:
        """The vote. Raises Broken when there is none."""
        (reply,) = await self.tell(self._subject.prepare(key, number))
        if isinstance(reply, VoteReply | Busy):
            return reply
        name, error = self._subject.name(number), self.watched.raised
        raise Broken(Rule.ANSWERS, f"prepare of {name} raised {error or reply!r}{_hint(error)}")

    async def accept(self, key: BranchKey, number: int, rule: Rule, when: str = "") -> Vote:
        """Prepares what has to be accepted."""
        reply = await self.prepare(key, number)
        if isinstance(reply, Busy) or reply.vote is Vote.ABORT:
            if rule is Rule.ACCEPTS and number in self._subject.taken:
                rule, when = Rule.NOTHING_ELSEWHERE, " by a new database, and accepted by another"
            raise Broken(rule, f"{self._subject.name(number)} was refused ({reply.reason}){when}")
        self._subject.taken.add(number)
        return reply.vote

    async def perform(self, key: BranchKey, number: int) -> None:
        """Does at once what has to succeed."""
        (reply,) = await self.tell(self._subject.perform(key, number))
        if not isinstance(reply, VoteReply) or reply.vote is Vote.ABORT:
            name, error = self._subject.name(number), self.watched.raised
            raise Broken(Rule.ONE_PHASE, f"{name} in one phase came to {error or reply!r}")

    async def commit(self, key: BranchKey, number: int, rule: Rule = Rule.COMMIT_SUCCEEDS) -> None:
        """Commits what has to succeed."""
        await self._settle(Commit(key), number, rule)

    async def abort(self, key: BranchKey, number: int, rule: Rule = Rule.ABORT_SUCCEEDS) -> None:
        """Aborts what has to succeed."""
        await self._settle(Abort(key), number, rule)

    async def _durable(self, work: Coroutine[Any, Any, T], method: str) -> T:
        """The result of `work`. Raises Broken when its group is lost: then nobody is answered."""
        working = asyncio.ensure_future(work)
        either: set[asyncio.Future[Any]] = {working, self._lost}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
        finally:
            working.cancel()
        error = self._lost.result()
        closed = isinstance(error, sqlite3.ProgrammingError)
        rule = Rule.TRANSACTION if closed else Rule.CAN_BE_COMMITTED
        raise Broken(rule, f"after {method} the local transaction was lost: {error!r}")

    def _commit_failed(self, error: BaseException) -> NoReturn:
        """On the store's thread, and then on the loop with what is raised here."""
        if not isinstance(error, _Lost):
            self._lost.get_loop().call_soon_threadsafe(self._lost.set_result, error)
        raise _Lost from error

    async def _settle(self, message: Message, number: int, rule: Rule) -> None:
        (reply,) = await self.tell(message)
        if reply is not None:
            verb, error = type(message).__name__.lower(), self.watched.raised
            seen = f"{verb} of {self._subject.name(number)} raised {error or reply!r}{_hint(error)}"
            raise Broken(rule, seen)


def _in_one_transaction(replies: Sequence[Reply]) -> None:
    if any(isinstance(reply, GroupLost) for reply in replies):
        raise Broken(Rule.TRANSACTION, "the local transaction had ended when a method returned")


def _hint(error: Exception | None) -> str:
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return " (a connection of its own waits for `tx`, which is open: use `tx`)"
    return ""
