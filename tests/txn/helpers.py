"""What the tests of txn share: values, a clock that does not wait, a transport with a script."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random

from tests.support.waiting import eventually
from txn.clock import Backoff
from txn.config import CoordinatorConfig
from txn.coordinator import Coordinator
from txn.crash_point import CrashPoint, no_crash
from txn.decision_log import DecisionLog
from txn.errors import StoreFull, TxnError
from txn.metrics import NO_METRICS, CoordinatorMetrics
from txn.model import (
    Abort,
    Batch,
    Branch,
    BranchId,
    BranchKey,
    Commit,
    Decision,
    LoggedBranch,
    Message,
    Operation,
    Perform,
    Prepare,
    Reply,
    RequestKey,
    Resolve,
    TxnId,
    VoteReply,
)
from txn.state import Outcome, Vote
from txn.sweeper import Sweeper
from txn.testing import MemoryDecisionLog, MemoryStore
from txn.transport import ParticipantTransport

DEADLINE_S = 10.0
POLL_S = 0.002
WAIT_S = 5.0
CALLER = "tester"
COORDINATORS = frozenset({"coordinator"})


async def turns(count: int = 20) -> None:
    """Lets everything that is ready to run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


def key(txn_id: str = "t1", branch_id: str = "a") -> BranchKey:
    """A branch key."""
    return BranchKey(TxnId(txn_id), BranchId(branch_id))


def operation(value: bytes = b"op") -> Operation:
    """An operation that says `value`."""
    return Operation("type.example/Op", value)


def prepare(txn_id: str = "t1", branch_id: str = "a", value: bytes = b"op") -> Prepare:
    """A prepare message."""
    return Prepare(key(txn_id, branch_id), "coordinator", operation(value))


def branch(branch_id: str, participant: str = "", value: bytes = b"op") -> Branch:
    """A branch at the participant of the same name."""
    return Branch(BranchId(branch_id), participant or branch_id, operation(value))


TWO = (branch("order"), branch("ledger"))


def commit_row(txn_id: str, *votes: tuple[str, Vote], idempotency_key: str = "k") -> Decision:
    """A commit in the log whose end is not written."""
    return Decision(
        TxnId(txn_id),
        Outcome.COMMITTED,
        RequestKey(CALLER, idempotency_key, b"body"),
        tuple(LoggedBranch(BranchId(name), name, vote) for name, vote in votes),
        decided_at_us=1,
    )


class FastClock:
    """Time that passes only by sleeping, and then at once."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.utc = 1_700_000_000_000_000

    def monotonic(self) -> float:
        """Seconds slept so far."""
        return self.now_s

    def utc_us(self) -> int:
        """A time that a test may set."""
        return self.utc

    async def sleep(self, seconds: float) -> None:
        """Yields once."""
        self.now_s += seconds
        await asyncio.sleep(0)


class ManualClock(FastClock):
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self._sleeping: list[tuple[float, asyncio.Future[None]]] = []

    @property
    def sleeps(self) -> list[float]:
        """Seconds from now at which somebody wakes up."""
        return sorted(at_s - self.now_s for at_s, done in self._sleeping if not done.done())

    async def sleep(self, seconds: float) -> None:
        """Waits until the time has been advanced that far."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleeping.append((self.now_s + seconds, done))
        await done

    async def advance(self, seconds: float) -> None:
        """Lets time pass, and whoever wakes up do what there is to do."""
        self.now_s += seconds
        for at_s, done in self._sleeping:
            if at_s <= self.now_s and not done.done():
                done.set_result(None)
        self._sleeping = [each for each in self._sleeping if not each[1].done()]
        await turns()


Scripted = Vote | VoteReply | BaseException | Callable[[], Awaitable[object]] | None
VERBS: dict[type[Message], str] = {
    Prepare: "prepare",
    Commit: "commit",
    Abort: "abort",
    Perform: "perform",
    Resolve: "resolve",
}


