"""What becomes of calls and connections while endpoints come, go and fail."""

from __future__ import annotations

import gc
import itertools
import queue
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc import ChannelConnectivity, StatusCode

from balancer.config import ChannelConfig
from balancer.errors import MissingResolverError, UnknownPolicyError
from balancer.policy import Picker, PickInfo, PickResult, Subchannel
from balancer.sync_attempts import Rpc
from balancer.sync_channel import BalancedSyncChannel, sync_channel
from balancer.sync_states import MAX_LISTENERS
from discovery.endpoint import Endpoint
from discovery.etcd_config import EtcdClientConfig
from discovery.resolver import Listener, ResolverState
from discovery.sync import SyncResolver
from discovery.target import InvalidTargetError
from tests.balancer.echo import HANG, UNARY_UNARY
from tests.balancer.sync.conftest import StartServer
from tests.balancer.sync.echo import EchoServer
from tests.balancer.sync.resolvers import SERVICE, LoopBoundResolver
from tests.balancer.sync.waiting import TIMEOUT_S, eventually, in_thread, only, reaches, served_by

READY = ChannelConnectivity.READY
FAILED = ChannelConnectivity.TRANSIENT_FAILURE
NOBODY = "127.0.0.1:1"


@pytest.fixture
def resolver() -> LoopBoundResolver:
    """Knows nothing until told."""
    return LoopBoundResolver()


@pytest.fixture
def channel(resolver: LoopBoundResolver) -> Iterator[BalancedSyncChannel]:
    """A channel over `resolver`."""
    with sync_channel(f"etcd:///{SERVICE}", resolver=resolver) as made:
        yield made


@pytest.fixture
def servers(start_server: StartServer) -> list[EchoServer]:
    """Three servers, a, b and c."""
    return [start_server(name) for name in (b"a", b"b", b"c")]


def unary(channel: grpc.Channel) -> Any:
    """One request, one response."""
    return channel.unary_unary(UNARY_UNARY)


