"""Several coordinators over one log: whose a transaction is, and who goes on with it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import NoReturn

import pytest

from tests.support.waiting import eventually
from tests.txn.helpers import (
    CALLER,
    TWO,
    WAIT_S,
    FastClock,
    Gate,
    ScriptedTransport,
    branch,
    inquire,
)
from txn import recovery
from txn.clock import Backoff
from txn.config import CoordinatorConfig
from txn.coordinator import Coordinator
from txn.errors import (
    Fenced,
    ForceRefused,
    NotFound,
    ShuttingDown,
    StoreError,
    UnknownBranch,
    Unreachable,
)
from txn.forcing import Resolution
from txn.ids import new_id_after
from txn.model import Branch, Commit, Decision, Epoch, Prepare, TxnId
from txn.state import Outcome, TransactionState, Vote
from txn.testing import MemoryBackend, MemoryDecisionLog, MemoryStore
from txn.transaction import Result, view_of_undecided


class Several:
    """Coordinators that share a log; each has a transport and a store of its own."""

    def __init__(self) -> None:
        self.backend = MemoryBackend()
        self.transports: dict[str, ScriptedTransport] = {}
        self.ended: list[str] = []

    def made(self, name: str) -> Coordinator:
        """The one that is called so, before its start."""

        def end(error: BaseException) -> NoReturn:
            assert isinstance(error, Fenced)
            self.ended.append(name)
            raise asyncio.CancelledError

        transport = self.transports[name] = ScriptedTransport()
        return Coordinator(
            config=CoordinatorConfig(
                name="coordinator",
                participants=frozenset({"order", "ledger", "audit"}),
                retry=Backoff(initial_s=0.05, max_s=1.0),
                instance=name,
            ),
            log=MemoryDecisionLog(MemoryStore(self.backend, on_commit_failure=end)),
            transport=transport,
            clock=FastClock(),
            rng=Random(name),
            new_txn_id=new_id_after,
        )

    @asynccontextmanager
    async def serving(self, name: str) -> AsyncIterator[Coordinator]:
        """The one that is called so, from its start to its sudden end."""
        async with self.started(self.made(name)) as engine:
            yield engine

    @asynccontextmanager
    async def started(self, engine: Coordinator) -> AsyncIterator[Coordinator]:
        """One that was made, from its start to its sudden end."""
        await engine.start()
        try:
            yield engine
        finally:
            await engine.close(grace_s=0)

    def row(self, txn_id: str) -> Decision | None:
        """What is durable of a transaction."""
        row: Decision | None = self.backend.durable.get("decision", {}).get(txn_id)
        return row


async def pay(
    engine: Coordinator, branches: tuple[Branch, ...] = TWO, key: str = "k", wait_s: float = WAIT_S
) -> Result:
    """One transaction."""
    return await engine.execute(
        caller=CALLER, idempotency_key=key, branches=branches, wait_s=wait_s
    )


async def left_undone(engine: Coordinator, several: Several) -> None:
    """A transaction that is decided, and not applied as long as somebody is unreachable."""
    assert Outcome.PENDING is (await pay(engine, wait_s=0.05)).outcome
    await eventually(lambda: several.backend.durable.get("decision"))


async def held_up(
    engine: Coordinator, transport: ScriptedTransport
) -> tuple[Gate, asyncio.Task[Result], TxnId]:
    """A transaction that waits for a vote: until the gate is opened nothing is decided."""
    gate = Gate(Vote.COMMIT)
    transport.on("prepare", "ledger", gate)
    paying = asyncio.ensure_future(pay(engine))
    await gate.reached.wait()
    return gate, paying, (await engine.get_by_key(CALLER, "k")).txn_id


def pages_fail(engine: Coordinator, *numbers: int) -> set[int]:
    """Has these readings of a page of the log fail, from now on; those that still will."""
    log, to_come, left = engine._decisions, itertools.count(1), set(numbers)
    read = log.list_decisions

    async def list_decisions(**asked: object) -> object:
        if (number := next(to_come)) in left:
            left.remove(number)
            raise StoreError("busy")
        return await read(**asked)  # type: ignore[arg-type]

    log.list_decisions = list_decisions  # type: ignore[method-assign,assignment]
    return left


async def seen(engine: Coordinator, epoch: int) -> None:
    """Waits until the coordinator knows of another."""
    await eventually(lambda: epoch in [each.epoch for each in engine.others()])


async def test_ids_say_whose_a_transaction_is() -> None:
    """Each coordinator's have its epoch, and the name of the log that all share."""
    several = Several()
    async with several.serving("a") as one, several.serving("b") as other:
        first, second = (await pay(one, key="k1")).txn_id, (await pay(other, key="k2")).txn_id
    assert [".1", ".2"] == [each.rpartition("-")[0][-2:] for each in (first, second)]
    assert first.rpartition("-")[2] == second.rpartition("-")[2]


