"""The decision logs, in memory and in SQL, against a model of a dictionary and an id.

Outcomes and claims are decided under few ids and keys, in whatever order, and again; ended,
closed, asked about and truncated; the logs are opened anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fuzz.machines import AsyncMachine, tried
from tests.support.postgres import PostgresServer
from tests.txn.helpers import FastClock
from tests.txn.support import open_postgres, open_sqlite
from txn.decision_log import DecisionLog, Truncated
from txn.errors import TooOld, TxnError
from txn.model import BranchId, Decision, LoggedBranch, RequestKey, TxnId
from txn.state import Outcome, Vote
from txn.store.sql_log import SqlDecisionLog
from txn.testing import MemoryBackend, MemoryDecisionLog, MemoryStore

IDS = [TxnId(f"{number}-x") for number in range(6)]
NAMES = [(caller, key) for caller in ("a", "b") for key in ("k", "K")]
TIME_MAX_US = 9
ALL = 99

_TIMES = st.integers(0, TIME_MAX_US)
_BRANCHES = st.sampled_from(
    [(), *((LoggedBranch(BranchId("b"), "ledger", vote),) for vote in (None, *Vote))]
)


def keyed(
    txn_id: TxnId,
    outcome: Outcome,
    name: tuple[str, str],
    branches: tuple[LoggedBranch, ...],
    at_us: int,
) -> Decision:
    """An outcome, or a claim, under a caller's key."""
    aborted = outcome is Outcome.ABORTED
    return Decision(
        txn_id,
        outcome,
        RequestKey(name[0], name[1], b"body"),
        branches,
        decided_at_us=at_us,
        reason="NO" if aborted else "",
        ended=aborted,
    )


def inquiry(txn_id: TxnId, at_us: int) -> Decision:
    """An abort that an inquiry writes."""
    return Decision(txn_id, Outcome.ABORTED, None, (), decided_at_us=at_us, ended=True)


_IDS = st.sampled_from(IDS)
_KEYED = st.builds(keyed, _IDS, st.sampled_from(Outcome), st.sampled_from(NAMES), _BRANCHES, _TIMES)
_INQUIRIES = st.builds(inquiry, _IDS, _TIMES)


def _can_wait(decision: Decision) -> bool:
    """Whether it frees nothing; within one call a log may write such rows before the others."""
    return decision.outcome is not Outcome.COMMITTED and decision.request is not None


def _name(decision: Decision) -> tuple[str, str] | None:
    return decision.request and (decision.request.caller, decision.request.idempotency_key)


class Model:
    """What stands in a log, and what stood there."""

    def __init__(self) -> None:
        self.log_id: str | None = None
        self.rows: dict[TxnId, Decision] = {}
        self.horizon = ""
        self.gone: set[TxnId] = set()
        """Commits that had ended, and were truncated."""

    def with_name(self, name: tuple[str, str] | None) -> Decision | None:
        """The row of a caller's key."""
        named = (row for row in self.rows.values() if name is not None and _name(row) == name)
        return next(named, None)

    def decide(self, decision: Decision) -> Decision | type[TxnError]:
        """The first stands; absence below the horizon says nothing."""
        stands = self.rows.get(decision.txn_id) or self.with_name(_name(decision))
        if stands is not None:
            return stands
        if decision.request is None and decision.txn_id <= self.horizon:
            return TooOld
        self.rows[decision.txn_id] = decision
        self.gone.discard(decision.txn_id)
        return decision

    def close(self, claim: Decision) -> Decision:
        """Once."""
        if self.rows[claim.txn_id].outcome is Outcome.PENDING:
            self.rows[claim.txn_id] = claim
        return self.rows[claim.txn_id]

    def truncate(self, after: str, limit: int, before_us: int) -> Truncated:
        """What has ended and is old goes."""
        page = [self.rows[each] for each in sorted(self.rows) if each > after][:limit]
        old = [row for row in page if row.decided_at_us < before_us]
        going = [row for row in old if row.ended]
        for row in going:
            del self.rows[row.txn_id]
            if row.request is not None:
                self.horizon = max(self.horizon, row.txn_id)
            if row.outcome is Outcome.COMMITTED:
                self.gone.add(row.txn_id)
        goes_on = old and len(page) == limit
        return Truncated(len(going), page[-1].txn_id if goes_on else None)

    def newest(self) -> str | None:
        """The greatest id that has, or had, a row with a key."""
        keyed = [row.txn_id for row in self.rows.values() if row.request is not None]
        return max([self.horizon, *keyed]) or None

    def ended(self) -> set[TxnId]:
        """Commits of which nobody will ask again."""
        return self.gone | {
            row.txn_id
            for row in self.rows.values()
            if row.ended and row.outcome is Outcome.COMMITTED
        }