def code_of(call: Any) -> StatusCode:
    """With what `call()` fails."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    code: StatusCode = error.code()
    return code


def test_round_robin_is_exact(
    channel: BalancedSyncChannel, resolver: LoopBoundResolver, servers: list[EchoServer]
) -> None:
    """Once all are connected each server gets the same number of calls."""
    resolver.set(*(server.address for server in servers))
    only(channel, "a", "b", "c")
    assert {"a": 10, "b": 10, "c": 10} == served_by(channel, 30)


def test_endpoints_come_and_go(
    channel: BalancedSyncChannel, resolver: LoopBoundResolver, servers: list[EchoServer]
) -> None:
    """Calls follow the list: an endpoint gets calls while it is on it."""
    a, b, c = (server.address for server in servers)
    resolver.set(a)
    only(channel, "a")
    resolver.set(a, b)
    only(channel, "a", "b")
    resolver.set(c)
    only(channel, "c")
    resolver.set()
    reaches(channel, FAILED)
    resolver.set(a)
    reaches(channel, READY)
    only(channel, "a")


def test_a_removed_endpoint_finishes_its_calls(
    channel: BalancedSyncChannel, resolver: LoopBoundResolver, servers: list[EchoServer]
) -> None:
    """A call in flight on an endpoint that is removed ends as it would have."""
    a, b, _ = servers
    resolver.set(a.address)
    in_flight = unary(channel).future(HANG)
    eventually(lambda: a.hanging == 1)
    resolver.set(b.address)
    only(channel, "b")
    assert not in_flight.done()
    a.release()
    assert b"a:hang" == in_flight.result(TIMEOUT_S)


def test_a_drain_that_takes_too_long_is_cut_short(
    resolver: LoopBoundResolver, servers: list[EchoServer]
) -> None:
    """A call still in flight when the grace is over is cancelled."""
    a, b, _ = servers
    config = ChannelConfig(drain_grace_s=0.05, linger_s=0)
    with sync_channel(f"etcd:///{SERVICE}", resolver=resolver, config=config) as channel:
        resolver.set(a.address)
        in_flight = unary(channel).future(HANG)
        eventually(lambda: a.hanging == 1)
        resolver.set(b.address)
        assert StatusCode.CANCELLED is in_flight.code()


def test_what_is_closed_is_forgotten(
    resolver: LoopBoundResolver, servers: list[EchoServer]
) -> None:
    """A stub that outlives an endpoint does not keep its connection in memory."""
    a, b, _ = servers
    config = ChannelConfig(linger_s=0)
    with sync_channel(f"etcd:///{SERVICE}", resolver=resolver, config=config) as channel:
        stub = unary(channel)
        resolver.set(a.address, b.address)
        eventually(lambda: {b"a:x", b"b:x"} == {stub(b"x") for _ in range(2)})
        gone = weakref.ref(channel._pool._subchannels[a.address])
        resolver.set(b.address)
        eventually(lambda: gc.collect() >= 0 and gone() is None)
        assert b"b:x" == stub(b"x")


class _Load:
    """Threads that call until told to stop; each call must succeed."""

    def __init__(self, channel: grpc.Channel, servers: list[EchoServer], threads: int) -> None:
        self._call, self._servers = unary(channel), servers
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(threads)
        self._results = [self._threads.submit(self._work) for _ in range(threads)]

    def goes_on(self) -> None:
        """Returns when some more calls have been served."""
        before = self._served()
        eventually(lambda: self._served() > before + 10, "more calls")

    def end(self) -> None:
        """Stops, and raises what a call raised."""
        self._stop.set()
        for result in self._results:
            result.result(TIMEOUT_S)
        self._threads.shutdown()

    def _served(self) -> int:
        return sum(server.calls for server in self._servers)

    def _work(self) -> None:
        while not self._stop.is_set():
            self._call(b"x", timeout=TIMEOUT_S)


def test_no_call_fails_while_endpoints_change(
    channel: BalancedSyncChannel, resolver: LoopBoundResolver, servers: list[EchoServer]
) -> None:
    """Changes of the list under the load of several threads cost no call."""
    addresses = [server.address for server in servers]
    resolver.set(*addresses)
    load = _Load(channel, servers, threads=4)
    for turn in range(20):
        resolver.set(*addresses[: 1 + turn % 3])
        load.goes_on()
    load.end()


def test_a_rolling_restart_costs_no_call(
    channel: BalancedSyncChannel, resolver: LoopBoundResolver, servers: list[EchoServer]
) -> None:
    """Servers that deregister, finish and return one by one are not noticed by callers."""
    endpoints = [Endpoint(server.address) for server in servers]
    resolver.set(*endpoints)
    only(channel, "a", "b", "c")
    load = _Load(channel, servers, threads=2)
    for leaving, server in zip(endpoints, servers, strict=True):
        others = [each for each in endpoints if each is not leaving]
        resolver.set(replace(leaving, draining=True), *others)
        only(channel, *({"a", "b", "c"} - {server.name.decode()}))
        server.stop(TIMEOUT_S)
        server.start()
        resolver.set(*endpoints)
        only(channel, "a", "b", "c")
    load.end()


def test_a_lost_server_is_found_again(
    channel: BalancedSyncChannel, resolver: LoopBoundResolver, servers: list[EchoServer]
) -> None:
    """An endpoint whose server goes away gets calls as soon as it is back."""
    a, b, _ = servers
    resolver.set(a.address, b.address)
    only(channel, "a", "b")
    a.stop()
    only(channel, "b")
    a.start()
    only(channel, "a", "b")


def test_calls_wait_for_the_resolver(
    channel: BalancedSyncChannel, resolver: LoopBoundResolver, servers: list[EchoServer]
) -> None:
    """Blocking calls, futures and streams all start when the target is resolved."""
    responses: queue.Queue[bytes] = queue.Queue()
    for _ in range(3):
        in_thread(lambda: responses.put(unary(channel)(b"x")))
    futures = [unary(channel).future(b"y") for _ in range(3)]
    resolver.set(servers[0].address)
    assert [b"a:y"] * 3 == [future.result(TIMEOUT_S) for future in futures]
    assert [b"a:x"] * 3 == [responses.get(timeout=TIMEOUT_S) for _ in range(3)]


def test_the_deadline_holds_while_waiting(channel: BalancedSyncChannel) -> None:
    """A call that finds nobody until its deadline ends with DEADLINE_EXCEEDED."""
    assert StatusCode.DEADLINE_EXCEEDED is code_of(lambda: unary(channel)(b"x", timeout=0.05))
    call = unary(channel).future(b"x", timeout=0.05)
    done = threading.Event()
    call.add_done_callback(lambda _: done.set())
    assert done.wait(TIMEOUT_S)
    assert StatusCode.DEADLINE_EXCEEDED is call.code() is call.exception().code()


def test_unary_calls_have_a_deadline_by_default(resolver: LoopBoundResolver) -> None:
    """A unary call that says nothing gets the channel's default, a stream gets none."""
    config = ChannelConfig(default_timeout_s=0.05)
    with sync_channel(SERVICE.rpartition("/")[2], resolver=resolver, config=config) as channel:
        assert StatusCode.DEADLINE_EXCEEDED is code_of(lambda: unary(channel)(b"x"))
        stream: Any = channel.unary_stream("/any/Stream")
        call = stream(b"x")
        assert call.time_remaining() is None
        assert call.cancel()


