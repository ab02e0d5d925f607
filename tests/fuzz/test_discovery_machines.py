"""What is known of a service, who is told of it, how long a lease counts: in any order of events.

A registry that changes, is compacted, loses its data and is emptied, behind a reader that lists
and watches with gaps; removals and their grace on a clock that stands still until it is moved;
listeners that come and go; a session whose etcd answers, fails, hangs or has lost the lease.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from discovery.endpoint import Endpoint, encode_key, encode_value
from discovery.entries import ServiceEntries
from discovery.etcd_types import (
    Fingerprint,
    GapError,
    KeyValue,
    Lease,
    LeaseNotFoundError,
    Page,
    UnavailableError,
    WatchBatch,
    WatchEvent,
)
from discovery.listeners import ListenerSet
from discovery.removal import Removals
from discovery.resolver import ResolverState, Subscription
from discovery.service_view import ServiceView
from discovery.session import Session
from tests.fuzz.machines import AsyncMachine, tried
from tests.txn.helpers import ManualClock, turns

SERVICE = "tallystick/ledger"
ADDRESSES = [f"10.0.0.{number}:1" for number in range(4)]
WINDOW_S, GRACE_S = 10.0, 60.0

_ADDRESSES = st.sampled_from(ADDRESSES)
_SECONDS = st.sampled_from([0.0, 1.0, WINDOW_S - 1, WINDOW_S, GRACE_S - 1, GRACE_S])


class Registry:
    """A store of one service as etcd keeps it: revisions, versions and a history."""

    def __init__(self) -> None:
        self.revision = 1
        self.entries: dict[str, KeyValue] = {}
        self.history: list[WatchEvent] = []

    def put(self, address: str, *, draining: bool, lease_id: int) -> None:
        """Writes an endpoint."""
        endpoint = Endpoint(address, draining=draining)
        self.revision += 1
        known = self.entries.get(address)
        entry = KeyValue(
            encode_key(SERVICE, endpoint),
            encode_value(endpoint),
            self.revision,
            lease_id,
            known.version + 1 if known else 1,
            known.create_revision if known else self.revision,
        )
        self.entries[address] = entry
        self.history.append(WatchEvent(entry, deleted=False))

    def delete(self, address: str) -> None:
        """Takes it away."""
        self.revision += 1
        gone = self.entries.pop(address)
        self.history.append(WatchEvent(KeyValue(gone.key, b"", self.revision), deleted=True))


class Vanishing:
    """The rule of `discovery.removal`, told by who vanished last, when and how."""

    def __init__(self) -> None:
        self.window: dict[str, tuple[float, bool]] = {}
        """When each vanished that is not there, and whether it drained."""
        self.withdrawn: dict[str, float] = {}

    def observe(self, now: dict[str, bool], before: dict[str, bool], now_s: float) -> None:
        """`now` and `before` say who is there, and who of them drains."""
        self.window = {
            each: (at_s, drained)
            for each, (at_s, drained) in self.window.items()
            if each not in now and at_s + WINDOW_S > now_s
        }
        self.withdrawn = {each: at_s for each, at_s in self.withdrawn.items() if each not in now}
        gone = {each: drained for each, drained in before.items() if each not in now}
        for each, drained in gone.items():
            self.withdrawn.pop(each, None)
            self.window[each] = (now_s, drained)
        undrained = [each for each, (_, drained) in self.window.items() if not drained]
        most = 2 * len(undrained) > len(now) + len(self.window)
        if gone and (not now or (most and not all(gone.values()))):
            for each in undrained:
                self.withdrawn.setdefault(each, self.window[each][0])

    def known(self, now_s: float) -> list[str]:
        """Who is withdrawn now."""
        return sorted(each for each, at_s in self.withdrawn.items() if at_s + GRACE_S > now_s)


class ViewMachine(RuleBasedStateMachine):
    """Entries, removals and the view over a registry that is read with gaps."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.registry = Registry()
        self.entries = ServiceEntries(SERVICE)
        self.view = ServiceView(SERVICE, self.entries, Removals(WINDOW_S, GRACE_S))
        self.vanishing = Vanishing()
        self.seen: dict[str, bool] = {}
        """Who was there when the registry was last read, and who of them drained."""
        self.delivered = 0
        self.in_step = False

    @rule(address=_ADDRESSES, draining=st.booleans(), lease_id=st.integers(0, 2))
    def put(self, address: str, lease_id: int, *, draining: bool) -> None:
        """Somebody registers, or changes."""
        self.registry.put(address, draining=draining, lease_id=lease_id)

    @rule(addresses=st.sets(_ADDRESSES, min_size=1))
    def delete(self, addresses: set[str]) -> None:
        """Some leave, each by its own event."""
        for address in sorted(addresses & self.registry.entries.keys()):
            self.registry.delete(address)

    @rule(puts=st.integers(0, 4), draining=st.booleans())
    def lose_its_data(self, puts: int, *, draining: bool) -> None:
        """The store is empty and counts anew, perhaps up to where it was."""
        self.registry = Registry()
        self.delivered = 0
        for address in ADDRESSES[:puts]:
            self.registry.put(address, draining=draining, lease_id=1)
        # The connection broke; whether it may be resumed the fingerprint says.
        self._resume()

    def _resume(self) -> None:
        entries = self.registry.entries.values()
        newest = max(entries, key=lambda entry: entry.mod_revision, default=None)
        if self.entries.matches(Fingerprint(len(entries), newest)):
            read = {encode_key(SERVICE, each): each for each in self.entries.endpoints()}
            assert len(entries) == len(read)
            assert newest is None or newest.value == encode_value(read[newest.key])
        self.in_step = False

    @rule(pages=st.integers(1, 3))
    def list(self, pages: int) -> None:
        """The whole truth, in pages of one revision."""
        entries = sorted(self.registry.entries.values(), key=lambda entry: entry.key)
        size = math.ceil(len(entries) / pages) or 1
        self.entries.begin_listing()
        for at in range(0, max(1, len(entries)), size):
            self.entries.add_page(Page(self.registry.revision, tuple(entries[at : at + size])))
        self.view.take(self.entries.finish_listing(), self.now_s)
        self.view.resolved = True
        self.delivered = len(self.registry.history)
        self.in_step = True
        self._observe(dict(self.registry.entries))

    @precondition(lambda self: self.in_step)
    @rule(count=st.integers(0, 4))
    def watch(self, count: int) -> None:
        """Some events, and the store's revision, which may be ahead of them."""
        events = self.registry.history[self.delivered : self.delivered + count]
        batch = WatchBatch(self.registry.revision, tuple(events))
        self.view.take(self.entries.apply(batch), self.now_s)
        self.delivered += len(events)
        self._observe(self._as_of_delivered())

    @precondition(lambda self: self.in_step and self.delivered + 1 < len(self.registry.history))
    @rule()
    def miss(self) -> None:
        """An event that does not follow is noticed, unless what was missed makes no difference."""
        event = self.registry.history[self.delivered + 1]
        missed = self.registry.history[self.delivered]
        follows = event.entry.key != missed.entry.key or (
            event.deleted and event.entry.key.decode().rpartition("/")[2] in self.seen
        )
        try:
            changes = self.entries.apply(WatchBatch(self.registry.revision, (event,)))
        except GapError:
            assert not follows
        else:
            assert follows
            self.view.take(changes, self.now_s)
            # Nobody can tell: so what is read from a watch with gaps is listed again.
            present = {each.address: each.draining for each in self.entries.endpoints()}
            self.vanishing.observe(present, self.seen, self.now_s)
            self.seen = present
        self.in_step = False

    @rule(seconds=_SECONDS)
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now_s += seconds

    def _as_of_delivered(self) -> dict[str, KeyValue]:
        present = dict(self.registry.entries)
        for event in reversed(self.registry.history[self.delivered :]):
            address = event.entry.key.decode().rpartition("/")[2]
            before = [
                each.entry
                for each in self.registry.history
                if each.entry.key == event.entry.key
                and each.entry.mod_revision < event.entry.mod_revision
            ]
            was_there = before and before[-1].value
            if was_there:
                present[address] = before[-1]
            else:
                present.pop(address, None)
        return present

    def _observe(self, present: dict[str, KeyValue]) -> None:
        now = {address: b'draining\\":true' in each.value for address, each in present.items()}
        self.vanishing.observe(now, self.seen, self.now_s)
        self.seen = now

    @invariant()
    def the_state_is_what_was_read(self) -> None:
        """Who is there, and who may be kept for a while all the same."""
        state = self.view.state(self.now_s)
        assert sorted(self.seen) == [each.address for each in state.endpoints]
        assert [self.seen[each.address] for each in state.endpoints] == [
            each.draining for each in state.endpoints
        ]
        assert self.vanishing.known(self.now_s) == [each.address for each in state.withdrawn]
        changes_at_s = self.view.next_change_at_s()
        expected = [at_s + GRACE_S for at_s in self.vanishing.withdrawn.values()]
        expected = [each for each in expected if each > self.now_s]
        assert min(expected, default=None) == changes_at_s


