"""Crash points around a transport, and that there are none where none is armed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.txn.helpers import key, prepare
from txn import crash_point as at
from txn.crash_point import no_crash
from txn.crashing import around_answers, around_store, around_transport
from txn.errors import Unreachable
from txn.model import Abort, Batch, Commit, Message, Perform, Reply, Resolve, TxnId, VoteReply
from txn.state import Vote
from txn.testing import MemoryStore

YES = VoteReply(Vote.COMMIT)


class Scripted:
    """A ParticipantTransport with the replies that it is given."""

    def __init__(self, replies: Sequence[Reply] | Unreachable) -> None:
        self._replies = replies

    async def exchange(self, participant: str, batch: Batch, timeout_s: float) -> Sequence[Reply]:
        """See ParticipantTransport.exchange."""
        if isinstance(self._replies, Unreachable):
            raise self._replies
        return self._replies

    def offers_one_phase(self, participant: str) -> bool:
        """See ParticipantTransport.offers_one_phase."""
        return participant == "modern"


async def passed(batch: Batch, replies: Sequence[Reply] | Unreachable) -> list[str]:
    """The points of one exchange."""
    points: list[str] = []
    transport = around_transport(Scripted(replies), points.append)
    if isinstance(replies, Unreachable):
        with pytest.raises(Unreachable):
            await transport.exchange("p", batch, 1.0)
    else:
        assert replies == await transport.exchange("p", batch, 1.0)
    return points


@pytest.mark.parametrize(
    ("messages", "replies", "points"),
    [
        ([prepare("t1"), prepare("t2")], [YES, YES], [at.PREPARE_LEAVES, at.VOTE_ARRIVES]),
        ([Commit(key("t1"))], [None], [at.COMMIT_LEAVES, at.ACKNOWLEDGEMENT_ARRIVES]),
        (
            [Abort(key("t1")), prepare("t2")],
            [None, YES],
            [at.ABORT_LEAVES, at.PREPARE_LEAVES, at.ACKNOWLEDGEMENT_ARRIVES, at.VOTE_ARRIVES],
        ),
        (
            [Perform(key("t1"), "coordinator", prepare().operation), Resolve(key("t2"))],
            [YES, VoteReply(Vote.ABORT, "NO")],
            [at.PERFORM_LEAVES, at.RESOLVE_LEAVES, at.VOTE_ARRIVES],
        ),
        ([Commit(key("t1")), prepare("t2")], [Unreachable("GONE")] * 2,
         [at.COMMIT_LEAVES, at.PREPARE_LEAVES]),
        ([prepare("t1")], Unreachable("GONE"), [at.PREPARE_LEAVES]),
    ],
    ids=["votes", "commit", "both", "one-phase", "errors", "no-answer"],
)  # fmt: skip
async def test_a_coordinator_passes_what_its_batch_holds(
    messages: Sequence[Message], replies: Sequence[Reply] | Unreachable, points: Sequence[str]
) -> None:
    """Once for each kind of message before it leaves, and once for each kind of reply."""
    assert points == await passed(Batch(messages), replies)


async def test_word_of_what_may_be_forgotten_leaves_with_a_batch() -> None:
    """It is a message of its own, which nobody answers."""
    batch = Batch([prepare("t2")], [key("t1")], TxnId("t2"))
    assert [at.PREPARE_LEAVES, at.FORGET_LEAVES, at.VOTE_ARRIVES] == await passed(batch, [YES])


def test_whether_one_phase_is_offered_is_asked_through() -> None:
    """What is put around a transport hides nothing of it."""
    points: list[str] = []
    transport = around_transport(Scripted([]), points.append)
    assert [True, False] == [transport.offers_one_phase(each) for each in ("modern", "old")]


async def test_nothing_is_put_around_what_production_is_handed() -> None:
    """Where no point is armed a transport, a store and answers are used as they are."""

    async def answers(messages: Sequence[Message]) -> list[VoteReply | Exception | None]:
        return []

    transport, store = Scripted([]), MemoryStore()
    assert around_transport(transport, no_crash) is transport
    assert around_store(store, no_crash) is store
    assert around_answers(answers, no_crash) is answers


def test_every_point_has_a_name_of_its_own() -> None:
    """Who arms one kills at one place; and none is left out of those that are swept."""
    names = [value for name, value in vars(at).items() if name.isupper()]
    assert sorted(names) == sorted(at.all_points())
    assert all(name == name.lower() for name in names)
