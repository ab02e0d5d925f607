"""A coordinator's way to one participant: what is to be said gathers, and is said until answered.

What a lone transaction has to say goes at once. The more transactions are active the longer
messages wait for company, some milliseconds at most: a message on a stream costs about as
much for fifty entries as for one. Whatever happens to a message, its asker hears of it: no
answer is followed by another attempt, until there is an answer or asking has become pointless.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import lru_cache

from txn import protocol
from txn.clock import Clock
from txn.config import CoordinatorConfig
from txn.errors import Alarm, Busy, Refused, TxnError, Unreachable
from txn.metrics import NO_METRICS, CoordinatorMetrics
from txn.model import (
    TO_DO,
    TOLD,
    Abort,
    Batch,
    BranchId,
    BranchKey,
    Message,
    Perform,
    Prepare,
    Reply,
    Resolve,
    TxnId,
    VoteReply,
)
from txn.state import TransactionState, Vote
from txn.timeline import Mark, Moment, failure_of
from txn.transaction import Transaction
from txn.transport import ParticipantTransport

PARTICIPANT_UNAVAILABLE = "PARTICIPANT_UNAVAILABLE"
# Those over it stay remembered at their participant.
FORGETTABLE_MAX = 20_000
# Of the operations in a batch; the last one may exceed it. gRPC takes messages up to 4 MiB.
BATCH_MAX_BYTES = 2 * 1024 * 1024
# Different answers of which there is one object for all transactions.
ANSWERS_SHARED_MAX = 1_024

# Where a transaction is as long as what carries an operation may be asked again.
_ASKED_IN_TIME = (TransactionState.PREPARING, TransactionState.PERFORMING)

Happened = tuple[Transaction, protocol.Event]
Spawn = Callable[[Coroutine[object, object, None]], None]
# Most answers are alike, and are remembered for a while.
_voted = lru_cache(ANSWERS_SHARED_MAX)(protocol.Voted)
_settled = lru_cache(ANSWERS_SHARED_MAX)(protocol.Settled)

_log = logging.getLogger(__name__)


class Ask:
    """A message whose answer a transaction waits for."""

    __slots__ = ("attempts", "branch_id", "message", "reason", "transaction", "until_s")

    def __init__(
        self, transaction: Transaction, branch_id: BranchId, message: Message, until_s: float
    ) -> None:
        """`until_s`, on the monotonic clock, ends the attempts of a prepare or a perform.

        Of an abort it is infinite where nobody would ask about it: then it is not given up.
        """
        self.transaction = transaction
        self.branch_id = branch_id
        self.message = message
        self.until_s = until_s
        self.attempts = 0
        self.reason = PARTICIPANT_UNAVAILABLE


class Pace:
    """When lanes send: together, so that what was sent together comes back together.

    At once for a lone transaction. Between two times there are a fraction of a millisecond
    for each active transaction, up to a maximum: a message costs the same for many entries.
    """

    def __init__(
        self, config: CoordinatorConfig, clock: Clock, spawn: Spawn, active: Callable[[], int]
    ) -> None:
        """`active` says how many transactions there are."""
        self._config = config
        self._clock = clock
        self._spawn = spawn
        self._active = active
        self._waiting: list[Callable[[], None]] = []
        self._sent_at_s = clock.monotonic()

    def next(self, send: Callable[[], None]) -> None:
        """Calls `send` when it is time."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send)
        self._waiting.append(send)

    def _send(self) -> None:
        wait_s = self._sent_at_s + self._gather_s() - self._clock.monotonic()
        if wait_s > 0:
            self._spawn(self._send_later(wait_s))
            return
        self._sent_at_s = self._clock.monotonic()
        waiting, self._waiting = self._waiting, []
        for send in waiting:
            send()

    def _gather_s(self) -> float:
        """Seconds between two times."""
        others = self._active() - 1
        return min(self._config.gather_max_s, others * self._config.gather_per_transaction_s)

    async def _send_later(self, wait_s: float) -> None:
        await self._clock.sleep(wait_s)
        self._send()