def test_a_waiting_call_is_cancelled(channel: BalancedSyncChannel) -> None:
    """Cancelling a call that waits ends it at once, and tells its callbacks."""
    call = unary(channel).future(b"x")
    seen: list[Any] = []
    call.add_done_callback(seen.append)
    assert (True, False) == (call.cancel(), call.cancel())
    assert [call] == seen
    assert StatusCode.CANCELLED is call.code()


def test_closing_ends_calls_that_wait(channel: BalancedSyncChannel) -> None:
    """Waiting calls, blocking or not, end with CANCELLED when the channel closes."""
    codes: queue.Queue[StatusCode] = queue.Queue()
    in_thread(lambda: codes.put(code_of(lambda: unary(channel)(b"x"))))
    call = unary(channel).future(b"x")
    eventually(lambda: channel._waiting._count == 2)
    channel.close()
    assert StatusCode.CANCELLED is call.code()
    assert StatusCode.CANCELLED is codes.get(timeout=TIMEOUT_S)


def test_calls_fail_at_once_when_nobody_can_be_reached(
    channel: BalancedSyncChannel, resolver: LoopBoundResolver, servers: list[EchoServer]
) -> None:
    """UNAVAILABLE says why; a call that waits for ready is served when somebody is there."""
    patient = unary(channel).future(b"x", wait_for_ready=True)
    resolver.set(NOBODY)
    reaches(channel, FAILED)
    call = unary(channel).future(b"x")
    assert StatusCode.UNAVAILABLE is call.code()
    assert NOBODY in call.details()
    assert StatusCode.UNAVAILABLE is code_of(lambda: unary(channel)(b"x"))
    resolver.set(servers[0].address)
    assert b"a:x" == patient.result(TIMEOUT_S)


def test_a_resolver_that_fails(channel: BalancedSyncChannel, resolver: LoopBoundResolver) -> None:
    """What the resolver says is in the details."""
    resolver.fail("etcd is on fire")
    reaches(channel, FAILED)
    assert "etcd is on fire" in unary(channel).future(b"x").details()


def test_no_more_than_so_many_calls_wait(resolver: LoopBoundResolver) -> None:
    """The call beyond max_queued_calls fails with RESOURCE_EXHAUSTED; places are given back."""
    config = ChannelConfig(max_queued_calls=2)
    with sync_channel(f"etcd:///{SERVICE}", resolver=resolver, config=config) as channel:
        first, _second = unary(channel).future(b"x"), unary(channel).future(b"x")
        assert StatusCode.RESOURCE_EXHAUSTED is unary(channel).future(b"x").code()
        assert StatusCode.RESOURCE_EXHAUSTED is code_of(lambda: unary(channel)(b"x"))
        first.cancel()
        assert not unary(channel).future(b"x").done()


class _Spy:
    """A policy that picks the first and remembers what it was told."""

    def __init__(self) -> None:
        self.codes: list[StatusCode | None] = []
        self.infos: list[PickInfo] = []
        self.subchannels: tuple[Subchannel, ...] = ()

    def build(self, subchannels: Sequence[Subchannel]) -> Picker:
        self.subchannels = tuple(subchannels)
        return self

    def pick(self, info: PickInfo) -> PickResult:
        self.infos.append(info)
        return PickResult(self.subchannels[0], self.codes.append)


def test_policies_are_told_how_calls_end(server: EchoServer) -> None:
    """Each pick is followed by one outcome, and calls in flight are counted."""
    spy = _Spy()
    with sync_channel(f"static:///{server.address}", policy=spy) as channel:
        reaches(channel, READY)
        metadata = (("key", "value"),)
        assert b"server:x" == unary(channel)(b"x", metadata=metadata)
        assert PickInfo(UNARY_UNARY, metadata, b"x") == spy.infos[0]
        assert StatusCode.FAILED_PRECONDITION is code_of(lambda: unary(channel)(b"fail"))
        call = unary(channel).future(HANG)
        assert 1 == spy.subchannels[0].in_flight
        call.cancel()
        eventually(lambda: len(spy.codes) == 3)
    assert [StatusCode.OK, StatusCode.FAILED_PRECONDITION, StatusCode.CANCELLED] == spy.codes
    assert 0 == spy.subchannels[0].in_flight


def test_a_call_nobody_holds_is_counted_no_more(server: EchoServer) -> None:
    """The policy learns of CANCELLED, and the endpoint has one call less."""
    spy = _Spy()
    with sync_channel(f"static:///{server.address}", policy=spy) as channel:
        reaches(channel, READY)
        unary(channel).future(HANG)
        eventually(lambda: spy.codes == [StatusCode.CANCELLED])
        assert 0 == spy.subchannels[0].in_flight


