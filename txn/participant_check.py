"""Tells whether a resource keeps what a participant promises, by using it as one.

The resource runs behind a real Participant over a real SQLite file, through the moments
that its methods do not see: repeated and late messages, restarts between prepare and
commit, work that is undone after the method has returned. What is compared is the
tables, so whatever is kept elsewhere is missing or left over.

(As Go's testing/fstest does for a file system: it reports all that it finds.)
"""

from __future__ import annotations

import copy
import inspect
import re
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from enum import Enum
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from txn.clock import SystemClock
from txn.errors import Alarm, Busy, GroupLost, Refused, TxnError, UnknownBranch
from txn.model import (
    Abort,
    Batch,
    BranchId,
    BranchKey,
    Commit,
    Message,
    Operation,
    Prepare,
    Reply,
    TxnId,
    VoteReply,
)
from txn.participant import Participant
from txn.resource import BatchResource, Item, Resource
from txn.state import Vote
from txn.store import sqlite_branches
from txn.store.migrate import apply
from txn.store.opening import Schema, SqliteStore, open_store

Op = TypeVar("Op")
Tx = sqlite3.Connection

_COORDINATOR = "check"
_REASON = re.compile(r"[A-Z][A-Z0-9_]*")


class Rule(Enum):
    """What a resource has to keep to; the value says what to do about one that is broken."""

    ANSWERS = "prepare returns Vote.COMMIT or READ_ONLY, or raises Refused or Busy, nothing else"
    PLAIN_METHODS = "methods are plain functions, not coroutines: only `tx` is theirs to wait for"
    REASONS = "a reason is in UPPER_SNAKE_CASE: programs decide by it"
    ACCEPTS = "prepare votes COMMIT for what can be done"
    REFUSES = "prepare checks all that commit needs, and raises Refused where it is missing"
    REFUSAL_CHANGES_NOTHING = "what is refused has changed nothing: check first, then write"
    READ_ONLY_CHANGES_NOTHING = "READ_ONLY is a promise to have written nothing: vote COMMIT"
    COMMIT_TAKES_EFFECT = "what is done is written through `tx`, by commit at the latest"
    COMMIT_SUCCEEDS = "commit never fails: check and reserve in prepare what it will need"
    ABORT_SUCCEEDS = "abort never fails: whatever prepare reserved can be given back"
    ABORT_GIVES_BACK = "abort gives back all that prepare took, and no more"
    ONCE = "a repeated or late message changes nothing: write through `tx` only"
    TRANSACTION = "`tx` is the participant's: do not commit, roll back or close it"
    NOTHING_ELSEWHERE = "what is kept is kept in `tx`, and undone with it: no memory, no file"
    SURVIVES_RESTART = "what prepare reserved is in the tables: keep nothing in memory"
    HOLDS = "what one branch has reserved no other gets: prepare writes it down and looks for it"
    BRANCHES_ARE_APART = "a branch touches only its own reservation: keep it under the whole key"
    BATCHES_ARE_ALIKE = "a batch does what its items would do alone, and votes in their order"


class BrokenRules(AssertionError):
    """The rules that a resource breaks, each with what was seen."""

    def __init__(self, broken: Mapping[Rule, str]) -> None:
        lines = [f"{rule.name}: {seen}. The rule: {rule.value}." for rule, seen in broken.items()]
        super().__init__("\n".join(lines))
        self.broken = dict(broken)


class _Broken(Exception):
    def __init__(self, rule: Rule, seen: str) -> None:
        super().__init__(seen)
        self.rule = rule
        self.seen = seen


class _UndoneOnPurpose(Exception):
    """Raised after a method has returned, so that its work is undone."""


async def check_participant(
    resource: Callable[[], Resource[Tx, Op] | BatchResource[Tx, Op]],
    *,
    schema: Schema,
    accepted: Sequence[Op],
    refused: Sequence[Op],
    rivals: Sequence[tuple[Op, Op]],
    setup: Callable[[Tx], object] | None = None,
    state: Callable[[Tx], object] | None = None,
) -> None:
    """Checks a resource that works on SQLite. Raises BrokenRules, an AssertionError.

    `resource` makes one, and is called again for each start of the participant; `schema`
    are its tables, and `setup` fills them. From there on `accepted` can all be done, each
    alone and all of them (at least one; two or more let it see whether branches are kept
    apart), and each of `refused` (at least one) cannot. Of each of `rivals` the first can be
    done and then the second cannot; () where no two operations want the same thing.

    `state` reads what counts, if that is not all of the schema's tables: where abort leaves
    a trace on purpose, or commit writes down the time. Raises ValueError without samples.
    """
    if not accepted or not refused:
        raise ValueError("give at least one operation that is accepted and one that is refused")
    broken: dict[Rule, str] = {}
    with tempfile.TemporaryDirectory() as directory:
        check = _Check(Path(directory), resource, schema, (accepted, refused, rivals), setup, state)
        for scenario in check.scenarios():
            try:
                await scenario()
            except _Broken as error:
                broken.setdefault(error.rule, error.seen)
            finally:
                await check.close()
    if broken:
        raise BrokenRules(broken)