async def test_the_name_of_the_log_may_be_asked_before_anything_is_decided() -> None:
    """It is that of all later transactions, whichever coordinator starts first."""
    several = Several()
    async with several.serving("a") as one:
        log_id = await one.identify()
    another = several.made("b")
    assert log_id == await another.identify()
    with pytest.raises(ShuttingDown):
        await pay(another)
    async with several.started(another):
        assert (await pay(another)).txn_id.endswith(log_id)


async def test_what_another_may_decide_is_pending() -> None:
    """Until its row stands: an inquiry at who does not have it writes no abort."""
    several = Several()
    async with several.serving("a") as one, several.serving("b") as other:
        gate, paying, txn_id = await held_up(one, several.transports["a"])
        assert Outcome.PENDING is await inquire(other, txn_id)
        assert Outcome.PENDING is (await other.get(txn_id)).outcome
        assert None is several.row(txn_id)
        gate.opened.set()
        await paying
        assert Outcome.COMMITTED is await inquire(other, txn_id)
        assert Outcome.COMMITTED is (await other.get(txn_id)).outcome


async def test_who_began_a_moment_ago_is_looked_up() -> None:
    """An inquiry about an epoch that is not known yet is not taken for one of what is over."""
    several = Several()
    async with several.serving("a") as one:
        one._epochs._clock = _Stopped()
        async with several.serving("b") as other:
            gate, paying, txn_id = await held_up(other, several.transports["b"])
            assert () == one.others()
            assert Outcome.PENDING is await inquire(one, txn_id)
            gate.opened.set()
            assert Outcome.COMMITTED is (await paying).outcome


class _Stopped(FastClock):
    async def sleep(self, seconds: float) -> None:
        """Never comes back."""
        await asyncio.Event().wait()


async def test_a_key_has_one_outcome_wherever_it_is_used() -> None:
    """Who comes second aborts its branches, and returns what the first has done."""
    several = Several()
    async with several.serving("a") as one, several.serving("b") as other:
        gate = Gate(Vote.COMMIT)
        several.transports["b"].on("prepare", "ledger", gate)
        second = asyncio.ensure_future(pay(other))
        await gate.reached.wait()
        first = await pay(one)
        gate.opened.set()
        assert (first.txn_id, Outcome.COMMITTED) == (
            (told := await second).txn_id,
            told.outcome,
        )
        await eventually(lambda: several.transports["b"].count("abort", "ledger"))
        assert 0 == several.transports["b"].count("commit", "ledger")


async def test_that_the_loser_is_done_says_nothing_of_the_winner() -> None:
    """Its branches are aborted while those of the winner are still to be committed."""
    several = Several()
    async with several.serving("a") as one, several.serving("b") as other:
        gate, never = Gate(Vote.COMMIT), Gate()
        several.transports["b"].on("prepare", "ledger", gate)
        several.transports["a"].on("commit", "ledger", never)
        second = asyncio.ensure_future(pay(other))
        await gate.reached.wait()
        first = asyncio.ensure_future(pay(one))
        await never.reached.wait()
        gate.opened.set()
        assert (Outcome.COMMITTED, False) == ((told := await second).outcome, told.applied)
        never.opened.set()
        assert (await first).applied


async def test_commits_go_on_at_who_takes_over() -> None:
    """With what was decided there, once; the one that was taken over decides nothing more."""
    several = Several()
    async with several.serving("a") as one, several.serving("b") as other:
        several.transports["a"].always["commit", "ledger"] = Unreachable("GONE")
        await left_undone(one, several)
        await seen(other, 1)
        assert 1 == await other.take_over(Epoch(1))
        told = await pay(other)
        assert (Outcome.COMMITTED, True) == (told.outcome, told.applied)
        transport = several.transports["b"]
        assert (1, 1, 0) == (
            transport.count("commit", "ledger"),
            transport.count("commit", "order"),
            transport.count("prepare", "ledger"),
        )
        assert await other.take_over(Epoch(1)) is None
        await eventually(lambda: "a" in several.ended)


