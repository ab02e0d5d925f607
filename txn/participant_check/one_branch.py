"""What one branch goes through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from txn.errors import Alarm, Busy, UnknownBranch
from txn.model import (
    Abort,
    Commit,
    Message,
    VoteReply,
)
from txn.participant_check.files import Files, key
from txn.participant_check.rules import Broken, Rule, same
from txn.participant_check.site import Site
from txn.state import Vote

Op = TypeVar("Op")


class OneBranch(Files[Op]):
    """Votes, commits and aborts; repeated, late, and undone."""

    def all(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """In an order in which the first one that fails says most."""
        return (
            self._votes,
            self._undone,
            self._commits,
            self._aborts,
            self._refusals,
            self._late,
        )

    async def _votes(self) -> None:
        for number in self.subject.accepted:
            site = await self.site()
            before = await site.state()
            vote = await site.accept(key(), number, Rule.ACCEPTS)
            if vote is Vote.READ_ONLY:
                same(
                    before,
                    await site.state(),
                    Rule.READ_ONLY_CHANGES_NOTHING,
                    f"{self.name(number)} was voted READ_ONLY, and the tables changed",
                )

    async def _undone(self) -> None:
        rule = Rule.NOTHING_ELSEWHERE
        for number in self.subject.accepted:
            name = self.name(number)
            committed, read_only = await self.done(number)
            if read_only:
                continue
            for verb in ("commit", "abort"):
                if verb == "abort":
                    await self.given_back(number)
                site = await self.site()
                before = await site.state()
                await self._undo(site, "prepare", number)
                await site.accept(key(), number, rule, " after prepare of it was undone")
                await self._undo(site, verb, number)
                if verb == "commit":
                    await site.commit(key(), number, rule)
                else:
                    await site.abort(key(), number)
                expected = committed if verb == "commit" else before
                seen = f"{verb} of {name} came out otherwise after it had been undone once"
                same(expected, await site.state(), rule, seen)
        for first, second in self.subject.rivals:
            site = await self.site()
            await self._undo(site, "prepare", first)
            when = f" after prepare of {self.name(first)} was undone"
            await site.accept(key("t2"), second, rule, when)

    async def _undo(self, site: Site[Op], verb: str, number: int) -> None:
        """Has a method run, and its local transaction rolled back after it has returned."""
        before = await site.state()
        messages: dict[str, Message] = {
            "prepare": self.subject.prepare(key(), number),
            "commit": Commit(key()),
            "abort": Abort(key()),
        }
        site.watched.undo = {verb + site.suffix}
        await site.tell(messages[verb])
        site.watched.undo = set()
        seen = f"{verb} of {self.name(number)} was undone, and left a trace"
        same(before, await site.state(), Rule.NOTHING_ELSEWHERE, seen)

    async def _commits(self) -> None:
        for number in self.subject.accepted:
            site = await self.site()
            before = await site.state()
            if await site.accept(key(), number, Rule.ACCEPTS) is Vote.READ_ONLY:
                continue
            await site.accept(key(), number, Rule.ONCE, " when it was prepared again")
            await site.commit(key(), number)
            after = await site.state()
            if before == after:
                seen = f"the tables are after commit of {self.name(number)} as they were before"
                raise Broken(Rule.COMMIT_TAKES_EFFECT, seen)
            await site.commit(key(), number, Rule.ONCE)
            await site.accept(key(), number, Rule.ONCE, " when it was prepared after its commit")
            seen = f"repeated messages for {self.name(number)} changed the tables"
            same(after, await site.state(), Rule.ONCE, seen)

    async def _aborts(self) -> None:
        for number in self.subject.accepted:
            if (await self.done(number))[1]:
                continue
            site = await self.given_back(number)
            before = await site.state()
            await site.abort(key(), number, Rule.ONCE)
            same(before, await site.state(), Rule.ONCE, "a repeated abort changed the tables")
            again = key("t2")
            await site.accept(again, number, Rule.ABORT_GIVES_BACK, " after it had been aborted")
            await site.commit(again, number)

    async def _refusals(self) -> None:
        for number in self.subject.refused:
            site = await self.site()
            before = await site.state()
            reply = await site.prepare(key(), number)
            if isinstance(reply, Busy):
                seen = f"{self.name(number)} was answered Busy with nothing in the way"
                raise Broken(Rule.REFUSES, seen)
            if reply.vote is not Vote.ABORT:
                raise Broken(Rule.REFUSES, f"{self.name(number)} was voted {reply.vote.name}")
            seen = f"{self.name(number)} was refused, and the tables changed"
            same(before, await site.state(), Rule.REFUSAL_CHANGES_NOTHING, seen)
            for after in self.subject.accepted:
                when = f" after {self.name(number)} had been refused"
                await site.accept(key(f"t{after + 2}"), after, Rule.REFUSAL_CHANGES_NOTHING, when)

    async def _late(self) -> None:
        site = await self.site()
        before = await site.state()
        number = self.subject.accepted[0]
        await site.abort(key(), number, Rule.ONCE)
        reply = await site.prepare(key(), number)
        late = isinstance(reply, VoteReply) and reply.vote is Vote.ABORT
        unknown = (await site.tell(Commit(key("t2"))))[0]
        aborted = (await site.tell(Commit(key())))[0]
        assert late, "a prepare after its abort is voted ABORT"
        assert isinstance(unknown, UnknownBranch), "a commit of what was not prepared is an alarm"
        assert isinstance(aborted, Alarm), "a commit of what was aborted is an alarm"
        seen = f"an abort before the prepare of {self.name(number)} changed the tables"
        same(before, await site.state(), Rule.ONCE, seen)