class _Watched(Generic[Op]):
    """The resource, with an eye on what it does that a participant would not notice."""

    def __init__(self, resource: Any) -> None:
        self._resource = resource
        # Named methods are undone after they have returned, as if a later step had failed.
        self.undo: set[str] = set()
        self.broken: _Broken | None = None
        self.raised: Exception | None = None

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            result = getattr(self._resource, method)(*arguments)
        except (Refused, Busy) as error:
            if _REASON.fullmatch(error.reason) is None:
                self._breaks(Rule.REASONS, f"{method} gave the reason {error.reason!r}")
            raise
        except Exception as error:
            self.raised = error
            raise
        if inspect.iscoroutine(result):
            result.close()
            self._breaks(Rule.PLAIN_METHODS, f"{method} is a coroutine function")
        if method in self.undo:
            raise _UndoneOnPurpose
        return result

    def _breaks(self, rule: Rule, seen: str) -> NoReturn:
        self.broken = self.broken or _Broken(rule, seen)
        raise self.broken


class _WatchedAlone(_Watched[Op]):
    def prepare(self, tx: Tx, key: BranchKey, operation: Op) -> Vote:
        vote = self._call("prepare", tx, key, operation)
        if vote not in (Vote.COMMIT, Vote.READ_ONLY, Vote.ABORT):
            self._breaks(Rule.ANSWERS, f"prepare returned {vote!r}")
        return Vote(vote)

    def commit(self, tx: Tx, key: BranchKey, operation: Op) -> None:
        self._call("commit", tx, key, operation)

    def abort(self, tx: Tx, key: BranchKey, operation: Op) -> None:
        self._call("abort", tx, key, operation)


class _WatchedBatches(_Watched[Op]):
    def prepare_all(self, tx: Tx, items: Sequence[Item[Op]]) -> Sequence[Vote | Refused | Busy]:
        votes = self._answers(self._call("prepare_all", tx, items), len(items))
        for vote in votes:
            if isinstance(vote, Refused | Busy):
                if _REASON.fullmatch(vote.reason) is None:
                    self._breaks(Rule.REASONS, f"prepare_all gave the reason {vote.reason!r}")
            elif vote not in (Vote.COMMIT, Vote.READ_ONLY, Vote.ABORT):
                self._breaks(Rule.ANSWERS, f"prepare_all returned {vote!r} for an item")
        return votes

    def commit_all(self, tx: Tx, items: Sequence[Item[Op]]) -> None:
        self._call("commit_all", tx, items)

    def abort_all(self, tx: Tx, items: Sequence[Item[Op]]) -> None:
        self._call("abort_all", tx, items)

    def _answers(self, votes: Any, count: int) -> list[Vote | Refused | Busy]:
        if not isinstance(votes, Sequence) or len(votes) != count:
            self._breaks(
                Rule.BATCHES_ARE_ALIKE, f"prepare_all returned {votes!r} for {count} items"
            )
        return list(votes)


class _Samples(Generic[Op]):
    """A codec whose operations are the samples, by number; each use gets a copy of its own."""

    def __init__(self, samples: Sequence[Op]) -> None:
        self._samples = samples

    def operation(self, number: int) -> Operation:
        return Operation("check/sample", str(number).encode())

    def decode(self, operation: Operation) -> Op:
        return self.read(operation)

    def read(self, operation: Operation) -> Op:
        return copy.deepcopy(self._samples[int(operation.value)])


