"""Bugs planted on purpose: a checker is believed when it finds them.

Each is a patch of shipped code, put in place at run time and taken away again; none is
reachable otherwise. `make sim-mutants` looks for each one's first violation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from inspect import isfunction, signature
from typing import Any
from unittest.mock import patch

from tests.sim import books
from txn import (
    barrier,
    coordinator,
    inquirer,
    lane,
    log_keeper,
    participant,
    protocol,
    testing,
)
from txn.barrier import OnAbort, OnCommit, OnPerform, OnPrepare, OnResolve
from txn.claiming import Claimer
from txn.coordinator import Coordinator
from txn.deciding import Decider
from txn.decision_log import Truncated
from txn.errors import Overloaded, TxnError, Unreachable
from txn.forgetter import Forgetter
from txn.inquirer import Inquirer
from txn.log_keeper import LogKeeper
from txn.model import (
    BranchKey,
    BranchRow,
    Commit,
    Decision,
    Ended,
    Perform,
    Prepare,
    TxnId,
    VoteReply,
)
from txn.participant import Participant
from txn.state import BranchState, Outcome, TransactionState, Vote
from txn.store.group_commit import Done, GroupCommit
from txn.store.loop_store import LoopStore
from txn.testing import MemoryBranchTable, MemoryDecisionLog, Tables

Mutant = Callable[[ExitStack], None]

_MUTANTS: dict[str, Mutant] = {}
_SIMULATED: set[str] = set()


def mutant(plant: Mutant) -> Mutant:
    """Adds a mutant under its function's name."""
    _MUTANTS[plant.__name__.replace("_", "-")] = plant
    return plant


def simulated(plant: Mutant) -> Mutant:
    """Adds one that patches what only the simulator has: its stores, its bank, forces that fail."""
    _SIMULATED.add(plant.__name__.replace("_", "-"))
    return mutant(plant)


def names() -> list[str]:
    """All there are."""
    return list(_MUTANTS)


def names_for_processes() -> list[str]:
    """Those that are bugs of the services, too, as they run on SQLite."""
    return [name for name in _MUTANTS if name not in _SIMULATED]


