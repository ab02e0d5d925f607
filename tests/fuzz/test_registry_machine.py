"""A registrar and a resolver over a real etcd, against what is wanted and what etcd holds.

Endpoints are registered, changed, drained, paused, resumed and deregistered while leases are
revoked, keys deleted by others, the history is compacted and etcd is killed and comes back, with
its data or without.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test

from discovery import Endpoint, Registration, decode_value
from tests.discovery.party import SERVICE, Party, key_of, value_of
from tests.fuzz.machines import AsyncMachine, tried
from tests.support.etcd import EtcdProcess
from tests.support.waiting import eventually

ADDRESSES = ["10.0.0.1:1", "10.0.0.2:1"]
FOREIGN = "10.0.0.3:1"
SETTLED_S = 30.0

_ADDRESSES = st.sampled_from(ADDRESSES)


class RegistryMachine(AsyncMachine):
    """What is wanted is in etcd, whatever happens to it; and who listens hears that."""

    @initialize()
    def begin(self) -> None:
        """An empty registry, and somebody who listens."""
        self.wanted: dict[str, Endpoint] = {}
        self.registered: dict[str, Registration] = {}
        self.foreign = False
        self.etcd, self.party = self.enter(self._opened())

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[tuple[EtcdProcess, Party]]:
        with EtcdProcess() as etcd:
            party = Party([etcd.endpoint])
            yield etcd, party
            await party.close()

    @rule(address=_ADDRESSES, weight=st.integers(1, 3))
    def register(self, address: str, weight: int) -> None:
        """New, or the same with another weight."""
        endpoint = Endpoint(address, weight=weight)
        if address in self.registered:
            self.run(self.registered[address].update(endpoint))
            if address in self.wanted:
                self.wanted[address] = endpoint
            return
        self.registered[address] = self.run(self.party.registrar.register(SERVICE, endpoint))
        self.wanted[address] = endpoint

    @precondition(lambda self: self.registered)
    @rule(data=st.data(), what=st.sampled_from(["drain", "pause", "resume", "deregister"]))
    def ask(self, data: st.DataObject, what: str) -> None:
        """One of those that are registered, or paused."""
        address = data.draw(st.sampled_from(sorted(self.registered)))
        registration = self.registered[address]
        self.run(getattr(registration, what)())
        if what == "drain" and address in self.wanted:
            self.wanted[address] = replace(self.wanted[address], draining=True)
        elif what == "resume":
            self.wanted[address] = registration.endpoint
        elif what in ("pause", "deregister"):
            self.wanted.pop(address, None)
        if what == "deregister":
            del self.registered[address]

    @rule(what=st.sampled_from(["revoke", "delete", "foreign", "compact", "kill", "empty"]))
    def happen(self, what: str) -> None:
        """Something that nobody asked for."""
        if what == "revoke":
            for lease in self.etcd.leases():
                self.etcd.revoke(lease)
        elif what == "delete":
            self.etcd.delete(key_of(ADDRESSES[0]))
        elif what == "foreign" and not self.foreign:
            self.foreign = True
            self.etcd.put(key_of(FOREIGN), value_of(FOREIGN))
        elif what == "compact":
            self.etcd.put("other", b"")
            self.etcd.compact()
        elif what == "kill":
            self.etcd.restart()
        elif what == "empty":
            self.foreign = False
            self.etcd.restart(empty=True)

    @invariant()
    def what_is_wanted_is_there_and_heard(self) -> None:
        """After a while, each endpoint as it should be, and nobody else but strangers."""
        expected = dict(self.wanted)
        if self.foreign:
            expected[FOREIGN] = Endpoint(FOREIGN)

        def is_so() -> bool:
            entries = self.etcd.entries(SERVICE).values()
            heard = self.party.heard.last
            return (
                {each.address: each for each in map(decode_value, entries)} == expected
                and {each.address: each for each in heard.endpoints} == expected
                and heard.error is None
            )

        self.run(eventually(is_so, SETTLED_S))


@pytest.mark.timeout(600)
def test_the_registry_is_what_was_asked_for() -> None:
    """Whatever is asked for, in whatever order, and whatever becomes of etcd meanwhile."""
    run_state_machine_as_test(RegistryMachine, settings=tried(2))
