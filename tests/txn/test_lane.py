"""A coordinator's lane to one participant: what goes together, when, and how often."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from random import Random

import pytest
import pytest_asyncio

from tests.txn.helpers import CALLER, Gate, ManualClock, ScriptedTransport, key, prepare, turns
from txn import lane as module
from txn import protocol
from txn.clock import Backoff
from txn.config import CoordinatorConfig
from txn.errors import Busy, Refused, UnknownBranch, Unreachable
from txn.lane import PARTICIPANT_UNAVAILABLE, Ask, Happened, Lane, Pace
from txn.model import Abort, BranchId, Commit, Message, Prepare, RequestKey, TxnId, VoteReply
from txn.state import TransactionState, Vote
from txn.transaction import Transaction

GATHER_PER_TRANSACTION_S = 0.001
GATHER_MAX_S = 0.003
BATCH_SIZE_MAX = 4
RETRY_MAX_S = 1.0
ALARM_RETRY_S = 30.0
UNTIL_S = 8.0
B = BranchId("a")
GONE = Unreachable("gone")


class Rig:
    """A lane, its clock, its transport, and what its transactions were told."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.transport = ScriptedTransport()
        self.happened: list[tuple[TxnId, protocol.Event]] = []
        self.deliveries = 0
        self.active = 1
        self.horizon: TxnId | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.transactions: dict[str, Transaction] = {}
        self.config = CoordinatorConfig(
            name="coordinator",
            participants=frozenset({"p"}),
            abort_attempts=3,
            alarm_retry_s=ALARM_RETRY_S,
            retry=Backoff(initial_s=RETRY_MAX_S, max_s=RETRY_MAX_S),
            batch_size_max=BATCH_SIZE_MAX,
            gather_per_transaction_s=GATHER_PER_TRANSACTION_S,
            gather_max_s=GATHER_MAX_S,
        )
        self.confirmed = 0
        self.pace = Pace(self.config, self.clock, self._spawn, lambda: self.active)
        self.lane = self.lane_to("p")

    def lane_to(self, participant: str) -> Lane:
        """A lane that keeps pace with the others."""
        return Lane(
            participant,
            config=self.config,
            transport=self.transport,
            clock=self.clock,
            rng=Random(1),
            spawn=self._spawn,
            deliver=self._deliver,
            pace=self.pace,
            prepare_horizon=lambda: self.horizon,
            confirm=self._confirm,
        )

    async def _confirm(self) -> None:
        self.confirmed += 1

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _deliver(self, happened: Sequence[Happened]) -> None:
        self.deliveries += 1
        self.happened += [(transaction.txn_id, event) for transaction, event in happened]

    def ask(self, *messages: Message, lane: Lane | None = None) -> None:
        """Asks all of it in one turn, each for a transaction of its own."""
        for message in messages:
            txn_id = message.key.txn_id
            progress, _ = protocol.begin([B])
            transaction = Transaction(
                txn_id, RequestKey(CALLER, txn_id, b""), {B: "p"}, {}, progress
            )
            self.transactions[txn_id] = transaction
            (lane or self.lane).ask(Ask(transaction, B, message, UNTIL_S))

    @property
    def sent(self) -> list[list[str]]:
        """The transactions of each batch."""
        return [
            [message.key.txn_id for message in batch.messages]
            for _, batch in self.transport.batches
        ]

    @property
    def told(self) -> dict[str, protocol.Event]:
        """What became of each transaction, of which something became."""
        assert len(self.happened) == len(dict(self.happened)), "told twice"
        return {str(txn_id): event for txn_id, event in self.happened}

    async def owing(self, count: int) -> Gate:
        """So many other transactions are active, whose answers wait until the gate is opened."""
        gate = Gate()
        self.transport.on("commit", "p", *[gate] * count)
        self.ask(*(Commit(key(f"owed{number}")) for number in range(count)))
        await turns()
        self.active = 1 + count
        self.transport.batches.clear()
        return gate


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    """A fresh one; nothing of it is left running."""
    rig = Rig()
    yield rig
    for task in tuple(rig.tasks):
        task.cancel()
    await asyncio.gather(*rig.tasks, return_exceptions=True)


async def test_a_lone_message_goes_at_once(rig: Rig) -> None:
    """The messages of the only transaction wait for nothing; also the second time."""
    for txn_id in ("t1", "t2"):
        rig.ask(prepare(txn_id))
        await turns()
    assert [["t1"], ["t2"]] == rig.sent
    assert (0.0, []) == (rig.clock.now_s, rig.clock.sleeps)
    assert {name: protocol.Voted(B, Vote.COMMIT) for name in ("t1", "t2")} == rig.told


