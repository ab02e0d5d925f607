"""A coordinator among others: whom it refuses to serve beside, and from whom it takes over."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
from tallystick.txn.v1 import coordinator_service_pb2

from discovery import Endpoint, ResolverState
from discovery.resolver import Listener, Subscription
from services.coordinator import peers, succession
from services.coordinator.asking import OLDER_RELEASE
from services.coordinator.peers import Peers
from services.runtime import CannotStart
from tests.support.waiting import eventually
from tests.txn.helpers import ScriptedTransport
from txn.clock import SystemClock
from txn.config import CoordinatorConfig
from txn.coordinator import Coordinator
from txn.ids import new_id_after
from txn.testing import MemoryDecisionLog, MemoryStore

SERVICE = "tallystick/coordinator"
MINE, OTHER = "127.0.0.1:1", "127.0.0.1:2"
Answer = coordinator_service_pb2.GetCoordinatorResponse


class Registry:
    """A resolver that reports what it is told to."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def subscribe(self, service: str, listener: Listener) -> Subscription:
        """See Resolver."""
        assert service == SERVICE
        self._listeners.append(listener)
        return Closed()

    def say(self, *registered: str, error: str | None = None) -> None:
        """These are registered, as of then."""
        endpoints = tuple(Endpoint(each, started_at=each) for each in registered)
        for listener in self._listeners:
            listener(ResolverState(endpoints, resolved=True, error=error))


class Closed:
    """A subscription."""

    def close(self) -> None:
        """See Subscription."""


class Answers:
    """What others answer, by their addresses; nothing from those that are not named."""

    def __init__(self) -> None:
        self.who_is: dict[str, Answer | str] = {}
        self.alive: set[str] = set()
        self.asked = 0

    async def who(self, address: str) -> Answer | str | None:
        """See Asking."""
        self.asked += 1
        return self.who_is.get(address)

    async def lives(self, address: str) -> bool:
        """See Asking."""
        self.asked += 1
        return address in self.alive


class Seat:
    """One coordinator with its peers, over a log that others may share."""

    def __init__(self, store: MemoryStore, address: str = MINE) -> None:
        self.registry, self.answers = Registry(), Answers()
        clock = SystemClock()
        self.coordinator = Coordinator(
            config=CoordinatorConfig(
                name="coordinator", participants=frozenset({"ledger"}), instance=address
            ),
            log=MemoryDecisionLog(store),
            transport=ScriptedTransport(),
            clock=clock,
            rng=Random(1),
            new_txn_id=new_id_after,
        )
        self.peers = Peers(
            self.coordinator, self.answers, self.registry, SERVICE, address=address, clock=clock
        )

    async def admit(self) -> None:
        """As before serving."""
        await self.peers.admit(await self.coordinator.identify())

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """It serves, and looks at the others."""
        await self.coordinator.start()
        looking = asyncio.ensure_future(self.peers.run())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await self.coordinator.close(0.0)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "REGISTRY_WAIT_S", 0.2)
    monkeypatch.setattr(peers, "GRACE_S", 0.0)
    monkeypatch.setattr(succession, "LOOK_S", 0.02)
    monkeypatch.setattr(succession, "LOOK_AGAIN_S", 0.01)


async def test_who_is_registered_beside_it_shares_its_log() -> None:
    """One of the same log, one that does not answer, and itself are no reason not to start."""
    seat = Seat(MemoryStore())
    log_id = await seat.coordinator.identify()
    seat.answers.who_is = {OTHER: Answer(log_id=log_id, epoch=1), MINE: OLDER_RELEASE}
    seat.registry.say(OTHER, MINE, "127.0.0.1:3")
    await seat.admit()


@pytest.mark.parametrize(
    ("answer", "why"),
    [(Answer(log_id="-another", epoch=1), "another log"), (OLDER_RELEASE, OLDER_RELEASE)],
    ids=["another log", "older release"],
)
async def test_it_does_not_start_beside_a_stranger(answer: Answer | str, why: str) -> None:
    """The same request would have two effects."""
    seat = Seat(MemoryStore())
    seat.answers.who_is = {OTHER: answer}
    seat.registry.say(OTHER)
    with pytest.raises(CannotStart, match=f"registered at {OTHER}.*{why}"):
        await seat.admit()


async def test_without_a_registry_it_starts() -> None:
    """The registry is off the data path."""
    await Seat(MemoryStore()).admit()


async def test_the_younger_of_two_strangers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """They started while the registry was away; the older one goes on."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    for mine, expected in (("127.0.0.1:1", False), ("127.0.0.1:3", True)):
        seat = Seat(MemoryStore(), mine)
        await seat.admit()
        seat.answers.who_is = {OTHER: Answer(log_id="-another", epoch=1)}
        async with seat.serving():
            seat.registry.say(OTHER, mine)
            await eventually(lambda: seat.answers.asked > 3, what="looks")  # noqa: B023
            assert bool(ended) is expected


async def test_who_is_known_is_not_asked_again() -> None:
    """Each start of each is asked once, and again only as long as it does not answer."""
    store = MemoryStore()
    seat = Seat(store)
    await seat.admit()
    async with seat.serving():
        seat.registry.say(OTHER, MINE)
        await eventually(lambda: seat.answers.asked > 3, what="looks")
        log_id = await seat.coordinator.identify()
        seat.answers.who_is = {OTHER: Answer(log_id=log_id, epoch=1)}
        await eventually(lambda: seat.peers._known, what="an answer")
        asked = seat.answers.asked
        for _ in range(5):
            seat.registry.say(OTHER, MINE)
            await asyncio.sleep(0)
        await eventually(lambda: not seat.peers._news.is_set(), what="a look")
        assert asked == seat.answers.asked


@pytest.fixture
async def two() -> AsyncIterator[tuple[Seat, Seat]]:
    """One that looks, and another one of its log, which is registered nowhere."""
    store = MemoryStore()
    seat, other = Seat(store, MINE), Seat(store, OTHER)
    await other.coordinator.start()
    await seat.admit()
    async with seat.serving():
        await eventually(lambda: seat.coordinator.others(), what="the other one")
        yield seat, other
    await other.coordinator.close(0.0)


async def test_who_is_gone_is_taken_over_from(two: tuple[Seat, Seat]) -> None:
    """Neither registered nor alive: its epoch ends."""
    seat, _ = two
    seat.registry.say(MINE)
    await eventually(lambda: not seat.coordinator.others(), what="taken over")


@pytest.mark.parametrize("sign", ["alive", "registered", "registry away"])
async def test_one_sign_is_not_enough(two: tuple[Seat, Seat], sign: str) -> None:
    """Who answers, or is registered, keeps its epoch; and everybody while the registry is away."""
    seat, _ = two
    if sign == "alive":
        seat.answers.alive = {OTHER}
    registered = [OTHER] if sign == "registered" else []
    looks = 0
    suspects = seat.peers._succession._suspicion.suspects

    def counted(*arguments: object) -> object:
        nonlocal looks
        looks += 1
        return suspects(*arguments)  # type: ignore[arg-type]

    seat.peers._succession._suspicion.suspects = counted  # type: ignore[method-assign, assignment]
    seat.registry.say(MINE, *registered, error="away" if sign == "registry away" else None)
    await eventually(lambda: looks > 5, what="looks")
    assert [OTHER] == [each.instance for each in seat.coordinator.others()]