async def test_what_was_not_decided_is_aborted_once_its_coordinator_is_taken_over() -> None:
    """Who was in the middle of it finds the abort, and its process ends."""
    several = Several()
    async with several.serving("a") as one, several.serving("b") as other:
        gate, paying, txn_id = await held_up(one, several.transports["a"])
        await seen(other, 1)
        await other.take_over(Epoch(1))
        assert Outcome.ABORTED is await inquire(other, txn_id)
        gate.opened.set()
        await eventually(lambda: "a" in several.ended)
        paying.cancel()
        row = several.row(txn_id)
        assert row is not None
        assert Outcome.ABORTED is row.outcome
        assert 0 == several.transports["a"].count("commit", "order")


async def test_claims_go_on_at_who_takes_over() -> None:
    """What became of them is asked of their participant, and holds the horizon back till then."""
    several = Several()
    async with several.serving("a") as one, several.serving("b") as other:
        gate, asked = Gate(), Gate(Vote.COMMIT)
        several.transports["a"].one_phase = True
        several.transports["a"].on("perform", "audit", gate)
        alone = (branch("audit"),)
        paying = asyncio.ensure_future(pay(one, alone))
        await gate.reached.wait()
        txn_id = (await one.get_by_key(CALLER, "k")).txn_id
        await seen(other, 1)
        several.transports["b"].on("resolve", "audit", asked)
        assert 1 == await other.take_over(Epoch(1))
        await asked.reached.wait()
        for key in ("k1", "k2"):
            await pay(other, (*TWO, branch("audit")), key=key)
        batches = several.transports["b"].batches
        horizons = [each.prepare_horizon for name, each in batches if name == "audit"]
        assert len(horizons) > len(("k1", "k2"))
        assert all(each <= txn_id for each in horizons if each is not None)
        asked.opened.set()
        await eventually(lambda: several.transports["b"].count("resolve", "audit"))
        # What rides along goes with a force.
        await pay(other, key="k3")
        await eventually(lambda: (row := several.row(txn_id)) and row.outcome is Outcome.COMMITTED)
        paying.cancel()


async def test_the_horizon_is_that_of_all() -> None:
    """What one coordinator still prepares holds back what the other tells."""
    several = Several()
    async with several.serving("a") as one, several.serving("b") as other:
        gate, paying, txn_id = await held_up(one, several.transports["a"])
        await seen(other, 1)
        await seen(one, 2)
        for number in range(5):
            await pay(other, key=f"k{number}")
        told = [each.prepare_horizon for _, each in several.transports["b"].batches]
        assert all(each <= txn_id for each in told if each is not None)
        gate.opened.set()
        await paying
        await eventually(lambda: (other._epochs.horizon or TxnId("")) > txn_id)
        _check(several)


def _check(several: Several) -> None:
    """Nobody sends a prepare that is below what anybody has told."""
    for transport in several.transports.values():
        for _, batch in transport.batches:
            for message in batch.messages:
                if isinstance(message, Prepare):
                    assert message.key.txn_id >= (batch.prepare_horizon or "")


async def test_who_is_fenced_raises_no_alarm(caplog: pytest.LogCaptureFixture) -> None:
    """A commit that another has finished, and its participant forgotten, is no fault of anybody."""
    several = Several()
    async with several.serving("a") as one, several.serving("b") as other:
        gate = Gate(UnknownBranch("forgotten"))
        several.transports["a"].on("commit", "ledger", gate)
        paying = asyncio.ensure_future(pay(one))
        await gate.reached.wait()
        one._epochs._clock = _Stopped()
        await seen(other, 1)
        await other.take_over(Epoch(1))
        gate.opened.set()
        await eventually(lambda: "a" in several.ended)
        paying.cancel()
    assert [] == [each for each in caplog.messages if "ALARM" in each]