async def test_what_is_asked_in_one_turn_goes_together(rig: Rig) -> None:
    """Messages of all kinds are one batch, and what came of them is delivered in one go."""
    rig.ask(prepare("t1"), Commit(key("t2")), Abort(key("t3")))
    await turns()
    assert [["t1", "t2", "t3"]] == rig.sent
    assert 1 == rig.deliveries
    expected = {
        "t1": protocol.Voted(B, Vote.COMMIT),
        "t2": protocol.Settled(B),
        "t3": protocol.Settled(B),
    }
    assert expected == rig.told


async def test_under_load_what_gathers_goes_together(rig: Rig) -> None:
    """A message waits for others, in proportion to the transactions that are active."""
    await rig.owing(2)
    rig.ask(prepare("t1"))
    await turns()
    assert [] == rig.sent
    await rig.clock.advance(1.9 * GATHER_PER_TRANSACTION_S)
    rig.ask(prepare("t2"))
    await turns()
    assert [] == rig.sent
    await rig.clock.advance(0.2 * GATHER_PER_TRANSACTION_S)
    assert [["t1", "t2"]] == rig.sent


async def test_nothing_gathers_longer_than_the_limit(rig: Rig) -> None:
    """However many transactions are active, a message goes after gather_max_s."""
    await rig.owing(BATCH_SIZE_MAX)
    assert BATCH_SIZE_MAX * GATHER_PER_TRANSACTION_S > GATHER_MAX_S
    rig.ask(prepare("t1"))
    await rig.clock.advance(0.9 * GATHER_MAX_S)
    assert [] == rig.sent
    await rig.clock.advance(0.2 * GATHER_MAX_S)
    assert [["t1"]] == rig.sent


async def test_gathering_begins_with_what_was_sent_last(rig: Rig) -> None:
    """A message that comes long after the last batch does not wait, though others are active."""
    await rig.owing(1)
    await rig.clock.advance(2 * GATHER_MAX_S)
    rig.ask(prepare("t1"))
    await turns()
    assert [["t1"]] == rig.sent


async def test_lanes_send_together(rig: Rig) -> None:
    """A message to one participant goes with what another one is sent, however late it came."""
    await rig.owing(2)
    others = rig.lane_to("q")
    rig.ask(prepare("t1"))
    await rig.clock.advance(1.9 * GATHER_PER_TRANSACTION_S)
    rig.ask(prepare("t2"), lane=others)
    await turns()
    assert [] == rig.sent
    await rig.clock.advance(0.2 * GATHER_PER_TRANSACTION_S)
    assert [["t1"], ["t2"]] == rig.sent


async def test_a_full_batch_goes_at_once(rig: Rig) -> None:
    """What fills a batch has gathered long enough; the rest goes on gathering."""
    await rig.owing(1)
    rig.ask(prepare("t0"))
    await turns()
    rig.ask(*(prepare(f"t{number}") for number in range(1, BATCH_SIZE_MAX + 1)))
    await turns()
    assert [[f"t{number}" for number in range(BATCH_SIZE_MAX)]] == rig.sent
    await rig.clock.advance(GATHER_MAX_S)
    assert ["t4"] == rig.sent[-1]


async def test_no_batch_is_larger_than_the_limit(rig: Rig) -> None:
    """What comes at once and is too much for one batch goes in several, in order."""
    rig.ask(*(prepare(f"t{number}") for number in range(10)))
    await turns()
    await rig.clock.advance(GATHER_MAX_S)
    names = [f"t{number}" for number in range(10)]
    assert [names[:4], names[4:8], names[8:]] == rig.sent
    assert set(names) == set(rig.told)