def says(name: str) -> str:
    """What the bug is, in a sentence."""
    return (_MUTANTS[name].__doc__ or "").partition("\n")[0]


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The bug is there while this lasts."""
    with ExitStack() as stack:
        _MUTANTS[name](stack)
        yield


def swap(stack: ExitStack, where: object, name: str, value: object) -> None:
    """Puts `value` in the place of what has that name there.

    TypeError if it cannot be called as that is: it would be found by its own error, and not by
    the bug that it stands for.
    """
    original = getattr(where, name)
    if isfunction(original) and isfunction(value):
        taken = signature(original).parameters.values()
        signature(value).bind(
            *(each.name for each in taken if each.kind is each.POSITIONAL_OR_KEYWORD),
            **{each.name: None for each in taken if each.kind is each.KEYWORD_ONLY},
        )
    stack.enter_context(patch.object(where, name, value))


def _tell_before_force(stack: ExitStack, whose: Callable[[str], bool]) -> None:
    run = GroupCommit.run

    def early(self: GroupCommit[Any], tx: Any, group: Any) -> Any:
        ran = run(self, tx, group)
        if whose(self._backend._disk.name):  # type: ignore[attr-defined]
            for report, result in ran.settled:
                report(result)
        return ran

    swap(stack, GroupCommit, "run", early)


@simulated
def vote_before_force(stack: ExitStack) -> None:
    """A participant answers before its force."""
    _tell_before_force(stack, lambda disk: disk != "coordinator")


@simulated
def decision_before_force(stack: ExitStack) -> None:
    """The coordinator announces a decision before its force."""
    _tell_before_force(stack, lambda disk: disk == "coordinator")


@simulated
def failed_force_is_success(stack: ExitStack) -> None:
    """A force that fails is taken for one that did not."""

    def commit(self: GroupCommit[Any], tx: Any, ran: Any) -> Any:
        with suppress(OSError):
            self._backend.commit(tx)
        return ran.settled

    swap(stack, GroupCommit, "commit", commit)


@mutant
def unknown_commit_succeeds(stack: ExitStack) -> None:
    """A commit of a branch that was never prepared is acknowledged."""
    on_commit = barrier.on_commit
    swap(
        stack,
        barrier,
        "on_commit",
        lambda row: OnCommit.DONE if row is None else on_commit(row),
    )


def _permissive(stack: ExitStack) -> None:
    """A branch may go from anywhere to anywhere, and be inserted twice."""
    everywhere = frozenset(BranchState)
    moves = dict.fromkeys((None, *BranchState), everywhere)

    def insert_all(self: MemoryBranchTable, tx: Tables, rows: Sequence[BranchRow]) -> None:
        tx.setdefault("branch", {}).update({row.key: row for row in rows})

    swap(stack, participant, "BRANCH_MOVES", moves)
    swap(stack, MemoryBranchTable, "insert_all", insert_all)


@simulated
def no_barrier(stack: ExitStack) -> None:
    """Every message does what it says, whatever came before."""
    _permissive(stack)
    swap(stack, barrier, "on_prepare", lambda row, key, operation, horizon="": OnPrepare.RUN)
    swap(stack, barrier, "on_commit", lambda row: OnCommit.APPLY if row else OnCommit.DONE)
    swap(stack, barrier, "on_abort", lambda row: OnAbort.UNDO if row else OnAbort.DONE)


@simulated
def late_prepare_accepted(stack: ExitStack) -> None:
    """A prepare after the abort reserves and votes."""
    _permissive(stack)
    on_prepare = barrier.on_prepare

    def rule(row: BranchRow | None, key: Any, operation: Any, horizon: str = "") -> OnPrepare:
        aborted = row is not None and row.state is BranchState.ABORTED
        return on_prepare(None if aborted else row, key, operation, horizon)

    swap(stack, barrier, "on_prepare", rule)


@mutant
def empty_abort_forgotten(stack: ExitStack) -> None:
    """An abort before any prepare succeeds and leaves nothing behind."""
    on_abort = barrier.on_abort
    swap(stack, barrier, "on_abort", lambda row: OnAbort.DONE if row is None else on_abort(row))


@mutant
def horizon_ignored(stack: ExitStack) -> None:
    """A prepare of what was committed and forgotten reserves again."""
    on_prepare = barrier.on_prepare
    swap(
        stack,
        barrier,
        "on_prepare",
        lambda row, key, operation, horizon="": on_prepare(row, key, operation),
    )


@simulated
def commit_applied_twice(stack: ExitStack) -> None:
    """A repeated commit is applied again, since nobody looks whether it was."""
    _permissive(stack)
    on_commit = barrier.on_commit

    def rule(row: BranchRow | None) -> OnCommit:
        done = row is not None and row.state is BranchState.COMMITTED
        return OnCommit.APPLY if done else on_commit(row)

    swap(stack, barrier, "on_commit", rule)


@mutant
def lost_abort(stack: ExitStack) -> None:
    """An abort is acknowledged, and what was reserved stays."""
    on_abort = barrier.on_abort

    def rule(row: BranchRow | None) -> OnAbort:
        prepared = row is not None and row.state is BranchState.PREPARED
        return OnAbort.DONE if prepared else on_abort(row)

    swap(stack, barrier, "on_abort", rule)


@mutant
def acknowledged_before_applied(stack: ExitStack) -> None:
    """A commit is acknowledged while its force is still to come."""
    write_all = LoopStore.write_all

    async def early(self: LoopStore[Any], apply: Any, inputs: Any, **how: Any) -> Any:
        writing = asyncio.ensure_future(write_all(self, apply, inputs, **how))
        if not how.get("essential"):
            return await writing
        writing.add_done_callback(lambda task: task.cancelled() or task.exception())
        return [None] * len(inputs)

    swap(stack, LoopStore, "write_all", early)


class _Guessing:
    """A transport that has an answer where there is none."""

    def __init__(self, transport: Any, outcome: Outcome) -> None:
        self._transport = transport
        self._outcome = outcome

    async def inquire(
        self, coordinator: str, keys: Sequence[BranchKey], timeout_s: float
    ) -> Sequence[Outcome]:
        """See CoordinatorTransport.inquire."""
        try:
            outcomes: Sequence[Outcome]
            outcomes = await self._transport.inquire(coordinator, keys, timeout_s)
        except Unreachable:
            return [self._outcome] * len(keys)
        return outcomes


def _guess(stack: ExitStack, outcome: Outcome) -> None:
    init = Inquirer.__init__

    def guessing(self: Any, of: Any, transport: Any, **others: Any) -> None:
        init(self, of, _Guessing(transport, outcome), **others)

    swap(stack, Inquirer, "__init__", guessing)


@mutant
def heuristic_abort(stack: ExitStack) -> None:
    """Who is in doubt and hears nothing aborts."""
    _guess(stack, Outcome.ABORTED)


@mutant
def heuristic_commit(stack: ExitStack) -> None:
    """Who is in doubt and hears nothing commits."""
    _guess(stack, Outcome.COMMITTED)


@mutant
def nobody_inquires(stack: ExitStack) -> None:
    """Who is in doubt waits for ever."""

    async def look(self: Any) -> None:
        return

    swap(stack, Inquirer, "look", look)


@mutant
def inquiry_answered_from_absence(stack: ExitStack) -> None:
    """What has no row yet is answered with ABORTED."""

    async def inquire(self: Coordinator, txn_ids: Sequence[TxnId]) -> list[Outcome | TxnError]:
        self._refuse_unless_serving()
        rows = [await self._decisions.by_txn_id(txn_id) for txn_id in txn_ids]
        return [Outcome.ABORTED if row is None else row.outcome for row in rows]

    swap(stack, Coordinator, "inquire", inquire)


@simulated
def outcome_overwritten(stack: ExitStack) -> None:
    """An outcome row is replaced by the one that comes after it."""

    def insert(tx: Tables, decisions: Sequence[Decision]) -> list[Decision]:
        tx.setdefault("decision", {}).update({row.txn_id: row for row in decisions})
        return list(decisions)

    swap(stack, testing, "_insert_decisions", insert)


@simulated
def key_not_unique(stack: ExitStack) -> None:
    """A key may have a row for each of its transactions."""

    def insert(tx: Tables, decisions: Sequence[Decision]) -> list[Decision]:
        rows = tx.setdefault("decision", {})
        return [rows.setdefault(each.txn_id, each) for each in decisions]

    swap(stack, testing, "_insert_decisions", insert)


@mutant
def loser_commits_too(stack: ExitStack) -> None:
    """A transaction whose key another one had first does what that one does."""

    def announce(self: Decider, those: Any, stand: Any, *when: float) -> None:
        happened = []
        for (transaction, _), row in zip(those, stand, strict=True):
            if isinstance(row, Decision):
                transaction.decide(row)
                happened.append((transaction, protocol.OutcomeStands(row.outcome)))
        self._deliver(happened)

    swap(stack, Decider, "_announce", announce)


@simulated
def abort_told_before_durable(stack: ExitStack) -> None:
    """A refusal is told to its caller before its row is there."""
    decide_all = MemoryDecisionLog.decide_all

    async def early(self: MemoryDecisionLog, decisions: Sequence[Decision]) -> Any:
        writing = asyncio.ensure_future(decide_all(self, decisions))
        if any(each.outcome is Outcome.COMMITTED for each in decisions):
            return await writing
        writing.add_done_callback(lambda task: task.cancelled() or task.exception())
        return list(decisions)

    swap(stack, MemoryDecisionLog, "decide_all", early)


@mutant
def key_without_body(stack: ExitStack) -> None:
    """Another request under the same key gets the old success."""
    swap(stack, coordinator, "_refuse_other_body", lambda first, request: None)


@mutant
def recovery_sends_aborts(stack: ExitStack) -> None:
    """After a restart the other decision is sent."""
    resume = protocol.resume

    def other(votes: Any) -> Any:
        progress, actions = resume(votes)
        sent = (each for each in actions if isinstance(each, protocol.SendCommit))
        return progress, tuple(protocol.SendAbort(each.branch_id) for each in sent)

    swap(stack, protocol, "resume", other)


@mutant
def recovery_forgets(stack: ExitStack) -> None:
    """After a restart what was committed and not acknowledged is not taken up."""

    async def recover(log: Any, inherited: Any, resume: Any) -> int:
        return 0

    swap(stack, coordinator, "recover", recover)


@mutant
def forgotten_too_early(stack: ExitStack) -> None:
    """Participants are told to forget before the end is durable."""
    end = Decider.end

    def early(self: Decider, transaction: Any) -> None:
        end(self, transaction)
        self._ended([transaction])

    swap(stack, Decider, "end", early)


@mutant
def ended_by_the_first(stack: ExitStack) -> None:
    """One acknowledgement counts for all."""
    step = protocol.step

    def hasty(progress: Any, event: Any) -> Any:
        committing = progress.state is TransactionState.COMMITTING
        if committing and isinstance(event, protocol.Settled):
            progress = progress._replace(awaited=1)
        return step(progress, event)

    swap(stack, protocol, "step", hasty)


@mutant
def one_vote_is_enough(stack: ExitStack) -> None:
    """The first vote to commit counts for all."""
    step = protocol.step

    def hasty(progress: Any, event: Any) -> Any:
        preparing = progress.state is TransactionState.PREPARING
        if preparing and isinstance(event, protocol.Voted) and event.vote is Vote.COMMIT:
            progress = progress._replace(awaited=1)
        return step(progress, event)

    swap(stack, protocol, "step", hasty)


@mutant
def silence_is_consent(stack: ExitStack) -> None:
    """No answer to a prepare counts as a vote to commit."""
    event = lane._event

    def generous(ask: Any, reply: Any) -> Any:
        if isinstance(ask.message, Prepare) and isinstance(reply, Unreachable):
            return protocol.Voted(ask.branch_id, Vote.COMMIT)
        return event(ask, reply)

    swap(stack, lane, "_event", generous)


@mutant
def commit_given_up(stack: ExitStack) -> None:
    """A commit that is not acknowledged at once counts as acknowledged."""
    wait_s = lane.Lane._wait_s

    def impatient(self: Any, ask: Any, reply: Any, waits: Any) -> float | None:
        if isinstance(ask.message, Commit):
            return None
        return wait_s(self, ask, reply, waits)

    swap(stack, lane.Lane, "_wait_s", impatient)


@mutant
def replies_mixed_up(stack: ExitStack) -> None:
    """The replies of a batch are read in the wrong order."""
    sort_out = lane.Lane._sort_out
    swap(
        stack,
        lane.Lane,
        "_sort_out",
        lambda self, asks, replies: sort_out(self, asks, list(reversed(replies))),
    )


@simulated
def end_lost_with_its_group(stack: ExitStack) -> None:
    """An end whose group the storage undid waits for the next restart."""

    def end_all(self: Any, txn_ids: Sequence[TxnId], durable: Callable[[], None]) -> None:
        def mark(tx: Tables) -> None:
            rows = tx["decision"]
            rows.update({txn_id: replace(rows[txn_id], ended=True) for txn_id in txn_ids})

        def report(result: Any) -> None:
            if isinstance(result, Done):
                durable()

        self._store.write_lazily(mark, report, essential=True)

    swap(stack, MemoryDecisionLog, "end_all", end_all)


@mutant
def late_inquiry_is_an_alarm(stack: ExitStack) -> None:
    """What was committed and forgotten while somebody asked about it raises an alarm."""
    swap(stack, inquirer, "UnknownBranch", Overloaded)


@mutant
def truncated_too_early(stack: ExitStack) -> None:
    """An outcome, and its key, is truncated as soon as it has ended."""
    swap(stack, log_keeper, "US_PER_S", 0)


@simulated
def truncated_without_its_end(stack: ExitStack) -> None:
    """An outcome that is old is truncated although a branch of it is still in doubt."""

    async def truncate(
        self: MemoryDecisionLog, *, after: str, limit: int, before_us: int
    ) -> Truncated:
        def delete(tx: Tables) -> Truncated:
            rows = tx.get("decision", {})
            old = [each for each in sorted(rows) if rows[each].decided_at_us < before_us]
            for txn_id in old:
                del rows[txn_id]
            return Truncated(len(old), None)

        return await self._store.write(delete)

    swap(stack, MemoryDecisionLog, "truncate", truncate)


@mutant
def log_leaks(stack: ExitStack) -> None:
    """What is over and old stays in the log."""
    swap(stack, LogKeeper, "sweep", _nothing)


@mutant
def branches_leak(stack: ExitStack) -> None:
    """Branches of which the word that they may be forgotten got lost are remembered for ever."""
    swap(stack, Forgetter, "sweep", _nothing)


async def _nothing(self: Any) -> int:
    return 0


@mutant
def forgets_what_is_not_ended(stack: ExitStack) -> None:
    """A participant that asks is told that all it has committed has ended."""
    ended = Coordinator.ended

    async def generous(self: Coordinator, txn_ids: Sequence[TxnId]) -> Ended:
        return Ended(frozenset(txn_ids), (await ended(self, txn_ids)).prepare_horizon)

    swap(stack, Coordinator, "ended", generous)


@simulated
def forgets_what_is_in_doubt(stack: ExitStack) -> None:
    """A participant that forgets what it was told forgets branches that are prepared, too."""

    def forget(
        self: MemoryBranchTable, tx: Tables, keys: Sequence[BranchKey], log_id: str, horizon: str
    ) -> int:
        tx.setdefault("prepare_horizon", {})[log_id] = horizon
        rows = tx.setdefault("branch", {})
        going = [key for key in rows if key.txn_id < horizon and (not keys or key in keys)]
        for key in going:
            del rows[key]
        return len(going)

    swap(stack, MemoryBranchTable, "forget", forget)


@simulated
def unlocked_balance_check(stack: ExitStack) -> None:
    """A bank looks at balances and not at holds."""
    swap(stack, books.Bank, "reserved_minor", lambda self, tx, account: 0)


@mutant
def refusal_without_row(stack: ExitStack) -> None:
    """What is refused in one phase leaves no row, as a vote to abort leaves none."""
    performed = Participant._performed

    def forgetful(self: Any, *arguments: Any) -> list[BranchRow]:
        rows = performed(self, *arguments)
        return [row for row in rows if row.state is BranchState.COMMITTED]

    async def nothing(self: Any, *arguments: Any) -> None:
        return

    swap(stack, Participant, "_performed", forgetful)
    swap(stack, Participant, "_remember_refusals", nothing)


@mutant
def raised_refusal_without_row(stack: ExitStack) -> None:
    """A refusal in one phase leaves a row only where the resource does not raise it."""

    async def nothing(self: Any, *arguments: Any) -> None:
        return

    swap(stack, Participant, "_remember_refusals", nothing)


@simulated
def refused_is_tried_again(stack: ExitStack) -> None:
    """A perform after its refusal, or after it was resolved, is done."""
    _permissive(stack)
    on_perform = barrier.on_perform

    def rule(row: BranchRow | None, key: Any, operation: Any, horizon: str = "") -> OnPerform:
        aborted = row is not None and row.state is BranchState.ABORTED
        return on_perform(None if aborted else row, key, operation, horizon)

    swap(stack, barrier, "on_perform", rule)


@simulated
def performed_twice(stack: ExitStack) -> None:
    """A repeated perform is done again, since nobody looks whether it was."""
    _permissive(stack)
    on_perform = barrier.on_perform

    def rule(row: BranchRow | None, key: Any, operation: Any, horizon: str = "") -> OnPerform:
        verdict = on_perform(row, key, operation, horizon)
        return OnPerform.RUN if verdict is OnPerform.REPEAT else verdict

    swap(stack, barrier, "on_perform", rule)


@mutant
def perform_below_the_horizon(stack: ExitStack) -> None:
    """What was performed and forgotten is performed again."""
    on_perform = barrier.on_perform
    swap(
        stack,
        barrier,
        "on_perform",
        lambda row, key, operation, horizon="": on_perform(row, key, operation),
    )


@mutant
def claim_holds_nothing_back(stack: ExitStack) -> None:
    """The horizon passes claims that are open."""
    swap(stack, Claimer, "oldest_open", lambda self, participant=None: None)


@mutant
def recovered_claim_holds_nothing_back(stack: ExitStack) -> None:
    """The horizon passes claims of before the restart."""
    resume = Coordinator._resume

    def passing(self: Any, decision: Decision) -> None:
        resume(self, decision)
        self._claimer._open.clear()

    swap(stack, Coordinator, "_resume", passing)


@mutant
def performed_is_forgotten_too_early(stack: ExitStack) -> None:
    """What was performed may be forgotten when its outcome is known, and not when it is durable."""
    commit = Claimer.commit

    def early(self: Claimer, transaction: Any) -> None:
        commit(self, transaction)
        self._let_go(transaction)
        self._ended([transaction])

    swap(stack, Claimer, "commit", early)


@mutant
def perform_before_claim(stack: ExitStack) -> None:
    """Perform is sent beside the force of its claim."""
    claim = Claimer.claim

    def early(self: Claimer, transaction: Any) -> None:
        claim(self, transaction)
        asyncio.get_running_loop().call_soon(self._deliver, [(transaction, protocol.ClaimStands())])

    swap(stack, Claimer, "claim", early)


@simulated
def loser_performs_too(stack: ExitStack) -> None:
    """A transaction whose key another one has is performed all the same."""

    def insert(tx: Tables, decisions: Sequence[Decision]) -> Any:
        rows = tx.setdefault("decision", {})
        claims = [each for each in decisions if each.outcome is Outcome.PENDING]
        rows.update({each.txn_id: each for each in claims if each.txn_id not in rows})
        return inserted(tx, decisions)

    inserted = testing._insert_decisions
    swap(stack, testing, "_insert_decisions", insert)


@mutant
def resolve_remembers_nothing(stack: ExitStack) -> None:
    """Who is asked about what it does not know says ABORT, and may do it later."""
    on_resolve = barrier.on_resolve

    def rule(row: BranchRow | None, key: Any, horizon: str = "") -> OnResolve:
        verdict = on_resolve(row, key, horizon)
        return OnResolve.ABORTED if verdict is OnResolve.REMEMBER else verdict

    swap(stack, barrier, "on_resolve", rule)


@mutant
def nobody_resolves(stack: ExitStack) -> None:
    """What is not answered in time counts as not performed."""
    step = protocol.step

    def guessing(progress: Any, event: Any) -> Any:
        if isinstance(event, protocol.PrepareFailed) and not progress.awaited:
            event = protocol.Voted(event.branch_id, Vote.ABORT, event.reason)
        return step(progress, event)

    swap(stack, protocol, "step", guessing)


@simulated
def refusal_is_written_lazily(stack: ExitStack) -> None:
    """A refusal in one phase is told before its row is there."""

    async def early(self: MemoryDecisionLog, claims: Sequence[Decision]) -> Any:
        self.close_lazily(claims, lambda: None, lambda: None)
        return list(claims)

    swap(stack, MemoryDecisionLog, "close_all", early)


@mutant
def claims_are_not_resumed(stack: ExitStack) -> None:
    """After a restart nobody asks what became of a claim."""
    resume = Coordinator._resume

    def only_commits(self: Any, decision: Decision) -> None:
        if decision.outcome is not Outcome.PENDING:
            resume(self, decision)

    swap(stack, Coordinator, "_resume", only_commits)


@mutant
def claim_resumed_as_commit(stack: ExitStack) -> None:
    """After a restart a claim counts as a commit of which nobody has heard."""
    resume = Coordinator._resume

    def hasty(self: Any, decision: Decision) -> None:
        if decision.outcome is Outcome.PENDING:
            decision = replace(decision, outcome=Outcome.COMMITTED)
        resume(self, decision)

    swap(stack, Coordinator, "_resume", hasty)


@mutant
def refusal_by_error(stack: ExitStack) -> None:
    """No answer to a perform counts as a refusal."""
    event = lane._event

    def hasty(ask: Any, reply: Any) -> Any:
        if isinstance(ask.message, Perform) and isinstance(reply, Unreachable):
            return protocol.Voted(ask.branch_id, Vote.ABORT, "GONE")
        return event(ask, reply)

    swap(stack, lane, "_event", hasty)


@mutant
def performed_before_force(stack: ExitStack) -> None:
    """What was performed is answered while its force is still to come."""
    write_all = LoopStore.write_all

    async def early(self: LoopStore[Any], apply: Any, inputs: Any, **how: Any) -> Any:
        writing = asyncio.ensure_future(write_all(self, apply, inputs, **how))
        messages = [getattr(each, "message", None) for each in inputs]
        if not all(isinstance(message, Perform) for message in messages):
            return await writing
        writing.add_done_callback(lambda task: task.cancelled() or task.exception())
        return [VoteReply(Vote.COMMIT)] * len(inputs)

    swap(stack, LoopStore, "write_all", early)


# The others are in files of their own, and add themselves.
from tests.sim import mutants_of_epochs as mutants_of_epochs  # noqa: E402
from tests.sim import mutants_of_operators as mutants_of_operators  # noqa: E402