class Lane:
    """See the module's docstring. Belongs to one event loop."""

    def __init__(
        self,
        participant: str,
        *,
        config: CoordinatorConfig,
        transport: ParticipantTransport,
        clock: Clock,
        rng: random.Random,
        spawn: Spawn,
        deliver: Callable[[Sequence[Happened]], None],
        pace: Pace,
        prepare_horizon: Callable[[], TxnId | None],
        confirm: Callable[[], Awaitable[None]],
        metrics: CoordinatorMetrics = NO_METRICS,
    ) -> None:
        """`deliver` is told what came of the asks, many at a time."""
        self._pace = pace
        self._participant = participant
        self._config = config
        self._transport = transport
        self._clock = clock
        self._rng = rng
        self._spawn = spawn
        self._deliver = deliver
        self._prepare_horizon = prepare_horizon
        self._confirm = confirm
        self._metrics = metrics
        self._queue: deque[Ask] = deque()
        self._forgettable: deque[BranchKey] = deque()
        self._woken = False

    def ask(self, ask: Ask) -> None:
        """Sends the message until it is answered, or asking has become pointless."""
        self._queue.append(ask)
        if not self._woken:
            self._woken = True
            self._pace.next(self._send)
        if len(self._queue) == self._config.batch_size_max:
            # That is company enough.
            asyncio.get_running_loop().call_soon(self._send_full_batches)

    def forget(self, keys: Sequence[BranchKey]) -> None:
        """Tells the participant, when there is something else to tell, what it may forget."""
        if len(self._forgettable) < FORGETTABLE_MAX:
            self._forgettable.extend(keys)

    def _send(self) -> None:
        """Sends what has gathered."""
        self._woken = False
        while self._queue:
            self._send_one_batch()

    def _send_full_batches(self) -> None:
        while len(self._queue) >= self._config.batch_size_max:
            self._send_one_batch()

    def _send_one_batch(self) -> None:
        asks = self._take_asks()
        horizon = self._prepare_horizon()
        batch = Batch([ask.message for ask in asks], self._take_forgettable(horizon), horizon)
        self._metrics.sent(self._participant, len(asks))
        self._note_sent(asks)
        self._spawn(self._exchange(asks, batch))

    def _note_sent(self, asks: Sequence[Ask]) -> None:
        """One moment for all that are alike: what is kept of a transaction should be little."""
        now_s = self._clock.monotonic()
        moment: Moment = (now_s, Prepare, "", 0)
        for ask in asks:
            kind = ask.message.__class__
            if moment[1] is not kind or moment[2] != ask.branch_id or moment[3] != ask.attempts:
                moment = (now_s, kind, ask.branch_id, ask.attempts)
            ask.transaction.moments.append(moment)

    def _take_asks(self) -> list[Ask]:
        queue, limit = self._queue, self._config.batch_size_max
        taken: list[Ask] = []
        size_bytes = 0
        while queue and len(taken) < limit and size_bytes < BATCH_MAX_BYTES:
            ask = queue.popleft()
            taken.append(ask)
            message = ask.message
            if isinstance(message, TO_DO):
                size_bytes += len(message.operation.value)
        return taken

    def _take_forgettable(self, horizon: TxnId | None) -> list[BranchKey]:
        """What is below the horizon: before that, a late prepare would find nothing in its way."""
        taken: list[BranchKey] = []
        waiting = self._forgettable
        while waiting and horizon is not None and len(taken) < self._config.batch_size_max:
            if waiting[0].txn_id >= horizon:
                break
            taken.append(waiting.popleft())
        return taken

    async def _exchange(self, asks: list[Ask], batch: Batch) -> None:
        timeout_s = self._config.attempt_timeout_s
        replies: Sequence[Reply]
        try:
            replies = await self._transport.exchange(self._participant, batch, timeout_s)
        except TxnError as error:
            replies = [error] * len(asks)
        except Exception as error:  # noqa: BLE001 - whoever asks must hear, whatever it is
            _log.exception("exchange with %s", self._participant)
            replies = [Unreachable(type(error).__name__)] * len(asks)
        self._sort_out(asks, replies)

    def _sort_out(self, asks: list[Ask], replies: Sequence[Reply]) -> None:
        happened: list[Happened] = []
        again: dict[float, list[Ask]] = {}
        # One for all, so that what was sent together goes together again.
        waits: dict[int, float] = {}
        for ask, reply in zip(asks, replies, strict=True):
            event = _event(ask, reply)
            if event is not None:
                happened.append((ask.transaction, event))
                continue
            if isinstance(ask.message, Resolve) and _is_pointless(ask):
                # It came when all was over, and may have been forgotten: no alarm.
                continue
            moment = (self._clock.monotonic(), failure_of(reply), ask.branch_id, ask.attempts)
            ask.transaction.failed(moment)
            wait_s = self._wait_s(ask, reply, waits)
            if wait_s is None:
                ask.transaction.moments.append((moment[0], Mark.GIVEN_UP, ask.branch_id, 0))
                happened.append((ask.transaction, protocol.Settled(ask.branch_id)))
            else:
                again.setdefault(wait_s, []).append(ask)
        for wait_s, those in again.items():
            self._metrics.retried(self._participant, len(those))
            self._spawn(self._ask_again(those, wait_s))
        if happened:
            self._deliver(happened)

    def _wait_s(self, ask: Ask, reply: Reply, waits: dict[int, float]) -> float | None:
        """Seconds until the next attempt; None when there is none any more."""
        if isinstance(reply, Alarm):
            # Never success: the branch stays unsettled, and is shown as such, until
            # somebody has looked.
            self._spawn(self._alarm(ask, reply))
            if isinstance(ask.message, Perform):
                # Nor would the answer to Resolve be one about what was asked for.
                ask.until_s = math.inf
            return self._config.alarm_retry_s
        _log.info("%s at %s: %s", ask.message.key, self._participant, reply)
        attempt = ask.attempts
        ask.attempts += 1
        if (
            isinstance(ask.message, Abort)
            and ask.attempts >= self._config.abort_attempts
            and ask.until_s < math.inf
        ):
            return None
        if attempt not in waits:
            waits[attempt] = self._config.retry.wait_s(attempt, self._rng)
        return waits[attempt]

    async def _alarm(self, ask: Ask, alarm: Alarm) -> None:
        """Unless it was another coordinator that has finished, and this one is fenced."""
        with suppress(TxnError):
            await self._confirm()
        _log.critical("ALARM %s at %s: %s", ask.message.key, self._participant, alarm)
        self._metrics.alarmed(self._participant, 1)

    async def _ask_again(self, asks: list[Ask], wait_s: float) -> None:
        await self._clock.sleep(wait_s)
        now_s = self._clock.monotonic()
        happened: list[Happened] = []
        for ask in asks:
            if _is_pointless(ask):
                continue
            if isinstance(ask.message, TO_DO):
                if ask.transaction.progress.state not in _ASKED_IN_TIME:
                    continue
                if now_s >= ask.until_s:
                    event = protocol.PrepareFailed(ask.branch_id, ask.reason)
                    happened.append((ask.transaction, event))
                    continue
            self.ask(ask)
        if happened:
            self._deliver(happened)


