"""Crash points around what an engine is handed: a transport, a store, its answers.

Which of them a batch passes depends on what it holds, and nobody should pay for looking: so
where no point is armed, what is handed in is used as it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from txn import crash_point as at
from txn.crash_point import CrashPoint, no_crash
from txn.model import (
    Abort,
    Batch,
    Commit,
    Message,
    Perform,
    Prepare,
    Reply,
    Resolve,
    VoteReply,
)
from txn.state import Vote
from txn.store.group_commit import Report, Store
from txn.transport import ParticipantTransport

_Names: TypeAlias = Mapping[type[Message], str]

_LEAVES: _Names = {
    Prepare: at.PREPARE_LEAVES,
    Commit: at.COMMIT_LEAVES,
    Abort: at.ABORT_LEAVES,
    Perform: at.PERFORM_LEAVES,
    Resolve: at.RESOLVE_LEAVES,
}
_ARRIVES: _Names = {
    Prepare: at.PREPARE_ARRIVES,
    Commit: at.COMMIT_ARRIVES,
    Abort: at.ABORT_ARRIVES,
    Perform: at.PERFORM_ARRIVES,
    Resolve: at.RESOLVE_ARRIVES,
}
_BEFORE: _Names = {
    Prepare: at.BEFORE_VOTE,
    Commit: at.BEFORE_APPLY,
    Abort: at.BEFORE_UNDO,
    Perform: at.BEFORE_PERFORM,
    Resolve: at.BEFORE_RESOLVE,
}
_AFTER: _Names = {
    Prepare: at.AFTER_VOTE,
    Commit: at.AFTER_APPLY,
    Abort: at.AFTER_UNDO,
    Perform: at.AFTER_PERFORM,
    Resolve: at.AFTER_RESOLVE,
}


Tx = TypeVar("Tx")
T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")
R = TypeVar("R", bound=VoteReply | Exception | None)


def around_transport(
    transport: ParticipantTransport, crash_point: CrashPoint
) -> ParticipantTransport:
    """Points before a batch leaves the coordinator, and when its replies have arrived."""
    return transport if crash_point is no_crash else _Transport(transport, crash_point)


def around_answers(
    answers: Callable[[Sequence[Message]], Awaitable[list[R]]], crash_point: CrashPoint
) -> Callable[[Sequence[Message]], Awaitable[list[R]]]:
    """Points when messages have arrived at a participant, and before its replies leave."""
    if crash_point is no_crash:
        return answers

    async def crashing(messages: Sequence[Message]) -> list[R]:
        _pass(crash_point, _ARRIVES, messages)
        replies = await answers(messages)
        for name in _replied(messages, replies, at.VOTE_LEAVES, at.ACKNOWLEDGEMENT_LEAVES):
            crash_point(name)
        return replies

    return crashing


def around_each(
    do: Callable[[Message], Awaitable[VoteReply | None]], crash_point: CrashPoint
) -> Callable[[Message], Awaitable[VoteReply | None]]:
    """Points before and after what one message forces, where each is forced by itself."""
    if crash_point is no_crash:
        return do

    async def crashing(message: Message) -> VoteReply | None:
        _pass(crash_point, _BEFORE, [message])
        result = await do(message)
        if _was_forced(message, result):
            _pass(crash_point, _AFTER, [message])
        return result

    return crashing


def around_store(store: Store[Tx], crash_point: CrashPoint) -> Store[Tx]:
    """Points before and after what a participant's messages force.

    What it hands to `write_all` has a `message` each.
    """
    return store if crash_point is no_crash else _Store(store, crash_point)


class _Transport:
    def __init__(self, transport: ParticipantTransport, crash_point: CrashPoint) -> None:
        self._transport = transport
        self._crash_point = crash_point
        self.offers_one_phase = transport.offers_one_phase

    async def exchange(self, participant: str, batch: Batch, timeout_s: float) -> Sequence[Reply]:
        """See ParticipantTransport.exchange."""
        _pass(self._crash_point, _LEAVES, batch.messages)
        if batch.forgettable:
            self._crash_point(at.FORGET_LEAVES)
        replies = await self._transport.exchange(participant, batch, timeout_s)
        for name in _replied(batch.messages, replies, at.VOTE_ARRIVES, at.ACKNOWLEDGEMENT_ARRIVES):
            self._crash_point(name)
        return replies


class _Store(Generic[Tx]):
    def __init__(self, store: Store[Tx], crash_point: CrashPoint) -> None:
        self._store = store
        self._crash_point = crash_point
        self.write = store.write
        self.hold = store.hold
        self.read = store.read
        self.look_up = store.look_up

    async def write_all(
        self,
        apply: Callable[[Tx, Sequence[In]], Sequence[Out]],
        inputs: Sequence[In],
        *,
        essential: bool = False,
        alone: bool = False,
    ) -> list[Out | Exception]:
        """See Store.write_all."""
        works: Sequence[Any] = inputs
        _pass(self._crash_point, _BEFORE, [work.message for work in works])
        results = await self._store.write_all(apply, inputs, essential=essential, alone=alone)
        written = [
            work.message
            for work, result in zip(works, results, strict=True)
            if _was_forced(work.message, result)
        ]
        _pass(self._crash_point, _AFTER, written)
        return results

    def write_lazily(
        self, work: Callable[[Tx], object], report: Report, *, essential: bool = False
    ) -> None:
        """See Store.write_lazily."""
        self._store.write_lazily(work, report, essential=essential)


def _was_forced(message: Message, result: object) -> bool:
    """What is refused forces nothing, but for a Resolve, which writes down that it is."""
    if isinstance(result, VoteReply):
        return result.vote is Vote.COMMIT or isinstance(message, Resolve)
    return result is None


def _pass(crash_point: CrashPoint, names: _Names, messages: Sequence[Message]) -> None:
    """Once for each kind of message that there is, in the order in which they come."""
    for name in dict.fromkeys(names[type(message)] for message in messages):
        crash_point(name)


def _replied(
    messages: Sequence[Message], replies: Sequence[Any], vote: str, acknowledgement: str
) -> Iterable[str]:
    """What the replies are; an error is neither a vote nor an acknowledgement."""
    names: dict[str, None] = {}
    for message, reply in zip(messages, replies, strict=True):
        if isinstance(reply, VoteReply):
            names[vote] = None
        elif reply is None and isinstance(message, Commit | Abort):
            names[acknowledgement] = None
    return names
