"""The checker: sees every force, every promise that leaves a process, every answer to a client.

I1 to I6 are the invariants of the engine (docs/correctness.md has them in full):

    I1  money is neither made nor lost, and nobody goes below a limit
    I2  no branch is committed while another of its transaction is aborted
    I3  an outcome that was reported is final
    I4  one effect for each idempotency key
    I5  when the faults are over everything becomes final soon, and nothing stays held
    I6  a prepared participant never decides alone, and a promise is durable before it is made
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tests.sim.books import INITIAL_MINOR, Account, Entry, held_minor
from tests.sim.plan import ALONE, BANKS, PARTICIPANTS, PROBE, Wish
from txn.audit import AuditRecord
from txn.errors import TxnError
from txn.forcing import FORCED_BY_OPERATOR, Resolution
from txn.model import (
    Abort,
    Batch,
    BranchKey,
    Commit,
    Decision,
    Operation,
    Perform,
    Prepare,
    Reply,
    Resolve,
    TxnId,
    VoteReply,
    epoch_of,
)
from txn.participant import LATE_PREPARE
from txn.state import BranchState, Outcome, Vote
from txn.testing import Tables
from txn.transaction import Result, View


class Violation(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant
        self.what = what


class Oracle:
    """See the module's docstring. The first violation is kept, and ends the history."""

    def __init__(
        self, note: Callable[..., None], seen: Callable[[str], None], *, outside: bool
    ) -> None:
        """With `outside` only what clients and auditors of the books could see is checked."""
        self._outside = outside
        self.violation: Violation | None = None
        self._note = note
        self.see = seen
        # Who writes the log now.
        self.writing: Callable[[], str] = lambda: ""
        self.books: dict[str, Tables] = {}
        self.log: Tables = {}
        # Outcomes that clients have heard, by caller and key, and what that was of.
        self.heard: dict[tuple[str, str], tuple[Result, Wish]] = {}
        # By participant and branch: what it has once promised, has been told, has been through.
        self._prepared: set[tuple[str, BranchKey]] = set()
        self._committed: set[tuple[str, BranchKey]] = set()
        self._aborted: set[tuple[str, BranchKey]] = set()
        self._told: dict[tuple[str, BranchKey], set[Outcome]] = {}
        self._asked: set[tuple[str, BranchKey]] = set()
        self._abort_acknowledged: set[tuple[str, BranchKey]] = set()
        self._entries: dict[str, dict[BranchKey, Entry]] = {name: {} for name in PARTICIPANTS}
        # Of each key, the transaction whose outcome row it has.
        self._rows: dict[tuple[str, str], TxnId] = {}
        self._names: dict[TxnId, tuple[str, str]] = {}
        # Of each effect, the transaction that had it.
        self._effects: dict[str, TxnId] = {}

    def fail(self, invariant: str, what: str) -> None:
        """Keeps the first violation."""
        if self.violation is None:
            self.violation = Violation(invariant, what)
            self._note("VIOLATION", invariant, what)

    def _broken(self, invariant: str, what: str) -> None:
        """The same for what nobody could see from outside, yet."""
        if not self._outside:
            self.fail(invariant, what)

    # Disks.

    def participant_forced(self, name: str, before: Tables, after: Tables) -> None:
        """A group of a participant is durable."""
        self.books[name] = after
        journal = after.get("journal", {})
        for number in range(len(before.get("journal", {})), len(journal)):
            self._posted(name, journal[number])
        for key, was, now in after["move"].values():
            if now is None:
                self._forgotten(name, key, was)
            else:
                self._branch_moved(name, key, was, now)
        if name in BANKS:
            self._check_accounts(name, after)

    def _branch_moved(
        self, name: str, key: BranchKey, was: BranchState | None, now: BranchState
    ) -> None:
        self._note("forced", name, key, now.name)
        place = name, key
        decided = self._decided(key.txn_id)
        if was in (BranchState.COMMITTED, BranchState.ABORTED):
            self._broken("I3", f"{key} at {name} goes from {was.name} to {now.name}")
        if now is BranchState.PREPARED:
            self._prepared.add(place)
            if place in self._abort_acknowledged:
                self._broken("I5", f"{key} at {name} is held after its abort was acknowledged")
            if place in self._committed:
                self._broken("I4", f"{key} at {name} is held again after it was committed")
        elif now is BranchState.COMMITTED and was is None:
            self._performed(place, decided)
        elif now is BranchState.COMMITTED:
            self._committed.add(place)
            if decided is not Outcome.COMMITTED:
                self._broken("I2", f"{key} is committed at {name}, and {decided} in the log")
            self._check_told(name, key, Outcome.COMMITTED)
        elif was is None:
            self._aborted.add(place)
            self.see("empty abort")
        else:
            self._aborted.add(place)
            if decided is Outcome.COMMITTED:
                self._broken("I2", f"{key} is aborted at {name}, and COMMITTED in the log")
            self._check_told(name, key, Outcome.ABORTED)

    def _performed(self, place: tuple[str, BranchKey], decided: Outcome | None) -> None:
        """In one phase: the claim is there, and nobody knows of another outcome."""
        self.see("performed")
        if decided is not Outcome.PENDING:
            self._broken("I2", f"{place} is performed, and {decided} in the log")
        if place in self._committed or place in self._prepared:
            self._broken("I4", f"{place} is performed again")
        if place in self._aborted:
            self._broken("I3", f"{place} is performed after it was aborted")
        if place not in self._asked:
            self._broken("I6", f"{place} is performed without having been asked for")
        self._committed.add(place)

    def _check_told(self, name: str, key: BranchKey, outcome: Outcome) -> None:
        if outcome not in self._told.get((name, key), ()):
            self._broken("I6", f"{name} made {key} {outcome.name} without having been told")

    def _forgotten(self, name: str, key: BranchKey, state: BranchState) -> None:
        self.see("branch forgotten")
        if state is BranchState.PREPARED:
            self._broken("I6", f"{name} forgot {key}, which was prepared")
        row = self.log.get("decision", {}).get(key.txn_id)
        if state is BranchState.COMMITTED and (row is None or not row.ended):
            self._broken("I6", f"{name} forgot {key} before the end was durable")
        if row is not None and row.outcome is Outcome.PENDING:
            self._broken("I6", f"{name} forgot {key}, of which it may be asked yet")

    def _posted(self, name: str, entry: Entry) -> None:
        entries = self._entries[name]
        if entry.key in entries:
            self.fail("I4", f"{entry.key} is applied twice at {name}")
        entries[entry.key] = entry
        first = self._effects.setdefault(entry.effect.partition("#")[0], entry.key.txn_id)
        if first != entry.key.txn_id:
            self.fail("I4", f"{entry.effect} has two effects: {first} and {entry.key.txn_id}")

    def _check_accounts(self, name: str, tables: Tables) -> None:
        account: Account
        for subject, account in tables["account"].items():
            held = held_minor(tables, subject)
            if account.balance_minor - held < account.limit_minor:
                self.fail("I1", f"{subject} has {account}, of which {held} are held")

    def log_forced(self, before: Tables, after: Tables) -> None:
        """A group of the coordinator is durable."""
        self.log = after
        rows, old = after.get("decision", {}), before.get("decision", {})
        for txn_id, row in old.items():
            now: Decision | None = rows.get(txn_id)
            if now is row:
                continue
            if now is not None and row.outcome is Outcome.PENDING:
                self._closed(row, now)
            elif now is None or replace(now, ended=row.ended) != row:
                self._broken("I3", f"the outcome row of {txn_id} has changed")
            if now is not None and now.ended and not row.ended:
                self._ended(now)
        for txn_id, row in rows.items():
            if txn_id not in old:
                self._check_epoch(row, before)
                self._decision_forced(row)
                if row.reason == FORCED_BY_OPERATOR and not _has_record(after, txn_id):
                    self._broken("I3", f"{txn_id} is aborted by force without a record")
        self._check_records(before, after)

    def _check_records(self, before: Tables, after: Tables) -> None:
        """What operators have forced is written down for ever."""
        for number, record in before.get("audit", {}).items():
            if after.get("audit", {}).get(number) != record:
                self._broken("I3", f"{record} is not what it was")

    def _check_epoch(self, row: Decision, before: Tables) -> None:
        """Who decides may do so, and nobody else as long as that one may."""
        owner = _owner(before, row.txn_id)
        if row.request is not None and owner is None:
            self._broken("I2", f"{row.txn_id} is decided in an epoch that is over")
        if row.request is None and owner not in (None, self.writing()):
            self._broken("I2", f"{row.txn_id} is aborted by another than who may decide it")

    def _closed(self, claim: Decision, row: Decision) -> None:
        """A claim has become an outcome: that of its participant, which knows it durably."""
        self._note("closed", row.txn_id, row.outcome.name, row.reason)
        if (claim.txn_id, claim.request) != (row.txn_id, row.request):
            self._broken("I4", f"{claim} is closed as {row}")
        (branch,) = row.branches
        place = branch.participant, BranchKey(row.txn_id, branch.branch_id)
        read_only = branch.vote is Vote.READ_ONLY
        if row.outcome is Outcome.COMMITTED and (place in self._committed) is read_only:
            self._broken("I2", f"{row.txn_id} is committed with {branch}, and {place} is not so")
        if row.outcome is Outcome.ABORTED and place in self._committed:
            self._broken("I2", f"{row.txn_id} is aborted, and {place} was performed")
        if row.outcome is Outcome.ABORTED and place not in self._aborted:
            self._broken("I6", f"{row.txn_id} is aborted, and {place} remembers nothing of it")
        if row.outcome is Outcome.PENDING:
            self._broken("I3", f"the claim of {row.txn_id} has changed, and is none the wiser")

    def _decision_forced(self, row: Decision) -> None:
        self._note("decided", row.txn_id, row.outcome.name, row.reason)
        if row.reason == "INQUIRY":
            self.see("inquiry wrote the abort")
        if row.request is not None:
            name = row.request.caller, row.request.idempotency_key
            if self._rows.setdefault(name, row.txn_id) != row.txn_id:
                self._broken("I4", f"{name} has two outcome rows")
        if row.outcome is not Outcome.COMMITTED:
            return
        for branch in row.branches:
            key = BranchKey(row.txn_id, branch.branch_id)
            place = branch.participant, key
            if branch.vote is not Vote.READ_ONLY and place not in self._prepared:
                self._broken("I2", f"{row.txn_id} is committed, and {key} was never prepared")
            if place in self._aborted:
                self._broken("I2", f"{row.txn_id} is committed, and {key} was aborted")

    def _ended(self, row: Decision) -> None:
        for branch in row.branches:
            place = branch.participant, BranchKey(row.txn_id, branch.branch_id)
            if branch.vote is Vote.COMMIT and place not in self._committed:
                self._broken(
                    "I6", f"the end of {row.txn_id} is written before {place} is committed"
                )

    # Promises.

    def sending(self, participant: str, batch: Batch) -> None:
        """See Watcher.sending."""
        self._check_horizon(participant, batch)
        for message in batch.messages:
            decided = self._decided(message.key.txn_id)
            if isinstance(message, Prepare):
                # Its branch may be forgotten by the time that somebody asks whose key it had.
                self._names[message.key.txn_id] = _name(message.operation)
                winner = self._rows.get(_name(message.operation))
                if winner not in (None, message.key.txn_id):
                    self.see("key lost to another")
            if isinstance(message, Perform):
                self._names[message.key.txn_id] = _name(message.operation)
            claimed = decided is Outcome.PENDING
            # Who does not know yet that another has taken over may ask about what that one closed.
            if isinstance(message, Perform | Resolve) and not claimed and self._owner(message.key):
                self._broken("I6", f"{message} leaves, and the log has {decided} and no claim")
            if isinstance(message, Commit) and decided is not Outcome.COMMITTED:
                self._broken("I6", f"{message} leaves before its decision is durable")
            if isinstance(message, Abort) and decided is Outcome.COMMITTED:
                self._broken("I2", f"{message} leaves, and the log says COMMITTED")

    def _check_horizon(self, participant: str, batch: Batch) -> None:
        """Below it nothing may be asked there any more, as it may of every claim that is open."""
        horizon = batch.prepare_horizon or ""
        for txn_id, row in self.log.get("decision", {}).items():
            claimed = row.outcome is Outcome.PENDING and row.branches[0].participant == participant
            if claimed and txn_id < horizon:
                self._broken("I6", f"{txn_id} is claimed, and {horizon} is told as the horizon")

    def told(self, participant: str, batch: Batch) -> None:
        """See Watcher.told."""
        for message in batch.messages:
            if isinstance(message, Perform):
                self._asked.add((participant, message.key))
            elif not isinstance(message, Prepare):
                committed = isinstance(message, Commit)
                outcome = Outcome.COMMITTED if committed else Outcome.ABORTED
                self._told.setdefault((participant, message.key), set()).add(outcome)

    def replying(self, participant: str, batch: Batch, replies: Sequence[Reply]) -> None:
        """See Watcher.replying."""
        for message, reply in zip(batch.messages, replies, strict=True):
            place = participant, message.key
            if isinstance(message, Perform | Resolve):
                self._answering(message, place, reply)
            elif isinstance(reply, VoteReply):
                if reply.vote is Vote.COMMIT and place not in self._prepared:
                    self._broken("I6", f"the vote of {place} leaves before it is durable")
                if reply.reason == LATE_PREPARE:
                    self.see("late prepare")
            elif reply is None and isinstance(message, Commit) and place not in self._committed:
                self._broken("I6", f"{message} is acknowledged at {participant} and not applied")
            elif reply is None and isinstance(message, Abort):
                self._abort_acknowledged.add(place)
                row = self.books[participant].get("branch", {}).get(message.key)
                if row is not None and row.state is not BranchState.ABORTED:
                    self._broken("I6", f"{message} is acknowledged, and the branch is {row.state}")

    def _answering(
        self, message: Perform | Resolve, place: tuple[str, BranchKey], reply: Reply
    ) -> None:
        """What is said in one phase is the outcome."""
        if not isinstance(reply, VoteReply):
            return
        self.see(f"{type(message).__name__} answered {reply.vote.name}")
        if reply.vote is Vote.COMMIT and place not in self._committed:
            self._broken("I6", f"{place} is answered with COMMIT before it is durable")
        # What is below the horizon is late, and over: nobody waits for the answer.
        decided = self._decided(message.key.txn_id)
        over = reply.reason == LATE_PREPARE and decided is not Outcome.PENDING
        if reply.vote is Vote.ABORT and place not in self._aborted and not over:
            self._broken("I6", f"{place} is answered with ABORT, and that is not remembered")

    def answering(self, keys: Sequence[BranchKey], outcomes: Sequence[Outcome]) -> None:
        """See Watcher.answering."""
        for key, outcome in zip(keys, outcomes, strict=True):
            decided = self._decided(key.txn_id)
            if outcome is Outcome.COMMITTED and decided is not outcome:
                self._broken("I6", f"COMMITTED is answered of {key}, and the log says {decided}")
            if outcome is Outcome.ABORTED and decided is not outcome and not self._lost(key):
                self._broken("I3", f"ABORTED is answered of {key}, and the log says {decided}")

    def answered(
        self, participant: str, keys: Sequence[BranchKey], outcomes: Sequence[Outcome]
    ) -> None:
        """See Watcher.answered."""
        for key, outcome in zip(keys, outcomes, strict=True):
            if outcome is not Outcome.PENDING:
                self.see(f"inquiry answered {outcome.name}")
                self._told.setdefault((participant, key), set()).add(outcome)

    # Operators.

    def truth(self, place: tuple[str, BranchKey]) -> Resolution | None:
        """What a single branch has come to; None while it may come to either."""
        if place in self._committed:
            return Resolution.COMMIT
        return Resolution.ABORT if place in self._aborted else None

    def forced(self, record: AuditRecord) -> None:
        """An operator was told that this is so."""
        row: Decision | None = self.log.get("decision", {}).get(record.txn_id)
        if row is None:
            self._broken("I3", f"{record} is told, and the log has no row of it")
        if record not in self.log.get("audit", {}).values():
            self._broken("I3", f"{record} is told before it is durable")
        if row is not None and not record.after.startswith(row.outcome.value):
            self._broken("I3", f"{record} is told, and the log says {row.outcome}")

    def alarm(self, what: str) -> None:
        """The engine itself says that a promise was broken."""
        self.fail("I2", f"alarm: {what}")

    # Clients.

    def reporting(self, wish: Wish, result: Result) -> None:
        """A result is about to leave the coordinator."""
        if result.outcome is Outcome.PENDING:
            return
        if self._final(result.txn_id) is not result.outcome:
            self._broken("I3", f"{wish.name} is told {result.outcome.name} before it is durable")
        if result.outcome is Outcome.COMMITTED and wish.for_applied and not result.applied:
            self.see("told COMMITTED, not yet applied")
        if result.applied and result.outcome is Outcome.COMMITTED:
            self._check_applied(wish, result)

    def hears(self, wish: Wish, result: Result) -> None:
        """A client has an answer."""
        self._note("hears", wish.name, result.txn_id, result.outcome.name, result.reason)
        if result.outcome is Outcome.PENDING:
            self.see("told PENDING")
            return
        self.see(f"told {result.outcome.name}")
        row: Decision | None = self.log.get("decision", {}).get(result.txn_id)
        if row is None or row.request is None:
            self._broken("I3", f"{wish.name} heard of {result.txn_id}, which has no row")
        first, of = self.heard.setdefault(wish.name, (result, wish))
        if replace(result, applied=first.applied) != first:
            self.fail("I3", f"{wish.name} heard {first}, and then {result}")
        if of.parts != wish.parts:
            self.fail("I4", f"{wish.name} stands for two different requests")

    def refused(self, error: TxnError) -> None:
        """A client has an error instead."""
        self.see(f"told {type(error).__name__}")

    def sees(self, name: tuple[str, str], view: View | None) -> None:
        """A client has looked a key up; None is NOT_FOUND."""
        if name not in self.heard:
            return
        heard, _ = self.heard[name]
        said = heard.outcome, heard.txn_id, heard.reason
        if view is None:
            self.fail("I3", f"{name} heard {said}, and then that there is nothing")
        elif view.outcome is not Outcome.PENDING and said != (
            view.outcome,
            view.txn_id,
            view.reason,
        ):
            self.fail("I3", f"{name} heard {said}, and then saw {view}")

    # The end.

    def check_final(self) -> None:
        """Everything is over: what the log says, the books say, each and once."""
        rows: dict[TxnId, Decision] = self.log.get("decision", {})
        for name in PARTICIPANTS:
            for key in self._entries[name]:
                if self._final(key.txn_id) is not Outcome.COMMITTED:
                    self.fail("I2", f"{key} is in the books of {name}, and not committed")
        for row in rows.values():
            if row.outcome is Outcome.COMMITTED:
                self._check_in_all_books(row)
        for result, wish in self.heard.values():
            if result.outcome is Outcome.COMMITTED:
                self._check_effect(wish, result.txn_id)
        self._check_money()

    def still_open(self) -> list[str]:
        """What is not final yet."""
        left = [
            f"{key} is prepared at {name}"
            for name in PARTICIPANTS
            for key, row in self.books[name].get("branch", {}).items()
            if row.state is BranchState.PREPARED
        ]
        for bank in BANKS:
            left += [f"{key} is held at {bank}" for key in self.books[bank].get("hold", {})]
        trades = self.books["shop"].get("trade", {})
        left += [f"{trade} is PAYING" for trade, (state, _) in trades.items() if state == "PAYING"]
        left += [
            f"{txn_id} is claimed"
            for txn_id in self.log.get("decision", {})
            if self._final(txn_id) is Outcome.PENDING
        ]
        return left

    def without_end(self) -> list[str]:
        """Commits whose end is not written; the newest may be, for it waits for company."""
        rows: list[Decision] = list(self.log.get("decision", {}).values())
        return [f"{row.txn_id} has no end" for row in rows[:-1] if not row.ended]

    def outcomes(self) -> list[Outcome | None]:
        """Of all transactions that are decided, but for those that look whether all is well."""
        return [
            self._final(row.txn_id)
            for row in self.log.get("decision", {}).values()
            if row.request is None or row.request.caller != PROBE
        ]

    def _check_in_all_books(self, row: Decision) -> None:
        for branch in row.branches:
            key = BranchKey(row.txn_id, branch.branch_id)
            there = key in self._entries[branch.participant]
            if there is not (branch.vote is Vote.COMMIT):
                self.fail("I2", f"{row.txn_id} is committed, and {key}: {there=}")

    def _check_applied(self, wish: Wish, result: Result) -> None:
        for part in wish.parts:
            key = BranchKey(result.txn_id, part.branch_id)  # type: ignore[arg-type]
            if part.step.verb != "look" and key not in self._entries[part.participant]:
                self.fail("I3", f"{wish.name} is told that {key} is applied, and it is not")

    def _check_effect(self, wish: Wish, txn_id: TxnId) -> None:
        for part in wish.parts:
            key = BranchKey(txn_id, part.branch_id)  # type: ignore[arg-type]
            entry = self._entries[part.participant].get(key)
            if part.step.verb == "look":
                continue
            sign = -1 if part.step.verb == "debit" else 1
            amount_minor = sign * part.step.amount_minor
            should = Entry(key, part.step.subject, amount_minor, part.step.effect)
            if entry != should:
                self.fail("I4", f"{wish.name} was committed, and the books have {entry}")

    def _check_money(self) -> None:
        total = 0
        accounts = 0
        for bank in BANKS:
            for subject, account in self.books[bank]["account"].items():
                posted = sum(
                    entry.amount_minor
                    for entry in self._entries[bank].values()
                    if entry.subject == subject
                )
                total += account.balance_minor - sum(
                    entry.amount_minor
                    for entry in self._entries[bank].values()
                    if entry.subject == subject and entry.effect.endswith(ALONE)
                )
                accounts += 1
                if account.balance_minor != INITIAL_MINOR + posted:
                    self.fail("I1", f"{subject} has {account}, and its journal says {posted}")
        if total != accounts * INITIAL_MINOR:
            self.fail("I1", f"{total} in all accounts, and it was {accounts * INITIAL_MINOR}")

    def _decided(self, txn_id: TxnId) -> Outcome | None:
        row: Decision | None = self.log.get("decision", {}).get(txn_id)
        return None if row is None else row.outcome

    def _final(self, txn_id: TxnId) -> Outcome | None:
        """What stands: in one phase a participant knows of a commit before the log does."""
        row: Decision | None = self.log.get("decision", {}).get(txn_id)
        if row is None or row.outcome is not Outcome.PENDING:
            return None if row is None else row.outcome
        (branch,) = row.branches
        place = branch.participant, BranchKey(txn_id, branch.branch_id)
        return Outcome.COMMITTED if place in self._committed else Outcome.PENDING

    def _owner(self, key: BranchKey) -> str | None:
        return _owner(self.log, key.txn_id)

    def _lost(self, key: BranchKey) -> bool:
        """Whether its key went to another transaction: then it needs no row to be aborted."""
        name = self._names.get(key.txn_id)
        return name is not None and self._rows.get(name, key.txn_id) != key.txn_id


def _has_record(log: Tables, txn_id: TxnId) -> bool:
    return any(record.txn_id == txn_id for record in log.get("audit", {}).values())


def _owner(log: Tables, txn_id: TxnId) -> str | None:
    """Who may decide a transaction, unless its epoch is over."""
    epoch = log.get("epoch", {}).get(epoch_of(txn_id))
    return None if epoch is None or epoch.successor is not None else str(epoch.instance)


def _name(operation: Operation) -> tuple[str, str]:
    """Caller and key that a step was made for."""
    effect = operation.value.decode().rpartition("|")[2]
    caller, _, key = effect.partition("#")[0].partition("/")
    return caller, key