class _Site(Generic[Op]):
    """One participant over a file of its own, which may be started again."""

    def __init__(self, path: Path, check: _Check[Op]) -> None:
        self._path = path
        self._check = check
        self._store: SqliteStore | None = None

    async def start(self) -> None:
        """Opens the store, with a new resource."""
        schema = {**self._check.schema, **sqlite_branches.schema()}
        self._store = open_store(self._path, schema, on_commit_failure=_commit_failed)
        resource = self._check.resource()
        batches = hasattr(resource, "prepare_all")
        self.watched: Any = (_WatchedBatches if batches else _WatchedAlone)(resource)
        self.suffix = "_all" if batches else ""
        self._participant: Participant[Tx, Op] = Participant(
            store=self._store,
            branches=sqlite_branches.SqliteBranchTable(),
            resource=self.watched,
            codec=self._check.samples,
            coordinators=frozenset({_COORDINATOR}),
            clock=SystemClock(),
        )

    async def set_up(self) -> None:
        assert self._store is not None
        if self._check.setup is not None:
            await self._store.write(self._check.setup)

    async def restart(self) -> None:
        """As after a crash: only what is in the file is left."""
        await self.close()
        await self.start()

    async def close(self) -> None:
        if self._store is not None:
            store, self._store = self._store, None
            await store.close()

    async def state(self) -> object:
        """What the tables hold."""
        assert self._store is not None
        return await self._store.read(self._check.state)

    async def tell(self, *messages: Message) -> list[Reply]:
        """All at once. Raises _Broken for what the resource did on the way."""
        self.watched.raised = None
        replies = await self._participant.exchange(Batch(messages))
        if self.watched.broken is not None:
            raise self.watched.broken
        if any(isinstance(reply, GroupLost) for reply in replies):
            raise _Broken(
                Rule.TRANSACTION, "the local transaction had ended when a method returned"
            )
        return replies

    async def prepare(self, key: BranchKey, number: int) -> VoteReply | Busy:
        """The vote. Raises _Broken when there is none."""
        (reply,) = await self.tell(self._check.prepare(key, number))
        if isinstance(reply, VoteReply | Busy):
            return reply
        name, error = self._check.name(number), self.watched.raised
        raise _Broken(Rule.ANSWERS, f"prepare of {name} raised {error or reply!r}{_hint(error)}")

    async def accept(self, key: BranchKey, number: int, rule: Rule, when: str = "") -> Vote:
        """Prepares what has to be accepted."""
        reply = await self.prepare(key, number)
        if isinstance(reply, Busy) or reply.vote is Vote.ABORT:
            if rule is Rule.ACCEPTS and number in self._check.accepts:
                rule, when = Rule.NOTHING_ELSEWHERE, " by a new database, and accepted by another"
            raise _Broken(rule, f"{self._check.name(number)} was refused ({reply.reason}){when}")
        self._check.accepts.add(number)
        return reply.vote

    async def commit(self, key: BranchKey, number: int, rule: Rule = Rule.COMMIT_SUCCEEDS) -> None:
        await self._settle(Commit(key), number, rule)

    async def abort(self, key: BranchKey, number: int, rule: Rule = Rule.ABORT_SUCCEEDS) -> None:
        await self._settle(Abort(key), number, rule)

    async def _settle(self, message: Message, number: int, rule: Rule) -> None:
        (reply,) = await self.tell(message)
        if reply is not None:
            verb, error = type(message).__name__.lower(), self.watched.raised
            seen = f"{verb} of {self._check.name(number)} raised {error or reply!r}{_hint(error)}"
            raise _Broken(rule, seen)


