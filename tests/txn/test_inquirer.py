"""A participant in doubt asks, and does nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from random import Random
from typing import NoReturn

import pytest

from tests.support.waiting import eventually
from tests.txn.helpers import FastClock, key, operation, prepare
from tests.txn.participant_rig import Counting, MemoryEffects, TextCodec
from txn.errors import GroupLost, StoreFull, Unreachable
from txn.inquirer import Inquirer, InquiryConfig
from txn.model import Batch, BranchKey, Prepare, TxnId
from txn.participant import Participant
from txn.state import BranchState, Outcome
from txn.testing import MemoryBranchTable, MemoryStore, Tables


class Oracle:
    """A coordinator that answers as told; PENDING otherwise."""

    def __init__(self) -> None:
        self.answers: dict[TxnId, Outcome | Exception] = {}
        self.asked: list[tuple[str, str]] = []
        self.sizes: list[int] = []

    async def inquire(
        self, coordinator: str, keys: Sequence[BranchKey], timeout_s: float
    ) -> Sequence[Outcome]:
        """See CoordinatorTransport.inquire."""
        self.asked += [(coordinator, asked.txn_id) for asked in keys]
        self.sizes.append(len(keys))
        await asyncio.sleep(0)
        outcomes = []
        for asked in keys:
            answer = self.answers.get(asked.txn_id, Outcome.PENDING)
            if isinstance(answer, Exception):
                raise answer
            outcomes.append(answer)
        return outcomes


class Doubt:
    """A participant with branches in doubt, an oracle, and the inquirer between them."""

    def __init__(self, *txn_ids: str, config: InquiryConfig | None = None) -> None:
        self.txn_ids = txn_ids
        self.oracle = Oracle()
        self.effects = MemoryEffects()
        self.store = MemoryStore()
        self.participant: Participant[Tables, str] = Participant(
            store=self.store,
            branches=MemoryBranchTable(),
            resource=Counting(self.effects),
            codec=TextCodec(),
            coordinators=frozenset({"coordinator", "other", "third"}),
            clock=FastClock(),
        )
        self.inquirer = Inquirer(
            self.participant, self.oracle, clock=FastClock(), rng=Random(1), config=config
        )

    async def prepared(self) -> Doubt:
        """Every branch prepared."""
        for txn_id in self.txn_ids:
            await self.participant.prepare(prepare(txn_id))
        return self

    async def look(self, rounds: int = 1) -> None:
        """Rounds of the inquirer."""
        for _ in range(rounds):
            await self.inquirer.look()

    async def state(self, txn_id: str = "t1") -> BranchState:
        """Where a branch stands."""
        return (await self.participant.get(key(txn_id))).state


async def test_asks_only_about_what_was_in_doubt_before() -> None:
    """A branch just prepared is left alone for a round; its coordinator is asked after that."""
    doubt = await Doubt("t1").prepared()
    await doubt.look()
    assert [] == doubt.oracle.asked
    await doubt.participant.prepare(prepare("t2"))
    await doubt.look()
    assert [("coordinator", "t1")] == doubt.oracle.asked


async def test_what_is_settled_is_not_asked_about() -> None:
    """A branch that has its outcome is no longer in doubt."""
    doubt = await Doubt("t1").prepared()
    await doubt.look()
    await doubt.participant.commit(key())
    await doubt.look(3)
    assert [] == doubt.oracle.asked


@pytest.mark.parametrize(
    ("answer", "state", "effect"),
    [
        (Outcome.COMMITTED, BranchState.COMMITTED, {"prepare": 1, "commit op": 1}),
        (Outcome.ABORTED, BranchState.ABORTED, {"prepare": 1, "abort op": 1}),
        (Outcome.PENDING, BranchState.PREPARED, {"prepare": 1}),
        (Unreachable("gone"), BranchState.PREPARED, {"prepare": 1}),
        (StoreFull("full"), BranchState.PREPARED, {"prepare": 1}),
        (RuntimeError("a defect in a transport"), BranchState.PREPARED, {"prepare": 1}),
    ],
    ids=str,
)
async def test_the_answer_is_applied(
    answer: Outcome | Exception, state: BranchState, effect: dict[str, int]
) -> None:
    """A final answer is applied once; anything else leaves the branch as it is, for ever."""
    doubt = await Doubt("t1").prepared()
    doubt.oracle.answers[TxnId("t1")] = answer
    await doubt.look(6)
    assert state is await doubt.state()
    assert effect == await doubt.store.read(doubt.effects.all)


async def test_one_that_fails_does_not_keep_others_in_doubt() -> None:
    """Each coordinator is asked by itself, whatever became of asking the others."""
    doubt = await Doubt("t1").prepared()
    for txn_id, coordinator in (("t2", "other"), ("t3", "third")):
        await doubt.participant.prepare(Prepare(key(txn_id), coordinator, operation()))
    doubt.oracle.answers = {
        TxnId("t1"): RuntimeError("a defect"),
        TxnId("t2"): Unreachable("gone"),
        TxnId("t3"): Outcome.ABORTED,
    }
    await doubt.look(2)
    states = [await doubt.state(name) for name in ("t1", "t2", "t3")]
    assert [BranchState.PREPARED, BranchState.PREPARED, BranchState.ABORTED] == states


async def test_one_that_cannot_be_resolved_does_not_keep_others_in_doubt() -> None:
    """Each branch of an answer is resolved by itself: one whose promise breaks fails alone."""
    doubt = await Doubt("t1", "t3").prepared()
    await doubt.participant.prepare(prepare("t2", value=b"break"))
    doubt.oracle.answers = {TxnId(name): Outcome.COMMITTED for name in ("t1", "t2", "t3")}
    await doubt.look(2)
    states = [await doubt.state(name) for name in ("t1", "t2", "t3")]
    assert [BranchState.COMMITTED, BranchState.PREPARED, BranchState.COMMITTED] == states


async def test_what_the_store_loses_stays_in_doubt_and_is_no_alarm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An outcome that could not be written down is asked for again; no promise was broken."""

    def lost(tx: Tables, work: object) -> NoReturn:
        raise GroupLost("undone")

    doubt = await Doubt("t1").prepared()
    doubt.oracle.answers[TxnId("t1")] = Outcome.COMMITTED
    with monkeypatch.context() as trouble:
        trouble.setattr(doubt.store.backend, "run", lost)
        await doubt.look(2)
    assert BranchState.PREPARED is await doubt.state()
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]
    await doubt.look()
    assert BranchState.COMMITTED is await doubt.state()
    assert {"prepare": 1, "commit op": 1} == await doubt.store.read(doubt.effects.all)


