"""What branches are to each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from txn.errors import TxnError
from txn.model import (
    Abort,
    Commit,
    Message,
    Reply,
    VoteReply,
)
from txn.participant_check.files import Files, key
from txn.participant_check.rules import Broken, Rule, same
from txn.participant_check.site import Site
from txn.state import Vote

Op = TypeVar("Op")


class SeveralBranches(Files[Op]):
    """Side by side, in one batch, as rivals; after restarts, and at another replica."""

    def all(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """In an order in which the first one that fails says most."""
        return (
            self._apart,
            self._batches,
            self._rivalry,
            self._restarts,
            self._replicas,
            self._one_phase,
        )

    async def _one_phase(self) -> None:
        rule = Rule.ONE_PHASE
        for number in self.subject.accepted:
            expected, _ = await self.done(number)
            site = await self.site()
            for _ in range(2):
                await site.perform(key(), number)
                seen = f"prepare and commit of {self.name(number)} in one `tx` came out otherwise"
                same(expected, await site.state(), rule, seen)
        for number in self.subject.refused:
            site = await self.site()
            before = await site.state()
            (reply,) = await site.tell(self.subject.perform(key(), number))
            if _vote(reply) is not Vote.ABORT:
                raise Broken(Rule.REFUSES, f"{self.name(number)} was done in one phase")
            seen = f"{self.name(number)} was refused in one phase, and the tables changed"
            same(before, await site.state(), Rule.REFUSAL_CHANGES_NOTHING, seen)

    async def _restarts(self) -> None:
        rule = Rule.SURVIVES_RESTART
        for number in self.subject.accepted:
            expected, read_only = await self.done(number)
            if read_only:
                continue
            site = await self.site()
            before = await site.state()
            await site.accept(key(), number, Rule.ACCEPTS)
            await site.restart()
            await site.abort(key(), number, rule)
            seen = f"{self.name(number)} was prepared, and after a restart"
            same(before, await site.state(), rule, f"{seen} abort did not give all of it back")
            await site.accept(key("t2"), number, rule, " after an abort after a restart")
            site = await self.site()
            await site.accept(key(), number, Rule.ACCEPTS)
            await site.restart()
            await site.commit(key(), number, rule)
            same(expected, await site.state(), rule, f"{seen} commit came out otherwise")
        for first, second in self.subject.rivals:
            site = await self.site()
            await site.accept(key(), first, Rule.ACCEPTS)
            await site.restart()
            await self._not_both(site, (first, second), rule, "prepared before a restart")

    async def _rivalry(self) -> None:
        for first, second in self.subject.rivals:
            pair = (first, second)
            site = await self.site()
            await site.accept(key(), first, Rule.ACCEPTS)
            await self._not_both(site, pair, Rule.HOLDS, "prepared")
            await site.abort(key(), first)
            when = f" after {self.name(first)} had been aborted"
            await site.accept(key("t3"), second, Rule.ABORT_GIVES_BACK, when)
            site = await self.site()
            await site.accept(key(), first, Rule.ACCEPTS)
            await site.commit(key(), first)
            await self._not_both(site, pair, Rule.HOLDS, "committed")
            site = await self.site()
            mine, other = await site.tell(
                self.subject.prepare(key(), first), self.subject.prepare(key("t2"), second)
            )
            names = f"{self.name(first)} and {self.name(second)}"
            if _vote(mine) is Vote.ABORT:
                raise Broken(Rule.HOLDS, f"of {names} in one batch the first was refused")
            if _vote(other) is not Vote.ABORT:
                raise Broken(Rule.HOLDS, f"both {names} were accepted in one batch")

    async def _replicas(self) -> None:
        """Two processes may serve one file; each sees what the other has reserved."""
        rule = Rule.NOTHING_ELSEWHERE
        for first, second in self.subject.rivals:
            site = await self.site()
            other: Site[Op] = Site(site.path, self.subject)
            self.sites.append(other)
            await other.start()
            await other.accept(key("t0"), second, Rule.ACCEPTS)
            await other.abort(key("t0"), second)
            when = " after another replica had given it back"
            await site.accept(key(), first, rule, when)
            await self._not_both(other, (first, second), rule, "prepared by another replica")

    async def _not_both(
        self, site: Site[Op], pair: tuple[int, int], rule: Rule, so_far: str
    ) -> None:
        reply = await site.prepare(key("t2"), pair[1])
        if isinstance(reply, VoteReply) and reply.vote is not Vote.ABORT:
            first, second = map(self.name, pair)
            raise Broken(rule, f"{second} was accepted although {first} is {so_far}")

    async def _apart(self) -> None:
        if len(self.subject.accepted) < 2:
            return
        rule = Rule.BRANCHES_ARE_APART
        for other in (key("t1", "b"), key("t2", "a")):
            for first, second in ((0, 1), (1, 0)):
                alone = await self.site()
                await alone.accept(key(), first, Rule.ACCEPTS)
                held = await alone.state()
                site = await self.site()
                await site.accept(key(), first, Rule.ACCEPTS)
                names = f"{self.name(first)} and {self.name(second)}"
                read_only = Vote.READ_ONLY is await site.accept(
                    other, second, rule, f" while {self.name(first)} was prepared"
                )
                if not read_only:
                    await site.abort(other, second, rule)
                where = "of one transaction" if other.txn_id == "t1" else "of two transactions"
                seen = f"{names} were prepared, branches {where}, and aborting the second"
                same(held, await site.state(), rule, f"{seen} touched the first")

    async def _batches(self) -> None:
        """The same messages at once and one at a time."""
        order = [
            self.subject.refused[0],
            *self.subject.accepted,
            *self.subject.refused[1:],
            self.subject.accepted[0],
        ]
        prepares = [self.subject.prepare(key(f"t{at}"), number) for at, number in enumerate(order)]
        together, alone = await self.site(), await self.site()
        votes = [_said(each) for message in prepares for each in await alone.tell(message)]
        at_once = [_said(reply) for reply in await together.tell(*prepares)]
        rule = Rule.BATCHES_ARE_ALIKE
        if together.watched.raised is not None and together.suffix:
            raise Broken(rule, f"prepare_all raised {together.watched.raised!r} for a batch")
        names = ", ".join(self.name(number) for number in order)
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


def _vote(reply: Reply) -> Vote:
    """A vote; whatever is none does not accept."""
    return reply.vote if isinstance(reply, VoteReply) else Vote.ABORT


def _said(reply: Reply) -> str:
    if isinstance(reply, VoteReply):
        return " ".join(filter(None, (reply.vote.name, reply.reason)))
    return f"{type(reply).__name__} {reply}" if isinstance(reply, TxnError) else "done"