async def test_an_old_claim_that_is_taken_over_holds_back_more_than_ones_own() -> None:
    """The horizon is below it, though younger claims were open here before."""
    several = Several()
    alone = (branch("audit"),)
    async with several.serving("a") as one, several.serving("b") as other:
        old, young, asked = Gate(), Gate(), Gate(Vote.COMMIT)
        for name, gate in (("a", old), ("b", young)):
            several.transports[name].one_phase = True
            several.transports[name].on("perform", "audit", gate)
        paying = [asyncio.ensure_future(pay(one, alone))]
        await old.reached.wait()
        paying.append(asyncio.ensure_future(pay(other, alone, key="young")))
        await young.reached.wait()
        await seen(other, 1)
        several.transports["b"].on("resolve", "audit", asked)
        assert 1 == await other.take_over(Epoch(1))
        await asked.reached.wait()
        batches = several.transports["b"].batches
        batches.clear()
        for key in ("k1", "k2"):
            await pay(other, (*TWO, branch("audit")), key=key)
        txn_id = (await other.get_by_key(CALLER, "k")).txn_id
        horizons = [each.prepare_horizon for name, each in batches if name == "audit"]
        assert horizons
        assert all(each is not None and each <= txn_id for each in horizons)
        for each in paying:
            each.cancel()
        await asyncio.gather(*paying, return_exceptions=True)


async def test_the_end_of_a_loser_hides_nothing_of_a_winner_that_was_taken_over() -> None:
    """Its key stands for the one that goes on here, also when its own branches are aborted."""
    several = Several()
    async with several.serving("a") as one, several.serving("b") as other:
        several.transports["a"].always["commit", "ledger"] = Unreachable("GONE")
        vote, undone, told = Gate(Vote.COMMIT), Gate(), Gate()
        several.transports["b"].on("prepare", "ledger", vote)
        several.transports["b"].on("abort", "ledger", undone)
        several.transports["b"].on("commit", "ledger", told)
        losing = asyncio.ensure_future(pay(other))
        await vote.reached.wait()
        await left_undone(one, several)
        winner = (await one.get_by_key(CALLER, "k")).txn_id
        vote.opened.set()
        await undone.reached.wait()
        await seen(other, 1)
        assert 1 == await other.take_over(Epoch(1))
        undone.opened.set()
        await told.reached.wait()
        await eventually(lambda: list(other._active) == [winner])
        view = await other.get_by_key(CALLER, "k")
        assert (winner, TransactionState.COMMITTING) == (view.txn_id, view.state)
        # As far as it is, and not only what the log says.
        assert view == await other.get(winner)
        told.opened.set()
        assert Outcome.COMMITTED is (await losing).outcome


async def _shown(engine: Coordinator, txn_id: TxnId) -> None:
    assert view_of_undecided(txn_id) == await engine.get(txn_id)


async def _explained(engine: Coordinator, txn_id: TxnId) -> None:
    assert view_of_undecided(txn_id) == (await engine.explain(txn_id)).view


async def _not_forced(engine: Coordinator, txn_id: TxnId) -> None:
    with pytest.raises(ForceRefused) as refused:
        await engine.resolve(txn_id, Resolution.ABORT, operator="ann", reason="it hangs")
    assert "active elsewhere" == refused.value.stands


@pytest.mark.parametrize("asked", [_shown, _explained, _not_forced])
async def test_what_a_coordinator_began_that_began_a_moment_ago_is_undecided(
    asked: Callable[[Coordinator, TxnId], Awaitable[None]],
) -> None:
    """Whoever is asked first about it looks who is there, and does not say that it never was."""
    several = Several()
    async with several.serving("a") as one:
        one._epochs._clock = _Stopped()
        async with several.serving("b") as other:
            gate, paying, txn_id = await held_up(other, several.transports["b"])
            await asked(one, txn_id)
            gate.opened.set()
            assert Outcome.COMMITTED is (await paying).outcome


async def test_who_shows_what_there_is_tells_nobody_anything() -> None:
    """Before its start neither: until all is recovered no horizon may be told."""
    several = Several()
    async with several.serving("a") as one:
        gate, paying, txn_id = await held_up(one, several.transports["a"])
        another = several.made("b")
        await another.identify()
        assert view_of_undecided(txn_id) == await another.get(txn_id)
        assert view_of_undecided(txn_id) == (await another.explain(txn_id)).view
        assert (None, None) == (another._epochs.horizon, another._epochs._announced)
        gate.opened.set()
        await paying
        assert Outcome.COMMITTED is (await another.get(txn_id)).outcome