class LogMachine(AsyncMachine):
    """Both logs and the model say the same."""

    server: PostgresServer | None = None
    logs: Sequence[DecisionLog]

    @initialize()
    def begin(self) -> None:
        """Empty logs."""
        self.model = Model()
        self.memory = MemoryBackend()
        self.schema = "" if self.server is None else self.server.schema()
        self._open()

    def _open(self) -> None:
        memory = MemoryDecisionLog(MemoryStore(MemoryBackend(self.memory.durable)))
        if self.server is None:
            sqlite = self.enter(open_sqlite(self.directory / "c.db"))
            self.logs = (memory, SqlDecisionLog(sqlite, FastClock()))
        else:
            postgres = self.enter(open_postgres(self.server, self.schema))
            self.logs = (memory, SqlDecisionLog(postgres, FastClock()))

    @rule()
    def open_again(self) -> None:
        """What was durable is there."""
        self.leave()
        self._stack = AsyncExitStack()
        self._open()

    @rule(proposed=st.sampled_from(["x", "y"]))
    def identity(self, proposed: str) -> None:
        """The first name stands."""
        self.model.log_id = self.model.log_id or proposed
        for log in self.logs:
            assert self.model.log_id == self.run(log.identity(proposed))

    @rule(
        # One call has one row for each transaction: which of two stands it may tell to both.
        decisions=st.lists(
            _KEYED | _INQUIRIES, min_size=1, max_size=3, unique_by=lambda each: each.txn_id
        )
    )
    def decide(self, decisions: list[Decision]) -> None:
        """What stands is told, whoever wrote it."""
        decisions.sort(key=_can_wait, reverse=True)
        expected = [self.model.decide(each) for each in decisions]
        for log in self.logs:
            stand = self.run(log.decide_all(decisions))
            assert expected == [
                each if isinstance(each, Decision) else type(each) for each in stand
            ]

    @precondition(lambda self: self._of(Outcome.COMMITTED))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """Ends ride with the next force, and are said to be durable after it."""
        ending = data.draw(
            st.lists(st.sampled_from(self._of(Outcome.COMMITTED)), min_size=1, unique=True)
        )
        for txn_id in ending:
            self.model.rows[txn_id] = replace(self.model.rows[txn_id], ended=True)
        self._ride(lambda log, durable: log.end_all(ending, durable))

    @precondition(lambda self: self._keyed())
    @rule(data=st.data(), branches=_BRANCHES, at_us=_TIMES, lazily=st.booleans())
    def close(
        self, data: st.DataObject, branches: tuple[LoggedBranch, ...], at_us: int, *, lazily: bool
    ) -> None:
        """A claim becomes an outcome; what is one already stays."""
        claims = [
            replace(
                self.model.rows[txn_id],
                outcome=data.draw(st.sampled_from([Outcome.COMMITTED, Outcome.ABORTED])),
                branches=branches,
                decided_at_us=at_us,
                reason="CLOSED",
                ended=True,
            )
            for txn_id in data.draw(
                st.lists(st.sampled_from(self._keyed()), min_size=1, unique=True)
            )
        ]
        expected = [self.model.close(claim) for claim in claims]
        if lazily:
            lost: list[None] = []
            self._ride(
                lambda log, durable: log.close_lazily(claims, durable, lambda: lost.append(None))
            )
            assert [] == lost
            return
        for log in self.logs:
            assert expected == [*self.run(log.close_all(claims))]

    @rule(
        after=st.just("") | st.sampled_from(IDS),
        limit=st.just(ALL) | st.integers(1, len(IDS)),
        before_us=st.just(TIME_MAX_US + 1) | _TIMES,
    )
    def truncate(self, after: str, limit: int, before_us: int) -> None:
        """What has ended and is old goes, and where to go on is said."""
        expected = self.model.truncate(after, limit, before_us)
        for log in self.logs:
            step = log.truncate(after=after, limit=limit, before_us=before_us)
            assert expected == self.run(step)

    @rule(after=st.sampled_from(["", *IDS]), limit=st.integers(1, 3), unfinished_only=st.booleans())
    def page(self, after: str, limit: int, *, unfinished_only: bool) -> None:
        """Rows above an id, ascending."""
        rows = [self.model.rows[each] for each in sorted(self.model.rows) if each > after]
        expected = [row for row in rows if not (unfinished_only and row.ended)][:limit]
        for log in self.logs:
            page = log.list_decisions(after=after, limit=limit, unfinished_only=unfinished_only)
            assert expected == [*self.run(page)]

    def _of(self, outcome: Outcome) -> list[TxnId]:
        return [txn_id for txn_id, row in self.model.rows.items() if row.outcome is outcome]

    def _keyed(self) -> list[TxnId]:
        return [txn_id for txn_id, row in self.model.rows.items() if row.request is not None]

    def _ride(self, ride: Callable[[DecisionLog, Callable[[], None]], None]) -> None:
        for log in self.logs:
            heard: list[None] = []

            async def with_a_force(log: DecisionLog = log, heard: list[None] = heard) -> None:
                ride(log, lambda: heard.append(None))
                assert [] == heard
                await log.identity(self.model.log_id or "x")

            self.run(with_a_force())
            assert [None] == heard
        self.model.log_id = self.model.log_id or "x"

    @invariant()
    def all_say_the_same(self) -> None:
        """By id, by key, as a list, and in what they know of what is gone."""
        model = self.model
        named = {name: row for name in NAMES if (row := model.with_name(name)) is not None}
        for log in self.logs:
            rows = self.run(log.list_decisions(after="", limit=ALL))
            assert [model.rows[each] for each in sorted(model.rows)] == [*rows]
            assert named == self.run(log.by_keys(NAMES))
            assert [model.rows.get(each) for each in IDS] == [
                self.run(log.by_txn_id(each)) for each in IDS
            ]
            assert model.newest() == self.run(log.newest_txn_id())
            known = [each for each in IDS if each in model.rows or each in model.gone]
            assert model.ended() == self.run(log.ended(known))


def test_a_decision_log_on_sqlite_is_what_its_model_is() -> None:
    """No order of decisions, ends, claims and truncations tells it, or that in memory, from it."""
    run_state_machine_as_test(LogMachine, settings=tried(30))


def test_a_decision_log_on_postgres_is_what_its_model_is(postgres_server: PostgresServer) -> None:
    """The same there."""
    machine = type("Machine", (LogMachine,), {"server": postgres_server})
    run_state_machine_as_test(machine, settings=tried(10))