STATES = [
    ResolverState((Endpoint(address),), resolved=True, error=error)
    for address in ADDRESSES[:2]
    for error in (None, "away")
]


class Hearing:
    """One listener, what it has heard and what it has to hear."""

    def __init__(self) -> None:
        self.heard: list[ResolverState] = []
        self.due: list[ResolverState] = []
        self.subscription: Subscription | None = None
        self.leaves_from_within = False

    def listen(self, state: ResolverState) -> None:
        """The listener."""
        self.heard.append(state)
        if self.leaves_from_within:
            assert self.subscription is not None
            self.subscription.close()


class ListenerMachine(AsyncMachine):
    """Who listens hears what is news, in order, and nothing after it has left."""

    @initialize()
    def begin(self) -> None:
        """Nobody listens."""
        self.emptied = self.to_be_emptied = 0
        self.state: ResolverState | None = None
        self.open: list[Hearing] = []
        self.closed: list[Hearing] = []
        self.listeners = ListenerSet(self._empty)

    def _empty(self) -> None:
        self.emptied += 1

    @rule(leaves=st.booleans())
    def subscribe(self, *, leaves: bool) -> None:
        """It is told what is known, and not from within."""
        hearing = Hearing()
        hearing.leaves_from_within = leaves
        self.run(self._add(hearing))
        self.open.append(hearing)
        if self.state is not None:
            hearing.due.append(self.state)

    async def _add(self, hearing: Hearing) -> None:
        hearing.subscription = self.listeners.add(hearing.listen)
        assert [] == hearing.heard

    @rule(states=st.lists(st.sampled_from(STATES), min_size=1, max_size=3), leave=st.booleans())
    def publish(self, states: list[ResolverState], *, leave: bool) -> None:
        """States, of which some are no news; one may leave before it has heard."""
        leaver = self.open[0] if leave and self.open else None

        async def tell() -> None:
            for state in states:
                self.listeners.publish(state)
            if leaver is not None and leaver.subscription is not None:
                leaver.subscription.close()

        self._settle()
        self.run(tell())
        if leaver is not None:
            self._left(leaver)
        for state in states:
            if state != self.state:
                self.state = state
                for hearing in self.open:
                    hearing.due.append(state)
        self._settle()

    def _settle(self) -> None:
        """Lets the loop tell everybody; those that leave from within hear one state."""
        self.run(turns())
        for hearing in [each for each in self.open if each.leaves_from_within and each.due]:
            hearing.due = hearing.due[:1]
            self._left(hearing)

    def _left(self, hearing: Hearing) -> None:
        self.open.remove(hearing)
        self.closed.append(hearing)
        self.to_be_emptied += not self.open

    @precondition(lambda self: self.open)
    @rule(times=st.integers(1, 2))
    def close(self, times: int) -> None:
        """Once or twice."""
        self._settle()
        if not self.open:
            return
        hearing = self.open[-1]
        for _ in range(times):
            assert hearing.subscription is not None
            hearing.subscription.close()
        self._left(hearing)

    @invariant()
    def each_has_heard_what_it_had_to(self) -> None:
        """Neither more nor less, nor in another order."""
        self._settle()
        for hearing in (*self.open, *self.closed):
            assert hearing.due == hearing.heard
        assert (self.to_be_emptied, self.state or ResolverState()) == (
            self.emptied,
            self.listeners.state,
        )


