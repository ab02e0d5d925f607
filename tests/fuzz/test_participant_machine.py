"""The participant's engine against a model of a few lines: whatever comes, in whatever order.

Prepares, commits and aborts, performs and questions what became of them, repeated and late,
several in one batch, other operations under the same name, words of what may be forgotten; over
both tables and both kinds of resources.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from tests.fuzz.machines import AsyncMachine, tried
from tests.txn.participant_rig import KINDS, Counting, CountingAll, Rig, kind_id, open_rig
from txn.errors import (
    BranchAborted,
    BranchCommitted,
    BranchDiffers,
    BranchForgotten,
    BranchPrepared,
    Busy,
    IdempotencyConflict,
    InvalidOperation,
    ResourceFailed,
    TxnError,
    UnknownBranch,
    Unreachable,
)
from txn.model import (
    Abort,
    Batch,
    BranchId,
    BranchKey,
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
from txn.participant import INVALID_OPERATION, LATE_PREPARE
from txn.resource import REFUSED
from txn.state import BranchState, Vote

LOGS = ("x", "X", "y")
# Ids as they come, and horizons that nobody should send.
IDS = [f"{number}-{log}" for number in range(4) for log in LOGS]
HORIZONS = [*IDS, "9-x", "9-y", "9-%", "9-_", "9", "-", "9-x'"]
VOTES: dict[str, Reply] = {
    "yes": VoteReply(Vote.COMMIT),
    "other": VoteReply(Vote.COMMIT),
    "break": VoteReply(Vote.COMMIT),
    "read": VoteReply(Vote.READ_ONLY),
    "abort": VoteReply(Vote.ABORT, REFUSED),
    "refuse": VoteReply(Vote.ABORT, "NO"),
    "busy": Busy("TAKEN"),
    "bad": InvalidOperation([]),
}
YES = VoteReply(Vote.COMMIT)
LATE = VoteReply(Vote.ABORT, LATE_PREPARE)
REASONS = ("", "WHY")

_KEYS = st.builds(BranchKey, st.sampled_from([*map(TxnId, IDS)]), st.just(BranchId("b")))
_OPERATIONS = st.sampled_from([Operation("x/a", what.encode()) for what in VOTES])
_COORDINATOR = st.just("coordinator")
_MESSAGES = st.one_of(
    st.builds(Prepare, _KEYS, _COORDINATOR, _OPERATIONS),
    st.builds(Commit, _KEYS),
    st.builds(Abort, _KEYS),
    st.builds(Perform, _KEYS, _COORDINATOR, _OPERATIONS),
    st.builds(Resolve, _KEYS, st.sampled_from(REASONS)),
)
_HORIZONS = st.sampled_from([*map(TxnId, HORIZONS)])


class Row(NamedTuple):
    """A branch, what it is to do, and why it was refused in one phase."""

    state: BranchState
    what: str | None = None
    reason: str = ""


@dataclass
class Model:
    """What a participant has to remember, and has to have done.

    A resource that refuses by raising has its refusal of a perform written after the rest of
    the batch; so has an operation that breaks a rule, with any resource.
    """

    raises: bool
    rows: dict[BranchKey, Row] = field(default_factory=dict)
    horizons: dict[str, str] = field(default_factory=dict)
    effects: Counter[str] = field(default_factory=Counter)

    def answers(self, messages: list[Message]) -> list[Reply]:
        """What each is answered with, and what they do."""
        replies = [self._answer(message) for message in messages]
        for at, message in enumerate(messages):
            if isinstance(message, Perform) and (reason := self._refused(message, replies[at])):
                reply = self._resolve(message.key, reason)
                late = isinstance(reply, BranchForgotten)
                replies[at] = VoteReply(Vote.ABORT, reason) if late else reply
        return replies

    def _answer(self, message: Message) -> Reply:
        row = self.rows.get(message.key)
        if isinstance(message, Prepare):
            return self._prepare(message.key, row, message.operation.value.decode())
        if isinstance(message, Commit):
            return self._commit(message.key, row)
        if isinstance(message, Perform):
            return self._perform(message.key, row, message.operation.value.decode())
        if isinstance(message, Resolve):
            return self._resolve(message.key, message.reason)
        return self._abort(message.key, row)

    def forget(self, keys: list[BranchKey], horizon: str) -> None:
        """What is over and told; and what is aborted in that log, since it cannot come again."""
        log = log_id_of(horizon)
        self.horizons[log] = max(self.horizons.get(log, ""), horizon)
        self.rows = {
            key: row
            for key, row in self.rows.items()
            if key.txn_id >= horizon
            or (
                not (row.state is BranchState.COMMITTED and key in keys)
                and not (row.state is BranchState.ABORTED and log_id_of(key.txn_id) == log)
            )
        }

    def _is_late(self, key: BranchKey) -> bool:
        return key.txn_id < self.horizons.get(log_id_of(key.txn_id), "")

    def _prepare(self, key: BranchKey, row: Row | None, what: str) -> Reply:
        if what == "bad":
            return VOTES[what]
        if row is None:
            if self._is_late(key):
                return LATE
            if VOTES[what] == YES:
                self.rows[key] = Row(BranchState.PREPARED, what)
            return VOTES[what]
        if row.state is BranchState.ABORTED:
            return LATE
        return YES if row.what == what else IdempotencyConflict()

    def _commit(self, key: BranchKey, row: Row | None) -> Reply:
        if row is None:
            return UnknownBranch()
        if row.state is BranchState.ABORTED:
            return BranchAborted()
        if row.state is BranchState.PREPARED:
            if row.what == "break":
                return ResourceFailed()
            self.rows[key] = Row(BranchState.COMMITTED, row.what)
            self.effects[f"commit {row.what}"] += 1
        return None

    def _abort(self, key: BranchKey, row: Row | None) -> Reply:
        if row is not None and row.state is BranchState.COMMITTED:
            return BranchCommitted()
        if row is not None and row.state is BranchState.PREPARED:
            self.effects[f"abort {row.what}"] += 1
        if row is None or row.state is BranchState.PREPARED:
            self.rows[key] = Row(BranchState.ABORTED, row and row.what)
        return None

    def _perform(self, key: BranchKey, row: Row | None, what: str) -> Reply:
        if what == "bad":
            return VOTES[what]
        if row is None:
            return LATE if self._is_late(key) else self._perform_first(key, what)
        if row.state is BranchState.PREPARED:
            return BranchPrepared()
        if row.state is BranchState.ABORTED:
            return VoteReply(Vote.ABORT, row.reason or LATE_PREPARE)
        return YES if row.what == what else BranchDiffers()

    def _perform_first(self, key: BranchKey, what: str) -> Reply:
        vote = VOTES[what]
        if what == "break":
            return Unreachable()
        if vote == YES:
            self.rows[key] = Row(BranchState.COMMITTED, what)
            self.effects[f"commit {what}"] += 1
        elif isinstance(vote, VoteReply) and vote.vote is Vote.ABORT and not self.raises:
            self.rows[key] = Row(BranchState.ABORTED, None, vote.reason)
        return vote

    def _refused(self, message: Perform, reply: Reply) -> str | None:
        """Why, when there was no row to leave beside the refusal."""
        if isinstance(reply, InvalidOperation):
            return INVALID_OPERATION
        said = VOTES[message.operation.value.decode()]
        if self.raises and isinstance(said, VoteReply) and said.reason and reply == said:
            return said.reason
        return None

    def _resolve(self, key: BranchKey, reason: str) -> Reply:
        row = self.rows.get(key)
        if row is None:
            if self._is_late(key):
                return BranchForgotten()
            row = self.rows[key] = Row(BranchState.ABORTED, None, reason)
        if row.state is BranchState.PREPARED:
            return BranchPrepared()
        return YES if row.state is BranchState.COMMITTED else VoteReply(Vote.ABORT, row.reason)


def told(reply: Reply) -> object:
    """As far as the model says: a vote with its reason, or which error."""
    return type(reply) if isinstance(reply, TxnError) else reply


class ParticipantMachine(AsyncMachine):
    """The engine and the model hear the same."""

    kind: tuple[str, type[Counting]]

    @initialize()
    def begin(self) -> None:
        """Nothing is remembered."""
        self.model = Model(raises=not issubclass(self.kind[1], CountingAll))
        self.rig: Rig = self.enter(open_rig(self.kind, self.directory))

    @rule(messages=st.lists(_MESSAGES, min_size=1, max_size=5))
    def batch(self, messages: list[Message]) -> None:
        """Each message is answered as if it came alone, those of one branch in their order."""
        replies = self.run(self.rig.participant.exchange(Batch(messages)))
        assert [*map(told, self.model.answers(messages))] == [*map(told, replies)]

    @rule(keys=st.lists(_KEYS, max_size=3), horizon=_HORIZONS)
    def forget(self, keys: list[BranchKey], horizon: TxnId) -> None:
        """A coordinator says what nobody will ask about."""
        before = len(self.model.rows)
        self.model.forget(keys, horizon)
        forgotten = self.run(self.rig.participant.forget(keys, horizon))
        assert forgotten == before - len(self.model.rows)

    @invariant()
    def both_remember_and_did_the_same(self) -> None:
        """Rows by their keys, and every effect as often."""
        rows = self.run(self.rig.participant.list_branches(after=None, limit=99, state=None))
        assert [*sorted(self.model.rows)] == [row.key for row in rows]
        assert [self.model.rows[row.key].state for row in rows] == [row.state for row in rows]
        effects = self.run(self.rig.effects())
        effects.pop("prepare", None)
        assert +self.model.effects == Counter(effects)


@pytest.mark.parametrize("kind", KINDS, ids=kind_id)
def test_a_participant_is_what_its_model_is(kind: tuple[str, type[Counting]]) -> None:
    """No order of messages brings another answer, row or effect than the model's."""
    machine = type("Machine", (ParticipantMachine,), {"kind": kind})
    run_state_machine_as_test(machine, settings=tried(12))