async def test_no_batch_is_larger_than_a_message_may_be(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large operations fill a batch sooner; what has none does not count."""
    monkeypatch.setattr(module, "BATCH_MAX_BYTES", 10)
    rig.ask(prepare("t1", value=b"x" * 9), prepare("t2", value=b"y" * 9), Commit(key("t3")))
    await turns()
    await rig.clock.advance(GATHER_MAX_S)
    assert [["t1", "t2"], ["t3"]] == rig.sent


async def test_after_the_load_nothing_gathers(rig: Rig) -> None:
    """When the load is over the next lone message goes at once again."""
    gate = await rig.owing(3)
    gate.opened.set()
    await turns()
    rig.active = 1
    rig.ask(prepare("t1"))
    await turns()
    assert [["t1"]] == rig.sent


@pytest.mark.parametrize("error", [GONE, RuntimeError("a defect in a transport")])
async def test_what_was_not_answered_goes_together_again(rig: Rig, error: Exception) -> None:
    """One wait of the backoff for all of a batch, whatever kept the answers away."""
    rig.transport.on("prepare", "p", error, error)
    rig.transport.on("commit", "p", error)
    rig.ask(prepare("t1"), prepare("t2"), Commit(key("t3")))
    await turns()
    assert [["t1", "t2", "t3"]] == rig.sent
    assert 1 == len(rig.clock.sleeps)
    assert rig.clock.sleeps[0] <= RETRY_MAX_S
    await rig.clock.advance(RETRY_MAX_S)
    assert [["t1", "t2", "t3"]] * 2 == rig.sent
    assert {"t1", "t2", "t3"} == set(rig.told)


async def test_one_that_was_not_answered_does_not_hold_up_the_others(rig: Rig) -> None:
    """The answers that came count at once; only the rest is asked again."""
    rig.transport.on("prepare", "p", Vote.COMMIT, GONE, VoteReply(Vote.ABORT, "NO"))
    rig.ask(prepare("t1"), prepare("t2"), prepare("t3"))
    await turns()
    expected = {
        "t1": protocol.Voted(B, Vote.COMMIT),
        "t3": protocol.Voted(B, Vote.ABORT, "NO"),
    }
    assert expected == rig.told
    await rig.clock.advance(RETRY_MAX_S)
    assert ["t2"] == rig.sent[-1]


async def test_a_refused_request_is_a_vote(rig: Rig) -> None:
    """Who does not take a prepare at all has voted, and is not asked again."""
    rig.transport.on("prepare", "p", Refused("INVALID_OPERATION"))
    rig.ask(prepare("t1"))
    await turns()
    assert {"t1": protocol.Voted(B, Vote.ABORT, "INVALID_OPERATION")} == rig.told
    assert [] == rig.clock.sleeps


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ([GONE], PARTICIPANT_UNAVAILABLE),
        ([Busy("TAKEN")], "TAKEN"),
        ([Busy("TAKEN"), GONE], PARTICIPANT_UNAVAILABLE),
        ([GONE, Busy("TAKEN")], "TAKEN"),
    ],
)
async def test_a_prepare_is_given_up_when_its_time_is_over(
    rig: Rig, errors: list[Exception], reason: str
) -> None:
    """It is asked until then, and the last answer says what was in the way."""
    rig.transport.on("prepare", "p", *errors)
    rig.transport.always["prepare", "p"] = errors[-1]
    rig.ask(prepare("t1"))
    await turns()
    while rig.clock.now_s + RETRY_MAX_S < UNTIL_S:
        await rig.clock.advance(RETRY_MAX_S)
        assert {} == rig.told
    assert len(rig.sent) == UNTIL_S / RETRY_MAX_S
    await rig.clock.advance(RETRY_MAX_S)
    assert {"t1": protocol.PrepareFailed(B, reason)} == rig.told
    assert len(rig.sent) == UNTIL_S / RETRY_MAX_S
    assert [] == rig.clock.sleeps


async def test_a_prepare_is_not_repeated_once_its_transaction_is_past_that(rig: Rig) -> None:
    """When another branch has refused meanwhile, nobody wants this vote any more."""
    rig.transport.always["prepare", "p"] = GONE
    rig.ask(prepare("t1"))
    await turns()
    transaction = rig.transactions["t1"]
    transaction.progress, _ = protocol.step(transaction.progress, protocol.PrepareFailed(B, "NO"))
    assert TransactionState.ABORTING is transaction.progress.state
    await rig.clock.advance(RETRY_MAX_S)
    assert ([["t1"]], {}, []) == (rig.sent, rig.told, rig.clock.sleeps)


async def test_a_commit_is_repeated_without_end(rig: Rig) -> None:
    """Also long after a prepare would have been given up."""
    rig.transport.always["commit", "p"] = GONE
    rig.ask(Commit(key("t1")))
    await turns()
    for _ in range(50):
        await rig.clock.advance(RETRY_MAX_S)
    assert ([["t1"]] * 51, {}) == (rig.sent, rig.told)
    rig.transport.always["commit", "p"] = None
    await rig.clock.advance(RETRY_MAX_S)
    assert {"t1": protocol.Settled(B)} == rig.told


async def test_an_abort_is_repeated_a_few_times(rig: Rig) -> None:
    """Then the participant has to ask, and nobody waits for it."""
    rig.transport.always["abort", "p"] = GONE
    rig.ask(Abort(key("t1")))
    await turns()
    for _ in range(2):
        assert {} == rig.told
        await rig.clock.advance(RETRY_MAX_S)
    assert ([["t1"]] * 3, {"t1": protocol.Settled(B)}) == (rig.sent, rig.told)
    assert [] == rig.clock.sleeps


@pytest.mark.parametrize("message", [Commit(key("t1")), Abort(key("t1"))])
async def test_an_alarm_is_said_aloud_and_never_given_up_on(
    rig: Rig, message: Message, caplog: pytest.LogCaptureFixture
) -> None:
    """It is neither success nor a failure that passes: asked again, rarely, until somebody acts."""
    verb = "commit" if isinstance(message, Commit) else "abort"
    rig.transport.always[verb, "p"] = UnknownBranch("never prepared")
    rig.ask(message)
    await turns()
    for attempt in range(1, 6):
        assert (attempt, {}) == (len(rig.sent), rig.told)
        alarms = [each for each in caplog.records if each.levelno == logging.CRITICAL]
        assert attempt == len(alarms)
        await rig.clock.advance(0.9 * ALARM_RETRY_S)
        assert attempt == len(rig.sent)
        await rig.clock.advance(0.1 * ALARM_RETRY_S)
    rig.transport.always[verb, "p"] = None
    await rig.clock.advance(ALARM_RETRY_S)
    assert {"t1": protocol.Settled(B)} == rig.told


async def test_what_is_forgettable_waits_until_it_is_below_the_horizon(rig: Rig) -> None:
    """Told before that, a late prepare would find nothing in its way."""
    rig.lane.forget([key("t1"), key("t3")])
    sent = []
    for horizon in (None, "t1", "t2", "t3", "t4", "t4"):
        rig.horizon = None if horizon is None else TxnId(horizon)
        rig.ask(Commit(key("t9")))
        await turns()
        sent.append(rig.transport.batches[-1][1])
    told = [[each.txn_id for each in batch.forgettable] for batch in sent]
    assert [[], [], ["t1"], [], ["t3"], []] == told
    assert [None, "t1", "t2", "t3", "t4", "t4"] == [batch.prepare_horizon for batch in sent]


async def test_what_is_forgettable_sends_nothing_by_itself(rig: Rig) -> None:
    """It rides along with what has to be said anyway."""
    rig.horizon = TxnId("t9")
    rig.lane.forget([key("t1")])
    await turns()
    assert ([], []) == (rig.sent, rig.clock.sleeps)


async def test_a_batch_names_so_many_that_are_forgettable(rig: Rig) -> None:
    """The others have their turn with the next batch."""
    rig.horizon = TxnId("t9")
    names = [f"t{number}" for number in range(BATCH_SIZE_MAX + 2)]
    rig.lane.forget([key(name) for name in names])
    for _ in range(2):
        rig.ask(Commit(key("t9")))
        await turns()
    told = [[each.txn_id for each in batch.forgettable] for _, batch in rig.transport.batches]
    assert [names[:BATCH_SIZE_MAX], names[BATCH_SIZE_MAX:]] == told


async def test_not_everything_that_is_forgettable_is_remembered(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A participant to which nothing is said for long does not fill the memory."""
    monkeypatch.setattr(module, "FORGETTABLE_MAX", 2)
    for number in range(5):
        rig.lane.forget([key(f"t{number}")])
    rig.horizon = TxnId("t9")
    rig.ask(Commit(key("t9")))
    await turns()
    assert [key("t0"), key("t1")] == list(rig.transport.batches[-1][1].forgettable)


async def test_a_message_says_what_it_was_asked_to(rig: Rig) -> None:
    """The batch carries the messages themselves, in the order in which they were asked."""
    messages: list[Message] = [prepare("t1"), Commit(key("t2")), prepare("t3"), Abort(key("t4"))]
    rig.ask(*messages)
    await turns()
    (participant, batch) = rig.transport.batches[0]
    assert ("p", messages) == (participant, list(batch.messages))
    assert all(each.coordinator == "coordinator" for each in messages if isinstance(each, Prepare))