def _is_pointless(ask: Ask) -> bool:
    """Whether an operator has settled meanwhile what is asked for."""
    transaction = ask.transaction
    if isinstance(ask.message, Resolve):
        return transaction.progress.state is not TransactionState.RESOLVING
    return transaction.applied


def _event(ask: Ask, reply: Reply) -> protocol.Event | None:
    """What an answer means to the protocol; None when it means nothing."""
    if reply is None:
        return _settled(ask.branch_id) if isinstance(ask.message, TOLD) else None
    if not isinstance(ask.message, Prepare):
        return _answer_in_one_phase(ask, reply)
    if isinstance(reply, Refused):
        return _voted(ask.branch_id, Vote.ABORT, reply.reason)
    if isinstance(reply, TxnError):
        ask.reason = reply.reason if isinstance(reply, Busy) else PARTICIPANT_UNAVAILABLE
        return None
    return _voted(ask.branch_id, reply.vote, reply.reason)


def _answer_in_one_phase(ask: Ask, reply: TxnError | VoteReply) -> protocol.Event | None:
    """Nothing but a vote says what became of it: of an error nobody keeps a row."""
    resolve = isinstance(ask.message, Resolve)
    if isinstance(reply, VoteReply):
        if resolve and reply.vote is Vote.READ_ONLY:
            return None
        asked = resolve or isinstance(ask.message, Perform)
        return _voted(ask.branch_id, reply.vote, reply.reason) if asked else None
    ask.reason = reply.reason if isinstance(reply, Busy) else PARTICIPANT_UNAVAILABLE
    return None