class ScriptedTransport:
    """ParticipantTransport that does as told, then agrees to everything."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.batches: list[tuple[str, Batch]] = []
        self.always: dict[tuple[str, str], Scripted] = {}
        self.one_phase = False
        self._script: dict[tuple[str, str], deque[Scripted]] = defaultdict(deque)

    def on(self, verb: str, participant: str, *replies: Scripted) -> None:
        """Queues replies; what is callable is awaited and its result is the reply."""
        self._script[verb, participant].extend(replies)

    def count(self, verb: str, participant: str) -> int:
        """How often this was sent."""
        return self.calls.count((verb, participant))

    def sent(self, verb: str) -> set[str]:
        """To whom this was sent."""
        return {participant for sent, participant in self.calls if sent == verb}

    async def exchange(self, participant: str, batch: Batch, timeout_s: float) -> Sequence[Reply]:
        """See ParticipantTransport.exchange."""
        self.batches.append((participant, batch))
        return await asyncio.gather(*(self._answer(participant, each) for each in batch.messages))

    def offers_one_phase(self, participant: str) -> bool:
        """See ParticipantTransport.offers_one_phase."""
        return self.one_phase

    async def _answer(self, participant: str, message: Message) -> Reply:
        reply = await self._reply(VERBS[type(message)], participant)
        if isinstance(reply, TxnError) or isinstance(message, Commit | Abort):
            return reply if isinstance(reply, TxnError) else None
        if isinstance(reply, VoteReply):
            return reply
        return VoteReply(reply if isinstance(reply, Vote) else Vote.COMMIT)

    async def _reply(self, verb: str, participant: str) -> object:
        self.calls.append((verb, participant))
        await asyncio.sleep(0)
        queue = self._script[verb, participant]
        reply: object = queue.popleft() if queue else self.always.get((verb, participant))
        if callable(reply):
            reply = await reply()
        if isinstance(reply, BaseException) and not isinstance(reply, TxnError):
            raise reply
        return reply


class Gate:
    """A reply that does not come before the gate is opened."""

    def __init__(self, then: Scripted = None) -> None:
        self.then = then
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self) -> Scripted:
        """Waits, then gives the reply."""
        self.reached.set()
        await self.opened.wait()
        return self.then


def coordinator(
    transport: ParticipantTransport,
    log: DecisionLog,
    *,
    first_txn: int = 1,
    clock: FastClock | None = None,
    crash_point: CrashPoint = no_crash,
    metrics: CoordinatorMetrics = NO_METRICS,
    **limits: float,
) -> Coordinator:
    """An engine over `log`, not started; its txn_ids are t1, t2..."""
    numbers = iter(range(first_txn, 1_000_000))
    engine = Coordinator(
        config=CoordinatorConfig(
            name="coordinator",
            participants=frozenset({"order", "ledger", "audit"}),
            retry=Backoff(initial_s=0.05, max_s=1.0),
            **limits,  # type: ignore[arg-type]
        ),
        log=log,
        transport=transport,
        clock=clock or FastClock(),
        rng=Random(1),
        new_txn_id=lambda after: f"t{next(numbers)}",
        crash_point=crash_point,
        metrics=metrics,
    )
    _made.append(engine)
    return engine


_made: list[Coordinator] = []


def stop_engines() -> None:
    """Ends what was left unfinished: without time to wait for it would go on in other tests."""
    while _made:
        for task in tuple(_made.pop()._tasks):
            task.cancel()


async def start(engine: Coordinator) -> int:
    """Starts an engine over a log without a name, so that ids stay as the tests give them."""
    await engine._decisions.identity("")
    return await engine.start()


async def inquire(engine: Coordinator, txn_id: str) -> Outcome:
    """What an engine answers about one transaction."""
    (answer,) = await engine.inquire([TxnId(txn_id)])
    if isinstance(answer, TxnError):
        raise answer
    return answer


async def decide(log: DecisionLog, *decisions: Decision) -> list[Decision]:
    """The rows that stand after each was written in a force of its own."""
    stand = []
    for decision in decisions:
        (row,) = await log.decide_all([decision])
        assert isinstance(row, Decision), row
        stand.append(row)
    return stand


async def by_key(log: DecisionLog, idempotency_key: str = "k") -> Decision | None:
    """The row of a key of the caller of these tests."""
    name = (CALLER, idempotency_key)
    return (await log.by_keys([name])).get(name)


@asynccontextmanager
async def serving(
    transport: ScriptedTransport,
    log: DecisionLog | None = None,
    *,
    clock: FastClock | None = None,
    **settings: float,
) -> AsyncIterator[Coordinator]:
    """A started engine; stopped without grace at the end."""
    engine = coordinator(
        transport,
        MemoryDecisionLog(MemoryStore()) if log is None else log,
        clock=clock,
        **settings,  # type: ignore[arg-type]
    )
    await start(engine)
    try:
        yield engine
    finally:
        await engine.close(grace_s=0)


async def goes_on_after_errors(running: Sweeper) -> None:
    """Checks that whatever a pass runs into, the next one comes."""
    passes = 0

    async def failing() -> int:
        nonlocal passes
        passes += 1
        raise [StoreFull("full"), RuntimeError("a defect")][passes % 2]

    running.sweep = failing  # type: ignore[method-assign]
    task = asyncio.ensure_future(running.run())
    try:
        await eventually(lambda: passes > 4)
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