def test_an_attempt_may_exclude_where_it_has_been(servers: list[EchoServer]) -> None:
    """A second attempt goes to another endpoint, and there is none when all are excluded."""
    addresses = ",".join(server.address for server in servers[:2])
    with sync_channel(f"static:///{addresses}") as channel:
        only(channel, "a", "b")
        rpc_method: Any = channel.unary_unary(UNARY_UNARY)
        attempts = rpc_method._dispatcher._attempts
        rpc = _rpc(b"x")
        first = attempts.pick(rpc)
        second = attempts.pick(rpc, (first.subchannel,))
        assert first.subchannel is not second.subchannel
        assert attempts.pick(rpc, (first.subchannel, second.subchannel)) is None
        assert [1, 1] == [first.subchannel.in_flight, second.subchannel.in_flight]
        assert {b"a:x", b"b:x"} == {attempts.run(each, rpc) for each in (first, second)}
        assert [0, 0] == [first.subchannel.in_flight, second.subchannel.in_flight]


def _rpc(request: bytes) -> Any:

    return Rpc("__call__", request, TIMEOUT_S, None, None, None, None)


class _Threaded(SyncResolver):
    """A SyncResolver whose subscriber is told by the test, in the test's thread."""

    def __init__(self) -> None:
        super().__init__(["127.0.0.1:1"], client_config=EtcdClientConfig())
        self.listeners: list[Listener] = []
        self.threads: list[threading.Thread] = []

    def subscribe(self, service: str, listener: Listener) -> Any:
        self.listeners.append(listener)
        self.threads.append(threading.current_thread())
        return super().subscribe(service, lambda _: None)


def test_a_threaded_resolver(server: EchoServer) -> None:
    """A SyncResolver is asked in the caller's thread and may tell from any."""
    with _Threaded() as resolver, sync_channel("ledger", resolver=resolver) as channel:
        assert [threading.current_thread()] == resolver.threads
        resolver.listeners[0](ResolverState((Endpoint(server.address),), resolved=True))
        assert b"server:x" == unary(channel)(b"x")
    resolver.listeners[0](ResolverState((), resolved=True))


def test_a_loop_bound_resolver_is_asked_on_the_loop(
    channel: BalancedSyncChannel, resolver: LoopBoundResolver
) -> None:
    """Its loop is one that runs in another thread."""
    assert resolver.loop is not None
    # In this thread none runs now.
    assert resolver.loop.is_running()


class _Refuses:
    def subscribe(self, service: str, listener: Listener) -> Any:
        raise RuntimeError("refused")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"target": "http:///x"}, InvalidTargetError),
        ({"target": "ledger"}, MissingResolverError),
        ({"target": "static:///a:1", "policy": "no such"}, UnknownPolicyError),
        ({"target": "ledger", "resolver": _Refuses()}, RuntimeError),
    ],
)
def test_what_cannot_be_set_up(options: dict[str, Any], error: type[Exception]) -> None:
    """It is refused at construction, and no thread is left behind."""
    with pytest.raises(error):
        sync_channel(**options)


def test_listeners_are_limited(channel: BalancedSyncChannel) -> None:
    """The listener beyond the limit is refused."""
    for _ in range(MAX_LISTENERS):
        channel.subscribe(print)
        channel._listeners._listeners[-1].state = channel.get_state()
    with pytest.raises(ValueError, match="listeners"):
        channel.subscribe(print)


def test_listeners_hear_of_each_state(
    channel: BalancedSyncChannel, resolver: LoopBoundResolver, server: EchoServer
) -> None:
    """From CONNECTING to READY and to failure, each told once."""
    states: list[ChannelConnectivity] = []
    channel.subscribe(states.append)
    eventually(lambda: states == [ChannelConnectivity.CONNECTING])
    resolver.set(server.address)
    eventually(lambda: states[-1] is READY)
    resolver.set()
    eventually(lambda: states[-1] is FAILED)
    assert all(one is not other for one, other in itertools.pairwise(states))


def test_a_channel_may_be_closed_from_a_callback(
    channel: BalancedSyncChannel, resolver: LoopBoundResolver
) -> None:
    """Neither a waiting call's callback nor a state's listener hangs in close."""
    closed = threading.Event()

    def close(_: object) -> None:
        channel.close()
        closed.set()

    unary(channel).future(b"x", timeout=0.01).add_done_callback(close)
    assert closed.wait(TIMEOUT_S)


def test_the_channel_says_what_it_is(channel: BalancedSyncChannel) -> None:
    """Its repr names the target and the state."""
    assert f"<BalancedSyncChannel etcd:///{SERVICE} CONNECTING>" == repr(channel)