class _Check(Generic[Op]):
    """The scenarios, each with sites of its own."""

    def __init__(
        self,
        directory: Path,
        resource: Callable[[], Resource[Tx, Op] | BatchResource[Tx, Op]],
        schema: Schema,
        samples: tuple[Sequence[Op], Sequence[Op], Sequence[tuple[Op, Op]]],
        setup: Callable[[Tx], object] | None,
        state: Callable[[Tx], object] | None,
    ) -> None:
        accepted, refused, rivals = samples
        self.resource = resource
        self.schema = schema
        self.setup = setup
        self.state = state or _Tables()
        flat = [*accepted, *refused, *(each for pair in rivals for each in pair)]
        self.samples = _Samples(flat)
        self._accepted = range(len(accepted))
        self._refused = range(len(accepted), len(accepted) + len(refused))
        first = len(accepted) + len(refused)
        self._rivals = [(first + 2 * at, first + 2 * at + 1) for at in range(len(rivals))]
        # What a new database has taken once, any other one has to take too.
        self.accepts: set[int] = set()
        self._directory = directory
        self._sites: list[_Site[Op]] = []
        self._count = 0

    def scenarios(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """In an order in which the first one that fails says most."""
        return (
            self._votes,
            self._undone,
            self._commits,
            self._aborts,
            self._refusals,
            self._late,
            self._apart,
            self._batches,
            self._rivalry,
            self._restarts,
        )

    def name(self, number: int) -> str:
        """As the user has given it."""
        if number in self._accepted:
            return f"accepted[{number}]"
        if number in self._refused:
            return f"refused[{number - self._refused.start}]"
        pair, side = divmod(number - self._refused.stop, 2)
        return f"rivals[{pair}][{side}]"

    def prepare(self, key: BranchKey, number: int) -> Prepare:
        return Prepare(key, _COORDINATOR, self.samples.operation(number))

    async def site(self) -> _Site[Op]:
        """A new file, set up."""
        self._count += 1
        site = _Site(self._directory / f"{self._count}.db", self)
        self._sites.append(site)
        await site.start()
        await site.set_up()
        return site

    async def close(self) -> None:
        """Closes what the last scenario has opened."""
        sites, self._sites = self._sites, []
        for site in sites:
            await site.close()

    async def _votes(self) -> None:
        for number in self._accepted:
            site = await self.site()
            before = await site.state()
            vote = await site.accept(_key(), number, Rule.ACCEPTS)
            if vote is Vote.READ_ONLY:
                _same(
                    before,
                    await site.state(),
                    Rule.READ_ONLY_CHANGES_NOTHING,
                    f"{self.name(number)} was voted READ_ONLY, and the tables changed",
                )

    async def _undone(self) -> None:
        for number in self._accepted:
            expected, read_only = await self._done(number)
            if read_only:
                continue
            site = await self.site()
            before = await site.state()
            for verb in ("prepare", "commit"):
                site.watched.undo = {verb + site.suffix}
                message = self.prepare(_key(), number) if verb == "prepare" else Commit(_key())
                await site.tell(message)
                site.watched.undo = set()
                seen = f"{verb} of {self.name(number)} was undone"
                _same(
                    before, await site.state(), Rule.NOTHING_ELSEWHERE, f"{seen}, and left a trace"
                )
                if verb == "prepare":
                    await site.accept(_key(), number, Rule.NOTHING_ELSEWHERE, f" after {seen}")
                    before = await site.state()
            await site.commit(_key(), number, Rule.NOTHING_ELSEWHERE)
            _same(
                expected,
                await site.state(),
                Rule.NOTHING_ELSEWHERE,
                f"{self.name(number)} came out otherwise after it had been undone once",
            )
        for first, second in self._rivals:
            site = await self.site()
            site.watched.undo = {"prepare" + site.suffix}
            await site.tell(self.prepare(_key(), first))
            site.watched.undo = set()
            when = f" after prepare of {self.name(first)} was undone"
            await site.accept(_key("t2"), second, Rule.NOTHING_ELSEWHERE, when)

    async def _done(self, number: int) -> tuple[object, bool]:
        """The tables after an operation, and whether it was READ_ONLY."""
        site = await self.site()
        vote = await site.accept(_key(), number, Rule.ACCEPTS)
        if vote is Vote.READ_ONLY:
            return await site.state(), True
        await site.commit(_key(), number)
        return await site.state(), False

    async def _commits(self) -> None:
        for number in self._accepted:
            site = await self.site()
            before = await site.state()
            if await site.accept(_key(), number, Rule.ACCEPTS) is Vote.READ_ONLY:
                continue
            await site.accept(_key(), number, Rule.ONCE, " when it was prepared again")
            await site.commit(_key(), number)
            after = await site.state()
            if before == after:
                seen = f"the tables are after commit of {self.name(number)} as they were before"
                raise _Broken(Rule.COMMIT_TAKES_EFFECT, seen)
            await site.commit(_key(), number, Rule.ONCE)
            await site.accept(_key(), number, Rule.ONCE, " when it was prepared after its commit")
            seen = f"repeated messages for {self.name(number)} changed the tables"
            _same(after, await site.state(), Rule.ONCE, seen)

    async def _aborts(self) -> None:
        for number in self._accepted:
            site = await self.site()
            before = await site.state()
            if await site.accept(_key(), number, Rule.ACCEPTS) is Vote.READ_ONLY:
                continue
            await site.abort(_key(), number)
            seen = f"the tables are after abort of {self.name(number)} not as they were before"
            _same(before, await site.state(), Rule.ABORT_GIVES_BACK, seen)
            await site.abort(_key(), number, Rule.ONCE)
            _same(before, await site.state(), Rule.ONCE, "a repeated abort changed the tables")
            again = _key("t2")
            await site.accept(again, number, Rule.ABORT_GIVES_BACK, " after it had been aborted")
            await site.commit(again, number)

    async def _refusals(self) -> None:
        for number in self._refused:
            site = await self.site()
            before = await site.state()
            reply = await site.prepare(_key(), number)
            if isinstance(reply, Busy):
                seen = f"{self.name(number)} was answered Busy with nothing in the way"
                raise _Broken(Rule.REFUSES, seen)
            if reply.vote is not Vote.ABORT:
                raise _Broken(Rule.REFUSES, f"{self.name(number)} was voted {reply.vote.name}")
            seen = f"{self.name(number)} was refused, and the tables changed"
            _same(before, await site.state(), Rule.REFUSAL_CHANGES_NOTHING, seen)
            for after in self._accepted:
                when = f" after {self.name(number)} had been refused"
                await site.accept(_key(f"t{after + 2}"), after, Rule.REFUSAL_CHANGES_NOTHING, when)

    async def _late(self) -> None:
        site = await self.site()
        before = await site.state()
        number = self._accepted[0]
        await site.abort(_key(), number, Rule.ONCE)
        reply = await site.prepare(_key(), number)
        late = isinstance(reply, VoteReply) and reply.vote is Vote.ABORT
        unknown = (await site.tell(Commit(_key("t2"))))[0]
        aborted = (await site.tell(Commit(_key())))[0]
        assert late, "a prepare after its abort is voted ABORT"
        assert isinstance(unknown, UnknownBranch), "a commit of what was not prepared is an alarm"
        assert isinstance(aborted, Alarm), "a commit of what was aborted is an alarm"
        seen = f"an abort before the prepare of {self.name(number)} changed the tables"
        _same(before, await site.state(), Rule.ONCE, seen)

    async def _restarts(self) -> None:
        rule = Rule.SURVIVES_RESTART
        for number in self._accepted:
            expected, read_only = await self._done(number)
            if read_only:
                continue
            site = await self.site()
            before = await site.state()
            await site.accept(_key(), number, Rule.ACCEPTS)
            await site.restart()
            await site.abort(_key(), number, rule)
            seen = f"{self.name(number)} was prepared, and after a restart"
            _same(before, await site.state(), rule, f"{seen} abort did not give all of it back")
            await site.accept(_key("t2"), number, rule, " after an abort after a restart")
            site = await self.site()
            await site.accept(_key(), number, Rule.ACCEPTS)
            await site.restart()
            await site.commit(_key(), number, rule)
            _same(expected, await site.state(), rule, f"{seen} commit came out otherwise")
        for first, second in self._rivals:
            site = await self.site()
            await site.accept(_key(), first, Rule.ACCEPTS)
            await site.restart()
            await self._not_both(site, (first, second), rule, "prepared before a restart")

    async def _rivalry(self) -> None:
        for first, second in self._rivals:
            pair = (first, second)
            site = await self.site()
            await site.accept(_key(), first, Rule.ACCEPTS)
            await self._not_both(site, pair, Rule.HOLDS, "prepared")
            await site.abort(_key(), first)
            when = f" after {self.name(first)} had been aborted"
            await site.accept(_key("t3"), second, Rule.ABORT_GIVES_BACK, when)
            site = await self.site()
            await site.accept(_key(), first, Rule.ACCEPTS)
            await site.commit(_key(), first)
            await self._not_both(site, pair, Rule.HOLDS, "committed")
            site = await self.site()
            mine, other = await site.tell(
                self.prepare(_key(), first), self.prepare(_key("t2"), second)
            )
            names = f"{self.name(first)} and {self.name(second)}"
            if _vote(mine) is Vote.ABORT:
                raise _Broken(Rule.HOLDS, f"of {names} in one batch the first was refused")
            if _vote(other) is not Vote.ABORT:
                raise _Broken(Rule.HOLDS, f"both {names} were accepted in one batch")

    async def _not_both(
        self, site: _Site[Op], pair: tuple[int, int], rule: Rule, so_far: str
    ) -> None:
        reply = await site.prepare(_key("t2"), pair[1])
        if isinstance(reply, VoteReply) and reply.vote is not Vote.ABORT:
            first, second = map(self.name, pair)
            raise _Broken(rule, f"{second} was accepted although {first} is {so_far}")

    async def _apart(self) -> None:
        if len(self._accepted) < 2:
            return
        rule = Rule.BRANCHES_ARE_APART
        for other in (_key("t1", "b"), _key("t2", "a")):
            for first, second in ((0, 1), (1, 0)):
                alone = await self.site()
                await alone.accept(_key(), first, Rule.ACCEPTS)
                held = await alone.state()
                site = await self.site()
                await site.accept(_key(), first, Rule.ACCEPTS)
                names = f"{self.name(first)} and {self.name(second)}"
                read_only = Vote.READ_ONLY is await site.accept(
                    other, second, rule, f" while {self.name(first)} was prepared"
                )
                if not read_only:
                    await site.abort(other, second, rule)
                where = "of one transaction" if other.txn_id == "t1" else "of two transactions"
                seen = f"{names} were prepared, branches {where}, and aborting the second"
                _same(held, await site.state(), rule, f"{seen} touched the first")

    async def _batches(self) -> None:
        """The same messages at once and one at a time."""
        order = [self._refused[0], *self._accepted, *self._refused[1:], self._accepted[0]]
        prepares = [self.prepare(_key(f"t{at}"), number) for at, number in enumerate(order)]
        together, alone = await self.site(), await self.site()
        votes = [_said(each) for message in prepares for each in await alone.tell(message)]
        at_once = [_said(reply) for reply in await together.tell(*prepares)]
        rule = Rule.BATCHES_ARE_ALIKE
        if together.watched.raised is not None and together.suffix:
            raise _Broken(rule, f"prepare_all raised {together.watched.raised!r} for a batch")
        names = ", ".join(self.name(number) for number in order)
        if votes != at_once:
            raise _Broken(rule, f"for {names} the votes were {votes} alone and {at_once} at once")
        seen = f"{names} left other tables in a batch than alone"
        _same(await alone.state(), await together.state(), rule, f"prepares of {seen}")
        settling: list[Message] = [
            Abort(message.key) if at % 2 else Commit(message.key)
            for at, (message, vote) in enumerate(zip(prepares, votes, strict=True))
            if vote == Vote.COMMIT.name
        ]
        for message in settling:
            await alone.tell(message)
        await together.tell(*settling)
        if together.watched.raised is not None:
            raise _Broken(rule, f"commit or abort of a batch raised {together.watched.raised!r}")
        _same(await alone.state(), await together.state(), rule, f"commits and aborts of {seen}")


class _Tables:
    """Reads all tables but the participant's own; the order of rows does not count."""

    def __init__(self) -> None:
        with closing(sqlite3.connect(":memory:")) as own:
            for component, migrations in sqlite_branches.schema().items():
                apply(own, component, migrations)
            self._own = set(_names(own))

    def __call__(self, tx: Tx) -> dict[str, list[str]]:
        return {
            name: sorted(repr(tuple(row)) for row in tx.execute(f'SELECT * FROM "{name}"'))  # noqa: S608 - names from the schema
            for name in _names(tx)
            if name not in self._own
        }


def _names(tx: Tx) -> list[str]:
    rows = tx.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return [name for (name,) in rows if not name.startswith("sqlite_")]


def _key(txn_id: str = "t1", branch_id: str = "a") -> BranchKey:
    return BranchKey(TxnId(txn_id), BranchId(branch_id))


def _same(expected: object, found: object, rule: Rule, seen: str) -> None:
    if expected != found:
        raise _Broken(rule, f"{seen}: {_difference(expected, found)}")


def _difference(expected: object, found: object) -> str:
    if isinstance(expected, dict) and isinstance(found, dict):
        return "; ".join(
            f"{name} has {found.get(name)} and not {expected.get(name)}"
            for name in sorted({*expected, *found})
            if expected.get(name) != found.get(name)
        )
    return f"{found!r} and not {expected!r}"


def _vote(reply: Reply) -> Vote:
    """A vote; whatever is none does not accept."""
    return reply.vote if isinstance(reply, VoteReply) else Vote.ABORT


def _said(reply: Reply) -> str:
    if isinstance(reply, VoteReply):
        return " ".join(filter(None, (reply.vote.name, reply.reason)))
    return f"{type(reply).__name__} {reply}" if isinstance(reply, TxnError) else "done"


def _hint(error: Exception | None) -> str:
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return " (a connection of its own waits for `tx`, which is open: use `tx`)"
    return ""


def _commit_failed(error: BaseException) -> NoReturn:
    raise AssertionError("the local transaction could not be committed") from error
