"""The participant's engine against a model of a few lines: whatever comes, in whatever order.

Prepares, commits and aborts, repeated and late, several in one batch, other operations under
the same name, words of what may be forgotten; over both tables and both kinds of resources.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from tests.fuzz.machines import AsyncMachine, tried
from tests.txn.participant_rig import KINDS, Counting, Rig, kind_id, open_rig
from txn.errors import (
    BranchAborted,
    BranchCommitted,
    Busy,
    IdempotencyConflict,
    InvalidOperation,
    ResourceFailed,
    TxnError,
    UnknownBranch,
)
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
    log_id_of,
)
from txn.participant import LATE_PREPARE
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
LATE = VoteReply(Vote.ABORT, LATE_PREPARE)

_KEYS = st.builds(BranchKey, st.sampled_from([*map(TxnId, IDS)]), st.just(BranchId("b")))
_MESSAGES = st.one_of(
    st.builds(
        lambda key, what: Prepare(key, "coordinator", Operation("x/a", what.encode())),
        _KEYS,
        st.sampled_from([*VOTES]),
    ),
    st.builds(Commit, _KEYS),
    st.builds(Abort, _KEYS),
)
_HORIZONS = st.sampled_from([*map(TxnId, HORIZONS)])


@dataclass
class Model:
    """What a participant has to remember, and has to have done."""

    rows: dict[BranchKey, tuple[BranchState, str | None]] = field(default_factory=dict)
    horizons: dict[str, str] = field(default_factory=dict)
    effects: Counter[str] = field(default_factory=Counter)

    def answer(self, message: Message) -> Reply:
        """What `message` is answered with, and what it does."""
        row = self.rows.get(message.key)
        if isinstance(message, Prepare):
            return self._prepare(message.key, row, message.operation.value.decode())
        if isinstance(message, Commit):
            return self._commit(message.key, row)
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
                not (row[0] is BranchState.COMMITTED and key in keys)
                and not (row[0] is BranchState.ABORTED and log_id_of(key.txn_id) == log)
            )
        }

    def _prepare(
        self, key: BranchKey, row: tuple[BranchState, str | None] | None, what: str
    ) -> Reply:
        if what == "bad":
            return VOTES[what]
        if row is None:
            if key.txn_id < self.horizons.get(log_id_of(key.txn_id), ""):
                return LATE
            if VOTES[what] == VoteReply(Vote.COMMIT):
                self.rows[key] = (BranchState.PREPARED, what)
            return VOTES[what]
        if row[0] is BranchState.ABORTED:
            return LATE
        return VoteReply(Vote.COMMIT) if row[1] == what else IdempotencyConflict()

    def _commit(self, key: BranchKey, row: tuple[BranchState, str | None] | None) -> Reply:
        if row is None:
            return UnknownBranch()
        state, what = row
        if state is BranchState.ABORTED:
            return BranchAborted()
        if state is BranchState.PREPARED:
            if what == "break":
                return ResourceFailed()
            self.rows[key] = (BranchState.COMMITTED, what)
            self.effects[f"commit {what}"] += 1
        return None

    def _abort(self, key: BranchKey, row: tuple[BranchState, str | None] | None) -> Reply:
        if row is not None and row[0] is BranchState.COMMITTED:
            return BranchCommitted()
        if row is not None and row[0] is BranchState.PREPARED:
            self.effects[f"abort {row[1]}"] += 1
        if row is None or row[0] is BranchState.PREPARED:
            self.rows[key] = (BranchState.ABORTED, row and row[1])
        return None


def told(reply: Reply) -> object:
    """As far as the model says: a vote with its reason, or which error."""
    return type(reply) if isinstance(reply, TxnError) else reply


class ParticipantMachine(AsyncMachine):
    """The engine and the model hear the same."""

    kind: tuple[str, type[Counting]]

    @initialize()
    def begin(self) -> None:
        """Nothing is remembered."""
        self.model = Model()
        self.rig: Rig = self.enter(open_rig(self.kind, self.directory))

    @rule(messages=st.lists(_MESSAGES, min_size=1, max_size=5))
    def batch(self, messages: list[Message]) -> None:
        """Each message is answered as if it came alone, those of one branch in their order."""
        replies = self.run(self.rig.participant.exchange(Batch(messages)))
        assert [told(self.model.answer(each)) for each in messages] == [*map(told, replies)]

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
        assert [self.model.rows[row.key][0] for row in rows] == [row.state for row in rows]
        effects = self.run(self.rig.effects())
        effects.pop("prepare", None)
        assert +self.model.effects == Counter(effects)


@pytest.mark.parametrize("kind", KINDS, ids=kind_id)
def test_a_participant_is_what_its_model_is(kind: tuple[str, type[Counting]]) -> None:
    """No order of messages brings another answer, row or effect than the model's."""
    machine = type("Machine", (ParticipantMachine,), {"kind": kind})
    run_state_machine_as_test(machine, settings=tried(12))
