"""What was there before the first life, and is old by now: transactions of more than a week ago.

Some are over and remembered all the same, since a word got lost; some have no end, some are
claimed or in doubt. Housekeeping deletes what is over, and nothing else: not what is young,
not what somebody may still ask about. The checker knows which is which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from tests.sim.books import Entry, Hold, Step, operation
from tests.sim.disk import copied
from tests.sim.oracle import Oracle
from tests.sim.plan import BANKS, COORDINATOR, PARTICIPANTS
from txn.clock import US_PER_S
from txn.log_keeper import LogKeeperConfig
from txn.model import (
    BranchId,
    BranchKey,
    BranchRow,
    Decision,
    LoggedBranch,
    RequestKey,
    TxnId,
)
from txn.state import BranchState, Outcome, Vote
from txn.testing import Tables

CALLER = "old"
_RETENTION_US = int(LogKeeperConfig().idempotency_retention_s * US_PER_S)
# More than clocks are ever moved.
_MARGIN_US = 24 * 3_600 * US_PER_S
# What has become of an old transaction; how often each is drawn.
_KINDS = ("over",) * 4 + ("refused",) * 2 + ("unended",) * 2
# At most so many: a claim that is closed is young, and a pass ends at a step that finds no more
# than what is.
_CLAIMED_MAX = 2
_OUTCOMES = {"refused": Outcome.ABORTED, "claimed": Outcome.PENDING}
_VERBS = dict(zip(PARTICIPANTS, ("debit", "credit", "pay"), strict=True))


@dataclass(frozen=True, slots=True)
class _Old:
    """One old transaction: its id, what it came to, and when."""

    txn_id: TxnId
    kind: str
    name: str
    at_us: int
    participants: tuple[str, ...]

    def key(self, participant: str) -> BranchKey:
        """Of its branch there."""
        return BranchKey(self.txn_id, BranchId(participant))

    def row(self) -> Decision:
        """As the log has it."""
        outcome = _OUTCOMES.get(self.kind, Outcome.COMMITTED)
        vote = Vote.COMMIT if outcome is Outcome.COMMITTED else None
        return Decision(
            self.txn_id,
            outcome,
            RequestKey(CALLER, self.name, b""),
            tuple(LoggedBranch(BranchId(each), each, vote) for each in self.participants),
            self.at_us,
            ended=self.kind in ("over", "refused"),
        )


def lay_down(disks: Mapping[str, Tables], seed: int, count: int, now_us: int) -> None:
    """Writes `count` old transactions to the tables of all services; the last is in doubt."""
    if not count:
        return
    rng = Random(f"past/{seed}")
    log_id = f"-{rng.getrandbits(64):016x}"
    disks[COORDINATOR]["log_identity"] = {1: log_id}
    kinds = ["claimed"] * rng.randrange(_CLAIMED_MAX + 1) + rng.choices(_KINDS, k=count)
    kinds = kinds[: count - 1]
    rng.shuffle(kinds)
    for number in range(count):
        at_us = now_us - _RETENTION_US - 2 * _MARGIN_US + number * US_PER_S
        txn_id = TxnId(f"{at_us * 1_000:016x}{rng.getrandbits(64):016x}{log_id}")
        # Below what was truncated nobody may be in doubt, so that is the last one.
        kind = kinds.pop() if kinds else "in doubt"
        # A claim is that of a single branch.
        participants = (rng.choice(PARTICIPANTS),) if kind == "claimed" else PARTICIPANTS
        old = _Old(txn_id, kind, f"o{number}", at_us, participants)
        if kind != "in doubt":
            disks[COORDINATOR].setdefault("decision", {})[txn_id] = old.row()
        for participant in participants:
            _remember(participant, disks[participant], old, rng)


def _remember(participant: str, tables: Tables, old: _Old, rng: Random) -> None:
    """What a participant has of it: a branch, or nothing any more, and what came of it."""
    state: BranchState | None = {
        "over": rng.choice((None, BranchState.COMMITTED)),
        "refused": rng.choice((None, BranchState.ABORTED)),
        "unended": rng.choice((BranchState.PREPARED, BranchState.COMMITTED)),
        "claimed": rng.choice((None, BranchState.COMMITTED)),
        "in doubt": BranchState.PREPARED,
    }[old.kind]
    verb = _VERBS[participant]
    subject = f"{participant}.0" if participant in BANKS else f"old-{old.name}"
    step = Step(verb, subject, 0, f"{CALLER}/{old.name}#0")
    key = old.key(participant)
    if state is not None:
        asked = None if state is BranchState.ABORTED else operation(step)
        tables.setdefault("branch", {})[key] = BranchRow(key, state, COORDINATOR, asked, old.at_us)
    if state is BranchState.PREPARED:
        if verb == "debit":
            tables.setdefault("hold", {})[key] = Hold(subject, 0)
        elif verb == "pay":
            tables.setdefault("trade", {})[subject] = ("PAYING", key)
    elif old.kind == "over" or state is BranchState.COMMITTED:
        journal = tables.setdefault("journal", {})
        journal[len(journal)] = Entry(key, subject, 0, step.effect)
        if verb == "pay":
            tables.setdefault("trade", {})[subject] = ("PAID", key)


class Remembering(Oracle):
    """The checker, which knows what is old, and what housekeeping has deleted."""

    def __init__(
        self, note: Callable[..., None], seen: Callable[[str], None], *, outside: bool
    ) -> None:
        super().__init__(note, seen, outside=outside)
        self._old: frozenset[TxnId] = frozenset()
        self._old_us = 0
        self._truncated: dict[TxnId, Decision] = {}

    def remember(self, log: Tables, now_us: int) -> None:
        """What is on the disks before the first life; all of it is old."""
        self.log = log
        self._old_us = now_us - _RETENTION_US - _MARGIN_US
        decisions: dict[TxnId, Decision] = log.get("decision", {})
        old = set(decisions)
        for name, tables in self.books.items():
            for entry in tables.get("journal", {}).values():
                self._prepared.add((name, entry.key))
                self._committed.add((name, entry.key))
                self._posted(name, entry)
            for key, row in tables.get("branch", {}).items():
                old.add(key.txn_id)
                if row.state is BranchState.PREPARED:
                    self._prepared.add((name, key))
                elif row.state is BranchState.ABORTED:
                    self._aborted.add((name, key))
        self._old = frozenset(old)

    def log_forced(self, before: Tables, after: Tables) -> None:
        """Rows may go that are old and over; all others stay as Oracle says."""
        rows = after.get("decision", {})
        gone = [row for each, row in before.get("decision", {}).items() if each not in rows]
        if not gone:
            super().log_forced(before, after)
            return
        left = copied(before)
        for row in gone:
            if self._may_go(row):
                self.see("outcome truncated")
                self._note("truncated", row.txn_id)
                self._truncated[row.txn_id] = left["decision"].pop(row.txn_id)
        super().log_forced(left, after)

    def _may_go(self, row: Decision) -> bool:
        applied = all(
            (branch.participant, BranchKey(row.txn_id, branch.branch_id)) in self._committed
            for branch in row.branches
            if branch.vote is Vote.COMMIT
        )
        return row.decided_at_us < self._old_us and row.ended and applied

    def alarm(self, what: str) -> None:
        """A question that was long on its way may be about what was done and truncated since.

        That explains an alarm in which all are named, and each is one of those.
        """
        said, _, names = what.partition(" in doubt are older than the log: ")
        named = names.split(", ")
        if said == f"ALARM {len(named)}" and all(TxnId(each) in self._truncated for each in named):
            self.see("late inquiry about what was truncated")
        else:
            super().alarm(what)

    def kept_too_long(self) -> list[str]:
        """What is old and over, and somebody remembers."""
        log = self.log.get("decision", {}).values()
        left = [f"{row.txn_id} is not truncated" for row in log if row.decided_at_us < self._old_us]
        return left + [
            f"{key} is not forgotten at {name}"
            for name, tables in self.books.items()
            for key in tables.get("branch", {})
            if key.txn_id in self._old
        ]

    def outcomes(self) -> list[Outcome | None]:
        """Of those that are not old."""
        log = self.log
        rows = log.get("decision", {})
        try:
            self.log = {"decision": {each: rows[each] for each in rows if each not in self._old}}
            return super().outcomes()
        finally:
            self.log = log

    def check_final(self) -> None:
        """What is gone has to have been done, too."""
        super().check_final()
        for row in self._truncated.values():
            if row.outcome is Outcome.COMMITTED:
                self._check_in_all_books(row)

    def _forgotten(self, name: str, key: BranchKey, state: BranchState) -> None:
        if key.txn_id in self._truncated and state is BranchState.COMMITTED:
            self.see("branch of a truncated outcome forgotten")
        else:
            super()._forgotten(name, key, state)

    def _decided(self, txn_id: TxnId) -> Outcome | None:
        gone = self._truncated.get(txn_id)
        return super()._decided(txn_id) if gone is None else gone.outcome

    def _final(self, txn_id: TxnId) -> Outcome | None:
        gone = self._truncated.get(txn_id)
        return super()._final(txn_id) if gone is None else gone.outcome
