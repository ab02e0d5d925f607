"""The blocking faces, used from plain threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from discovery import Endpoint, ResolverState, decode_value
from discovery.etcd3_compat import etcd3
from discovery.sync import SyncRegistrar, SyncResolver
from tests.discovery.helpers import WAIT_S
from tests.support.etcd import EtcdProcess

_SERVICE = "tallystick/ledger"
_ENDPOINT = Endpoint("10.0.0.7:50051", zone="a")
_KEY = "tallystick/ledger/10.0.0.7:50051"


class _Inbox:
    """A listener whose states are waited for by a thread."""

    def __init__(self) -> None:
        self._states: queue.Queue[ResolverState] = queue.Queue()
        self.smallest = 1000

    def __call__(self, state: ResolverState) -> None:
        self._states.put(state)

    def hears(self, *addresses: str) -> None:
        """Waits for a state that is free of error and holds exactly these."""
        while True:
            state = self._states.get(timeout=WAIT_S)
            known = [endpoint.address for endpoint in state.endpoints]
            self.smallest = min(self.smallest, len(known))
            if known == sorted(addresses) and state.error is None:
                return


@pytest.fixture
def registrar(etcd: EtcdProcess) -> Iterator[SyncRegistrar]:
    """A registrar with the smallest TTL."""
    with SyncRegistrar([etcd.endpoint], 2.0) as registrar:
        yield registrar


@pytest.fixture
def resolver(etcd: EtcdProcess) -> Iterator[SyncResolver]:
    """A resolver with its defaults."""
    with SyncResolver([etcd.endpoint]) as resolver:
        yield resolver


def test_a_registration_goes_through_its_life(etcd: EtcdProcess, registrar: SyncRegistrar) -> None:
    """Everything that can be done from a coroutine can be done from a thread."""
    registration = registrar.register(_SERVICE, _ENDPOINT)
    assert registration.wait_registered(WAIT_S)

    registration.update(replace(_ENDPOINT, weight=3))
    assert registration.wait_registered(WAIT_S)
    assert decode_value(etcd.entries()[_KEY]).weight == 3
    registrar.drain()
    assert registration.wait_registered(WAIT_S)
    assert decode_value(etcd.entries()[_KEY]).draining
    registration.pause()
    assert registration.paused
    assert etcd.entries() == {}
    registration.resume()
    assert registration.wait_registered(WAIT_S)
    registration.deregister()
    assert etcd.entries() == {}
    assert not registration.registered


def test_what_registers_is_resolved(registrar: SyncRegistrar, resolver: SyncResolver) -> None:
    """A thread asks once, or is told of each change until it closes."""
    inbox = _Inbox()
    subscription = resolver.subscribe(_SERVICE, inbox)
    inbox.hears()

    registration = registrar.register(_SERVICE, _ENDPOINT)
    inbox.hears(_ENDPOINT.address)
    assert resolver.resolve(_SERVICE).endpoints == (_ENDPOINT,)
    subscription.close()
    subscription.close()
    registration.deregister()

    assert resolver.resolve(_SERVICE).endpoints == ()


def test_an_outage_loses_nobody(
    etcd: EtcdProcess, registrar: SyncRegistrar, resolver: SyncResolver
) -> None:
    """Etcd is killed and started without its data; no state is empty and all are back."""
    assert registrar.register(_SERVICE, _ENDPOINT).wait_registered(WAIT_S)
    inbox = _Inbox()
    resolver.subscribe(_SERVICE, inbox)
    inbox.hears(_ENDPOINT.address)

    etcd.restart()
    registrar.register(_SERVICE, Endpoint("10.0.0.8:1"))
    inbox.hears(_ENDPOINT.address, "10.0.0.8:1")

    assert inbox.smallest == 1


def test_a_registry_that_does_not_answer_is_said(etcd: EtcdProcess) -> None:
    """Resolving ends in time, with the reason."""
    etcd.kill9()
    with SyncResolver([etcd.endpoint]) as resolver, pytest.raises(TimeoutError, match="UNAVAIL"):
        resolver.resolve(_SERVICE, timeout_s=1.0)


def test_an_etcd3_client_is_taken_for_endpoints(etcd: EtcdProcess) -> None:
    """Both faces work on the channel of a client of that package, which stays open."""
    host, _, port = etcd.endpoint.rpartition(":")
    client = etcd3.Etcd3Client(host, int(port))

    with SyncRegistrar(client) as registrar, SyncResolver(client) as resolver:
        assert registrar.register(_SERVICE, _ENDPOINT).wait_registered(WAIT_S)
        assert resolver.resolve(_SERVICE).endpoints == (_ENDPOINT,)
        value, _ = client.get(_KEY)
        assert decode_value(value) == _ENDPOINT

    assert client.get(_KEY) == (None, None)
    client.close()


def test_threads_may_share_them(registrar: SyncRegistrar, resolver: SyncResolver) -> None:
    """Eight threads register and resolve at once, and none is lost."""

    def work(number: int) -> bool:
        registration = registrar.register(_SERVICE, Endpoint(f"10.0.0.{number}:1"))
        resolver.resolve(_SERVICE)
        return registration.wait_registered(WAIT_S)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(1, 9)))

    inbox = _Inbox()
    resolver.subscribe(_SERVICE, inbox)
    inbox.hears(*(f"10.0.0.{number}:1" for number in range(1, 9)))


def test_closing_ends_the_threads(etcd: EtcdProcess) -> None:
    """Nothing of ours runs on, closing again does nothing, and later calls are refused."""
    registrar, resolver = SyncRegistrar([etcd.endpoint]), SyncResolver([etcd.endpoint])
    registrar.register(_SERVICE, _ENDPOINT)
    subscription = resolver.subscribe(_SERVICE, _Inbox())
    for face in (registrar, resolver):
        face.close()
        face.close()
    subscription.close()

    names = {thread.name for thread in threading.enumerate()}
    assert not {"tallystick registrar", "tallystick resolver"} & names
    with pytest.raises(RuntimeError):
        registrar.register(_SERVICE, _ENDPOINT)


def test_a_listener_that_blocks_on_its_own_thread_is_told(resolver: SyncResolver) -> None:
    """It gets an error instead of waiting for itself for ever."""
    raised: queue.Queue[Exception] = queue.Queue()

    def listen(state: ResolverState) -> None:
        try:
            resolver.resolve(_SERVICE)
        except RuntimeError as error:
            raised.put(error)

    resolver.subscribe(_SERVICE, listen)

    assert "must not block" in str(raised.get(timeout=WAIT_S))


def test_nonsense_is_refused_at_once(etcd: EtcdProcess) -> None:
    """As by the faces that are not blocking; no thread is left behind."""
    with pytest.raises(ValueError, match="ttl_s"):
        SyncRegistrar([etcd.endpoint], 0.5)
    with pytest.raises(ValueError, match="endpoint"):
        SyncResolver([])

    names = {thread.name for thread in threading.enumerate()}
    assert "tallystick registrar" not in names
