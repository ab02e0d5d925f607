"""The two ways between coordinator and participants, over the simulated network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, Protocol

from tests.sim.books import Defect, Step
from tests.sim.network import Network
from txn.coordinator import Coordinator
from txn.errors import (
    Alarm,
    Busy,
    IdempotencyConflict,
    InvalidOperation,
    Refused,
    TxnError,
    Unreachable,
)
from txn.model import Batch, BranchKey, Commit, Ended, Perform, Prepare, Reply, Resolve, TxnId
from txn.participant import Participant
from txn.state import Outcome
from txn.testing import Tables

_Answers = Callable[[Participant[Tables, Step], Batch], Awaitable[Sequence[Reply]]]


class Watcher(Protocol):
    """Sees what leaves a host, and what reaches one; see oracle.py."""

    def sending(self, participant: str, batch: Batch) -> None:
        """A batch is about to leave the coordinator."""

    def told(self, participant: str, batch: Batch) -> None:
        """A batch has come to a replica of a participant."""

    def replying(self, participant: str, batch: Batch, replies: Sequence[Reply]) -> None:
        """Its replies are about to leave."""

    def answering(self, keys: Sequence[BranchKey], outcomes: Sequence[Outcome]) -> None:
        """The answers to an inquiry are about to leave the coordinator."""

    def answered(
        self, participant: str, keys: Sequence[BranchKey], outcomes: Sequence[Outcome]
    ) -> None:
        """They have come to the participant that asked."""


class Between(Protocol):
    """What transports need of the world."""

    seed: int
    network: Network

    @property
    def watcher(self) -> Watcher:
        """Who sees what is sent and told."""

    def replica(self, participant: str) -> str:
        """The replica that the next batch goes to."""

    def coordinator(self) -> str:
        """The coordinator that the next question goes to."""


class ToParticipants:
    """ParticipantTransport: to one replica, as a batch or one call for each message."""

    def __init__(self, world: Between, name: str) -> None:
        self._world = world
        self._name = name
        self._rng = Random(f"apart/{world.seed}/{name}")

    def offers_one_phase(self, participant: str) -> bool:
        """See ParticipantTransport.offers_one_phase."""
        return self._rng.random() >= self._world.network.weather.old

    async def exchange(self, participant: str, batch: Batch, timeout_s: float) -> Sequence[Reply]:
        """See ParticipantTransport.exchange."""
        world = self._world
        world.watcher.sending(participant, batch)
        if self._rng.random() >= world.network.weather.apart:
            return await self._attempt(participant, batch, timeout_s, _together)
        alone = await asyncio.gather(
            *(
                self._attempt(participant, Batch([each]), timeout_s, _alone)
                for each in batch.messages
            ),
            return_exceptions=True,
        )
        replies: list[Reply] = []
        for each in alone:
            if isinstance(each, TxnError):
                replies.append(each)
            elif isinstance(each, BaseException):
                raise each
            else:
                replies.extend(each)
        return replies

    async def _attempt(
        self, participant: str, batch: Batch, timeout_s: float, answers: _Answers
    ) -> Sequence[Reply]:
        world = self._world

        async def serve(host: Any) -> list[Reply]:
            serving: Participant[Tables, Step] | None = host.participant
            if serving is None:
                raise Unreachable("STARTING")
            world.watcher.told(participant, batch)
            return [_on_the_wire(reply) for reply in await answers(serving, batch)]

        return await world.network.call(
            self._name,
            world.replica(participant),
            serve,
            timeout_s,
            what=batch,
            left=lambda replies: world.watcher.replying(participant, batch, replies),
        )


async def _together(serving: Participant[Tables, Step], batch: Batch) -> Sequence[Reply]:
    return await serving.exchange(batch)


async def _alone(serving: Participant[Tables, Step], batch: Batch) -> Sequence[Reply]:
    """As the unary calls do it; a defect is an error of the call."""
    (message,) = batch.messages
    if isinstance(message, Perform | Resolve):
        # Only batches have these.
        return await serving.exchange(batch)
    try:
        if isinstance(message, Prepare):
            return [await serving.prepare(message)]
        if isinstance(message, Commit):
            await serving.commit(message.key)
        else:
            await serving.abort(message.key)
    except TxnError as error:
        return [error]
    except Defect:
        return [Unreachable("INTERNAL")]
    return [None]


class ToCoordinator:
    """CoordinatorTransport and EndedTransport."""

    def __init__(self, world: Between, of: str, name: str) -> None:
        self._world = world
        self._of = of
        self._name = name
        self._rng = Random(f"heard/{world.seed}/{name}")

    async def inquire(
        self, coordinator: str, keys: Sequence[BranchKey], timeout_s: float
    ) -> Sequence[Outcome]:
        """See CoordinatorTransport.inquire."""
        watcher = self._world.watcher

        async def serve(host: Any) -> list[Outcome]:
            engine: Coordinator | None = host.engine
            if engine is None:
                raise Unreachable("STARTING")
            answers = await engine.inquire([key.txn_id for key in keys])
            return [Outcome.PENDING if isinstance(each, TxnError) else each for each in answers]

        try:
            outcomes = await self._world.network.call(
                self._name,
                self._world.coordinator(),
                serve,
                timeout_s,
                what=keys,
                left=lambda outcomes: watcher.answering(keys, outcomes),
            )
        except TxnError as error:
            raise Unreachable(type(error).__name__) from error
        if heard_s := self._world.network.weather.heard_s:
            await asyncio.sleep(self._rng.expovariate(1.0) * heard_s)
        watcher.answered(self._of, keys, outcomes)
        return outcomes

    async def ended(self, coordinator: str, txn_ids: Sequence[TxnId], timeout_s: float) -> Ended:
        """See EndedTransport.ended."""

        async def serve(host: Any) -> Ended:
            engine: Coordinator | None = host.engine
            if engine is None:
                raise Unreachable("STARTING")
            return await engine.ended(txn_ids)

        try:
            return await self._world.network.call(
                self._name, self._world.coordinator(), serve, timeout_s, what=txn_ids
            )
        except TxnError as error:
            raise Unreachable(type(error).__name__) from error


def _on_the_wire(reply: Reply) -> Reply:
    """What is left of an error on its way; see txn/rpc/replies.py."""
    if isinstance(reply, IdempotencyConflict | InvalidOperation):
        return Refused(type(reply).__name__)
    if isinstance(reply, TxnError) and not isinstance(reply, Busy | Refused | Alarm):
        return Unreachable(type(reply).__name__)
    return reply