TTL_S = 6.0
STEP_S = 0.25
# The longest that a retry waits, and a try that hangs: after a TTL without an answer.
SLACK_S = 2 * TTL_S / 3


class ScriptedEtcd:
    """Renews as its mood is; a question that hangs fails when its patience is over."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.mood = "well"
        self.said_gone = False
        self.asked_at_s: list[float] = []
        self.revoked: list[int] = []

    async def lease_grant(self, ttl_s: float) -> Lease:
        """See LeaseClient."""
        self.asked_at_s.append(self.clock.now_s)
        return Lease(7, ttl_s)

    async def lease_revoke(self, lease_id: int) -> None:
        """See LeaseClient."""
        self.revoked.append(lease_id)

    @asynccontextmanager
    async def keepalive(self, lease_id: int) -> AsyncIterator[ScriptedEtcd]:
        """See LeaseClient."""
        assert 7 == lease_id
        yield self

    async def renew(self, timeout_s: float) -> float:
        """See Renewer."""
        asked_at_s = self.clock.now_s
        if self.mood == "hangs":
            await self.clock.sleep(timeout_s)
        if self.mood == "gone":
            self.said_gone = True
            raise LeaseNotFoundError("gone")
        if self.mood != "well":
            raise UnavailableError(self.mood)
        self.asked_at_s.append(asked_at_s)
        return TTL_S


class SessionMachine(AsyncMachine):
    """A lease is lost when etcd says so or has not renewed it for a TTL, and never else."""

    @initialize()
    def begin(self) -> None:
        """A session that is open."""
        self.clock = ManualClock()
        self.etcd = ScriptedEtcd(self.clock)
        self.session = Session(
            self.etcd,
            TTL_S,
            clock=self.clock.monotonic,
            sleep=self.clock.sleep,
            rng=random.Random(1),
        )
        self.is_closed = False
        self.run(self.session.open())

    @rule(mood=st.sampled_from(["well", "well", "away", "hangs", "gone"]))
    def turn(self, mood: str) -> None:
        """Another mood."""
        self.etcd.mood = mood

    @rule(steps=st.sampled_from([1, 2, 8, 16, 28, 40]))
    def wait(self, steps: int) -> None:
        """Time passes, in steps so small that nobody oversleeps by much."""
        for _ in range(steps):
            self.run(self.clock.advance(STEP_S))
            self._check()

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        """The lease is revoked, unless it is lost; closing is no loss."""
        if data.draw(st.integers(0, 9)):
            return
        was_lost = self.session.lost.is_set()
        self.is_closed = True
        self.run(self.session.close())
        assert was_lost is self.session.lost.is_set()
        assert bool(self.etcd.revoked) is not was_lost

    def _check(self) -> None:
        since_s = self.clock.now_s - self.etcd.asked_at_s[-1]
        if self.session.lost.is_set():
            assert self.etcd.said_gone or since_s >= TTL_S - 0.01
        elif not self.is_closed:
            assert not self.etcd.said_gone
            assert since_s < TTL_S + SLACK_S
            if self.etcd.mood == "well":
                assert since_s < TTL_S + STEP_S

    def teardown(self) -> None:
        """Nothing goes on."""
        if hasattr(self, "session"):
            self.run(self.session.abandon())
        super().teardown()


def test_a_view_is_what_was_read() -> None:
    """However the registry changes and is read: endpoints, drained ones, and those withdrawn."""
    run_state_machine_as_test(ViewMachine, settings=tried(100))


def test_listeners_hear_what_is_news() -> None:
    """Whoever comes, leaves and is told: each once, in order, and none after it has left."""
    run_state_machine_as_test(ListenerMachine, settings=tried(50))


def test_a_session_is_lost_when_its_lease_cannot_be_counted_on() -> None:
    """Whatever etcd says or does not say, and when."""
    run_state_machine_as_test(SessionMachine, settings=tried(12))