async def test_what_was_settled_and_forgotten_meanwhile_is_no_alarm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An answer may come after the branch was committed, acknowledged by all and forgotten."""
    doubt = await Doubt("t1").prepared()
    await doubt.look()
    inquire = doubt.oracle.inquire

    async def slow(
        coordinator: str, keys: Sequence[BranchKey], timeout_s: float
    ) -> Sequence[Outcome]:
        await doubt.participant.commit(key())
        await doubt.participant.exchange(Batch([], [key()], TxnId("t2")))
        await doubt.participant.abort(key("t3"))
        return await inquire(coordinator, keys, timeout_s)

    doubt.oracle.answers[TxnId("t1")] = Outcome.COMMITTED
    doubt.oracle.inquire = slow  # type: ignore[method-assign]
    await doubt.look()
    assert ["t1"] == [txn_id for _, txn_id in doubt.oracle.asked]
    assert {"prepare": 1, "commit op": 1} == await doubt.store.read(doubt.effects.all)
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("count", [3, 4, 7])
async def test_more_than_fit_in_an_inquiry(count: int) -> None:
    """Branches beyond batch_size_max get their turn in the same round, each once."""
    names = [f"t{number}" for number in range(count)]
    doubt = await Doubt(*names, config=InquiryConfig(batch_size_max=3)).prepared()
    await doubt.look(2)
    assert names == [txn_id for _, txn_id in doubt.oracle.asked]
    doubt.oracle.answers = {TxnId(name): Outcome.ABORTED for name in names}
    await doubt.look()
    assert {BranchState.ABORTED} == {await doubt.state(name) for name in names}


async def test_so_many_at_once() -> None:
    """An inquiry does not name more branches at once than it may, and not fewer either."""
    names = [f"t{number}" for number in range(10)]
    doubt = await Doubt(*names, config=InquiryConfig(batch_size_max=3)).prepared()
    await doubt.look(2)
    assert [3, 3, 3, 1] == doubt.oracle.sizes


async def test_run_goes_on_after_errors() -> None:
    """Whatever a round runs into, the next one comes."""
    doubt = await Doubt("t1").prepared()
    rounds = 0

    async def failing() -> None:
        nonlocal rounds
        rounds += 1
        raise [StoreFull("full"), RuntimeError("a defect")][rounds % 2]

    doubt.inquirer.look = failing  # type: ignore[method-assign]
    running = asyncio.ensure_future(doubt.inquirer.run())
    try:
        await eventually(lambda: rounds > 4)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_run_resolves_by_itself() -> None:
    """Nobody has to call the inquirer for a doubt to end."""
    doubt = await Doubt("t1").prepared()
    doubt.oracle.answers[TxnId("t1")] = Outcome.COMMITTED
    running = asyncio.ensure_future(doubt.inquirer.run())
    try:
        await eventually(
            lambda: MemoryBranchTable().list_rows(
                doubt.store.backend.durable, after=None, limit=1, state=BranchState.COMMITTED
            )
        )
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
