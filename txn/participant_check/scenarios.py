"""What a participant goes through, each time over new files."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from txn.errors import Alarm, Busy, TxnError, UnknownBranch
from txn.model import (
    Abort,
    BranchId,
    BranchKey,
    Commit,
    Message,
    Reply,
    TxnId,
    VoteReply,
)
from txn.participant_check.rules import Broken, Rule, same
from txn.participant_check.site import Site
from txn.participant_check.subject import Subject
from txn.state import Vote

Op = TypeVar("Op")
Tx = sqlite3.Connection


class Scenarios(Generic[Op]):
    """The scenarios, each with sites of its own."""

    def __init__(self, directory: Path, subject: Subject[Op]) -> None:
        self._directory = directory
        self._name = subject.name
        self._subject = subject
        self._sites: list[Site[Op]] = []
        self._count = 0
        self._results: dict[int, tuple[object, bool]] = {}

    def all(self) -> Sequence[Callable[[], Awaitable[None]]]:
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
            self._replicas,
        )

    async def site(self) -> Site[Op]:
        """A new file, set up."""
        self._count += 1
        path = self._directory / f"{self._count}.db"
        if self._count > 1:
            shutil.copyfile(self._directory / "1.db", path)
        site: Site[Op] = Site(path, self._subject)
        self._sites.append(site)
        await site.start()
        if self._count == 1:
            # The first file is what all others start as.
            await site.set_up()
            await site.close()
            self._sites.clear()
            return await self.site()
        return site

    async def close(self) -> None:
        """Closes what the last scenario has opened."""
        sites, self._sites = self._sites, []
        for site in sites:
            await site.close()

    async def _votes(self) -> None:
        for number in self._subject.accepted:
            site = await self.site()
            before = await site.state()
            vote = await site.accept(_key(), number, Rule.ACCEPTS)
            if vote is Vote.READ_ONLY:
                same(
                    before,
                    await site.state(),
                    Rule.READ_ONLY_CHANGES_NOTHING,
                    f"{self._name(number)} was voted READ_ONLY, and the tables changed",
                )

    async def _undone(self) -> None:
        rule = Rule.NOTHING_ELSEWHERE
        for number in self._subject.accepted:
            name = self._name(number)
            committed, read_only = await self._done(number)
            if read_only:
                continue
            for verb in ("commit", "abort"):
                if verb == "abort":
                    await self._given_back(number)
                site = await self.site()
                before = await site.state()
                await self._undo(site, "prepare", number)
                await site.accept(_key(), number, rule, " after prepare of it was undone")
                await self._undo(site, verb, number)
                if verb == "commit":
                    await site.commit(_key(), number, rule)
                else:
                    await site.abort(_key(), number)
                expected = committed if verb == "commit" else before
                seen = f"{verb} of {name} came out otherwise after it had been undone once"
                same(expected, await site.state(), rule, seen)
        for first, second in self._subject.rivals:
            site = await self.site()
            await self._undo(site, "prepare", first)
            when = f" after prepare of {self._name(first)} was undone"
            await site.accept(_key("t2"), second, rule, when)

    async def _undo(self, site: Site[Op], verb: str, number: int) -> None:
        """Has a method run, and its local transaction rolled back after it has returned."""
        before = await site.state()
        messages: dict[str, Message] = {
            "prepare": self._subject.prepare(_key(), number),
            "commit": Commit(_key()),
            "abort": Abort(_key()),
        }
        site.watched.undo = {verb + site.suffix}
        await site.tell(messages[verb])
        site.watched.undo = set()
        seen = f"{verb} of {self._name(number)} was undone, and left a trace"
        same(before, await site.state(), Rule.NOTHING_ELSEWHERE, seen)

    async def _done(self, number: int) -> tuple[object, bool]:
        """The tables after an operation, and whether it was READ_ONLY."""
        if number not in self._results:
            site = await self.site()
            vote = await site.accept(_key(), number, Rule.ACCEPTS)
            if vote is not Vote.READ_ONLY:
                await site.commit(_key(), number)
            self._results[number] = (await site.state(), vote is Vote.READ_ONLY)
        return self._results[number]

    async def _commits(self) -> None:
        for number in self._subject.accepted:
            site = await self.site()
            before = await site.state()
            if await site.accept(_key(), number, Rule.ACCEPTS) is Vote.READ_ONLY:
                continue
            await site.accept(_key(), number, Rule.ONCE, " when it was prepared again")
            await site.commit(_key(), number)
            after = await site.state()
            if before == after:
                seen = f"the tables are after commit of {self._name(number)} as they were before"
                raise Broken(Rule.COMMIT_TAKES_EFFECT, seen)
            await site.commit(_key(), number, Rule.ONCE)
            await site.accept(_key(), number, Rule.ONCE, " when it was prepared after its commit")
            seen = f"repeated messages for {self._name(number)} changed the tables"
            same(after, await site.state(), Rule.ONCE, seen)

    async def _aborts(self) -> None:
        for number in self._subject.accepted:
            if (await self._done(number))[1]:
                continue
            site = await self._given_back(number)
            before = await site.state()
            await site.abort(_key(), number, Rule.ONCE)
            same(before, await site.state(), Rule.ONCE, "a repeated abort changed the tables")
            again = _key("t2")
            await site.accept(again, number, Rule.ABORT_GIVES_BACK, " after it had been aborted")
            await site.commit(again, number)

    async def _given_back(self, number: int) -> Site[Op]:
        """Where an operation was prepared and aborted."""
        site = await self.site()
        before = await site.state()
        await site.accept(_key(), number, Rule.ACCEPTS)
        await site.abort(_key(), number)
        seen = f"the tables are after abort of {self._name(number)} not as they were before"
        same(before, await site.state(), Rule.ABORT_GIVES_BACK, seen)
        return site

    async def _refusals(self) -> None:
        for number in self._subject.refused:
            site = await self.site()
            before = await site.state()
            reply = await site.prepare(_key(), number)
            if isinstance(reply, Busy):
                seen = f"{self._name(number)} was answered Busy with nothing in the way"
                raise Broken(Rule.REFUSES, seen)
            if reply.vote is not Vote.ABORT:
                raise Broken(Rule.REFUSES, f"{self._name(number)} was voted {reply.vote.name}")
            seen = f"{self._name(number)} was refused, and the tables changed"
            same(before, await site.state(), Rule.REFUSAL_CHANGES_NOTHING, seen)
            for after in self._subject.accepted:
                when = f" after {self._name(number)} had been refused"
                await site.accept(_key(f"t{after + 2}"), after, Rule.REFUSAL_CHANGES_NOTHING, when)

    async def _late(self) -> None:
        site = await self.site()
        before = await site.state()
        number = self._subject.accepted[0]
        await site.abort(_key(), number, Rule.ONCE)
        reply = await site.prepare(_key(), number)
        late = isinstance(reply, VoteReply) and reply.vote is Vote.ABORT
        unknown = (await site.tell(Commit(_key("t2"))))[0]
        aborted = (await site.tell(Commit(_key())))[0]
        assert late, "a prepare after its abort is voted ABORT"
        assert isinstance(unknown, UnknownBranch), "a commit of what was not prepared is an alarm"
        assert isinstance(aborted, Alarm), "a commit of what was aborted is an alarm"
        seen = f"an abort before the prepare of {self._name(number)} changed the tables"
        same(before, await site.state(), Rule.ONCE, seen)

    async def _restarts(self) -> None:
        rule = Rule.SURVIVES_RESTART
        for number in self._subject.accepted:
            expected, read_only = await self._done(number)
            if read_only:
                continue
            site = await self.site()
            before = await site.state()
            await site.accept(_key(), number, Rule.ACCEPTS)
            await site.restart()
            await site.abort(_key(), number, rule)
            seen = f"{self._name(number)} was prepared, and after a restart"
            same(before, await site.state(), rule, f"{seen} abort did not give all of it back")
            await site.accept(_key("t2"), number, rule, " after an abort after a restart")
            site = await self.site()
            await site.accept(_key(), number, Rule.ACCEPTS)
            await site.restart()
            await site.commit(_key(), number, rule)
            same(expected, await site.state(), rule, f"{seen} commit came out otherwise")
        for first, second in self._subject.rivals:
            site = await self.site()
            await site.accept(_key(), first, Rule.ACCEPTS)
            await site.restart()
            await self._not_both(site, (first, second), rule, "prepared before a restart")

    async def _rivalry(self) -> None:
        for first, second in self._subject.rivals:
            pair = (first, second)
            site = await self.site()
            await site.accept(_key(), first, Rule.ACCEPTS)
            await self._not_both(site, pair, Rule.HOLDS, "prepared")
            await site.abort(_key(), first)
            when = f" after {self._name(first)} had been aborted"
            await site.accept(_key("t3"), second, Rule.ABORT_GIVES_BACK, when)
            site = await self.site()
            await site.accept(_key(), first, Rule.ACCEPTS)
            await site.commit(_key(), first)
            await self._not_both(site, pair, Rule.HOLDS, "committed")
            site = await self.site()
            mine, other = await site.tell(
                self._subject.prepare(_key(), first), self._subject.prepare(_key("t2"), second)
            )
            names = f"{self._name(first)} and {self._name(second)}"
            if _vote(mine) is Vote.ABORT:
                raise Broken(Rule.HOLDS, f"of {names} in one batch the first was refused")
            if _vote(other) is not Vote.ABORT:
                raise Broken(Rule.HOLDS, f"both {names} were accepted in one batch")

    async def _replicas(self) -> None:
        """Two processes may serve one file; each sees what the other has reserved."""
        rule = Rule.NOTHING_ELSEWHERE
        for first, second in self._subject.rivals:
            site = await self.site()
            other: Site[Op] = Site(site.path, self._subject)
            self._sites.append(other)
            await other.start()
            await other.accept(_key("t0"), second, Rule.ACCEPTS)
            await other.abort(_key("t0"), second)
            when = " after another replica had given it back"
            await site.accept(_key(), first, rule, when)
            await self._not_both(other, (first, second), rule, "prepared by another replica")

    async def _not_both(
        self, site: Site[Op], pair: tuple[int, int], rule: Rule, so_far: str
    ) -> None:
        reply = await site.prepare(_key("t2"), pair[1])
        if isinstance(reply, VoteReply) and reply.vote is not Vote.ABORT:
            first, second = map(self._name, pair)
            raise Broken(rule, f"{second} was accepted although {first} is {so_far}")

    async def _apart(self) -> None:
        if len(self._subject.accepted) < 2:
            return
        rule = Rule.BRANCHES_ARE_APART
        for other in (_key("t1", "b"), _key("t2", "a")):
            for first, second in ((0, 1), (1, 0)):
                alone = await self.site()
                await alone.accept(_key(), first, Rule.ACCEPTS)
                held = await alone.state()
                site = await self.site()
                await site.accept(_key(), first, Rule.ACCEPTS)
                names = f"{self._name(first)} and {self._name(second)}"
                read_only = Vote.READ_ONLY is await site.accept(
                    other, second, rule, f" while {self._name(first)} was prepared"
                )
                if not read_only:
                    await site.abort(other, second, rule)
                where = "of one transaction" if other.txn_id == "t1" else "of two transactions"
                seen = f"{names} were prepared, branches {where}, and aborting the second"
                same(held, await site.state(), rule, f"{seen} touched the first")

    async def _batches(self) -> None:
        """The same messages at once and one at a time."""
        order = [
            self._subject.refused[0],
            *self._subject.accepted,
            *self._subject.refused[1:],
            self._subject.accepted[0],
        ]
        prepares = [
            self._subject.prepare(_key(f"t{at}"), number) for at, number in enumerate(order)
        ]
        together, alone = await self.site(), await self.site()
        votes = [_said(each) for message in prepares for each in await alone.tell(message)]
        at_once = [_said(reply) for reply in await together.tell(*prepares)]
        rule = Rule.BATCHES_ARE_ALIKE
        if together.watched.raised is not None and together.suffix:
            raise Broken(rule, f"prepare_all raised {together.watched.raised!r} for a batch")
        names = ", ".join(self._name(number) for number in order)
        if votes != at_once:
            raise Broken(rule, f"for {names} the votes were {votes} alone and {at_once} at once")
        seen = f"{names} left other tables in a batch than alone"
        same(await alone.state(), await together.state(), rule, f"prepares of {seen}")
        settling: list[Message] = [
            Abort(message.key) if at % 2 else Commit(message.key)
            for at, (message, vote) in enumerate(zip(prepares, votes, strict=True))
            if vote == Vote.COMMIT.name
        ]
        for message in settling:
            await alone.tell(message)
        await together.tell(*settling)
        if together.watched.raised is not None:
            raise Broken(rule, f"commit or abort of a batch raised {together.watched.raised!r}")
        same(await alone.state(), await together.state(), rule, f"commits and aborts of {seen}")


def _key(txn_id: str = "t1", branch_id: str = "a") -> BranchKey:
    return BranchKey(TxnId(txn_id), BranchId(branch_id))


def _vote(reply: Reply) -> Vote:
    """A vote; whatever is none does not accept."""
    return reply.vote if isinstance(reply, VoteReply) else Vote.ABORT


def _said(reply: Reply) -> str:
    if isinstance(reply, VoteReply):
        return " ".join(filter(None, (reply.vote.name, reply.reason)))
    return f"{type(reply).__name__} {reply}" if isinstance(reply, TxnError) else "done"