@pytest.mark.parametrize("asked", [Coordinator.get, Coordinator.explain])
async def test_a_transaction_of_another_log_is_not_here(
    asked: Callable[[Coordinator, TxnId], Awaitable[object]],
) -> None:
    """Though an epoch of the same number stands here, too."""
    several = Several()
    async with several.serving("a") as one, several.serving("b"):
        await seen(one, 2)
        with pytest.raises(NotFound):
            await asked(one, TxnId(f"{'0' * 32}.2-{'0' * 16}"))


async def test_what_was_decided_by_one_that_has_ended_since_is_not_denied() -> None:
    """Its epoch is looked up before its row is: the other way round it would be neither."""
    several = Several()
    async with several.serving("a") as one, several.serving("b") as other:
        gate, paying, txn_id = await held_up(other, several.transports["b"])
        await seen(one, 2)
        log, by_txn_id = one._decisions, one._decisions.by_txn_id

        async def read_late(txn_id: TxnId) -> Decision | None:
            row = await by_txn_id(txn_id)
            gate.opened.set()
            await paying
            await other.close(grace_s=WAIT_S)
            await one.take_over(Epoch(2))
            return row

        log.by_txn_id = read_late  # type: ignore[method-assign]
        assert Outcome.PENDING is (await one.get(txn_id)).outcome
        log.by_txn_id = by_txn_id  # type: ignore[method-assign]
        assert Outcome.COMMITTED is (await one.get(txn_id)).outcome


async def test_who_looks_sees_those_that_have_just_begun() -> None:
    """And need not wait until it would look again by itself."""
    several = Several()
    async with several.serving("a") as one:
        one._epochs._clock = _Stopped()
        async with several.serving("b"):
            assert () == one.others()
            await one.look()
            assert ["b"] == [each.instance for each in one.others()]


async def test_what_was_read_before_a_failure_is_taken_up_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A takeover that begins again finds a part of it going on already."""
    monkeypatch.setattr(recovery, "RECOVERY_PAGE", 1)
    several = Several()
    async with several.serving("a") as one, several.serving("b") as other:
        several.transports["a"].always["commit", "ledger"] = Unreachable("GONE")
        for key in ("k1", "k2"):
            assert Outcome.PENDING is (await pay(one, key=key, wait_s=0.05)).outcome
        await eventually(lambda: len(several.backend.durable.get("decision", {})) == 2)
        await seen(other, 1)
        transport = several.transports["b"]
        held = Gate()
        transport.on("commit", "ledger", held)
        failures = pages_fail(other, 2)
        assert 2 == await other.take_over(Epoch(1))
        assert not failures
        held.opened.set()
        for key in ("k1", "k2"):
            assert (await pay(other, key=key)).applied
        assert (2, 2) == (transport.count("commit", "ledger"), transport.count("commit", "order"))


async def test_what_cannot_be_read_is_taken_over_all_the_same() -> None:
    """Nobody else would go on with it: so it is read again until that succeeds."""
    several = Several()
    async with several.serving("a") as one, several.serving("b") as other:
        several.transports["a"].always["commit", "ledger"] = Unreachable("GONE")
        await left_undone(one, several)
        await seen(other, 1)
        failures = pages_fail(other, 1, 2)
        assert 1 == await other.take_over(Epoch(1))
        assert not failures
        await eventually(lambda: several.transports["b"].count("commit", "ledger"))


async def test_who_starts_under_the_same_name_goes_on() -> None:
    """It needs no takeover to go on with what it had begun before."""
    several = Several()
    async with several.serving("b"):
        async with several.serving("a") as one:
            several.transports["a"].always["commit", "ledger"] = Unreachable("GONE")
            await left_undone(one, several)
        async with several.serving("a") as again:
            assert Outcome.COMMITTED is (await pay(again)).outcome
            sent = [each for _, b in several.transports["a"].batches for each in b.messages]
            assert [Commit, Commit] == [type(each) for each in sent]


async def test_a_transaction_of_nobody_is_not_found() -> None:
    """An id of an epoch that is over, or never was, is nobody's to show."""
    several = Several()
    async with several.serving("a") as one:
        log_id = (await pay(one)).txn_id.rpartition("-")[2]
        for epoch in (0, 9):
            with pytest.raises(NotFound):
                await one.get(TxnId(f"{'0' * 32}.{epoch}-{log_id}"))
