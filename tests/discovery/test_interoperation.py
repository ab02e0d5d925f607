"""What etcd's own Go naming packages and `etcdctl` write is found; what we write, they find.

The format is written down nowhere but in Go code, so these tests go by that code: by the
bytes it left behind and, where the program in `tests/discovery/go` is on PATH as
`tallystick-naming-peer`, by running it. To build it (`.ci/run` does that):

    go build -C tests/discovery/go -o <a directory on PATH>/tallystick-naming-peer

`recorded/entries.txt` is what Go's endpoints manager made of `recorded/updates.jsonl`: a
line with a key and a line with its value, and so on. To record it again, in an empty etcd:

    tallystick-naming-peer update tallystick/ledger < recorded/updates.jsonl
    etcdctl get --prefix tallystick/ledger/ > recorded/entries.txt
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from discovery import Endpoint, EtcdClient, EtcdResolver, Registrar, Registration
from tests.discovery.helpers import Recorder, happens
from tests.discovery.peers import TIMEOUT_S, etcdctl, go_client, naming_peer
from tests.support.etcd import EtcdProcess
from tests.support.require import require
from tests.support.waiting import eventually

_SERVICE = "tallystick/ledger"
_KEY = "tallystick/ledger/10.0.0.7:50051"
_VALUE = b'{"Addr":"10.0.0.7:50051"}'
_RECORDED = Path(__file__).parent / "recorded"

_FOUND_IN_RECORD = (
    Endpoint("10.0.0.1:50051", id="ledger-1", zone="a", weight=3, draining=True),
    Endpoint(
        "10.0.0.2:50051", zone="b", weight=2, services=("tallystick.ledger.v1.LedgerService",)
    ),
    Endpoint("10.0.0.3:50051"),
    Endpoint("10.0.0.4:50051"),
    Endpoint("10.0.0.5:50051", id="<5> & co", zone="Zürich", version='1.0 "beta"'),
    Endpoint("[fd00::8]:50051"),
    Endpoint("ledger-6.books.internal:50052", zone="c"),
)
_OURS = Endpoint(
    "10.0.0.7:50051",
    id="ledger-7",
    zone="a",
    weight=2,
    version="1.4",
    services=("tallystick.ledger.v1.LedgerService",),
    started_at="2026-01-02T03:04:05Z",
)
_OURS_WRITTEN = (
    rb'{"Op":0,"Addr":"10.0.0.7:50051","Metadata":"{\"id\":\"ledger-7\",\"zone\":\"a\",'
    rb"\"weight\":2,\"version\":\"1.4\",\"services\":[\"tallystick.ledger.v1.LedgerService\"],"
    rb'\"started_at\":\"2026-01-02T03:04:05Z\",\"draining\":false}"}'
)


@pytest.fixture(params=["etcd", "etcd-3.6"])
def etcd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[EtcdProcess]:
    """A fresh etcd, running: the one of every test, and a 3.6 where one is on PATH."""
    if request.param != "etcd":
        monkeypatch.setenv("ETCD", str(require(request.param)))
    with EtcdProcess() as process:
        yield process


@pytest_asyncio.fixture
async def heard(client: EtcdClient) -> AsyncIterator[Recorder]:
    """What a resolver says about the service."""
    resolver, recorder = EtcdResolver(client), Recorder()
    resolver.subscribe(_SERVICE, recorder)
    yield recorder
    await resolver.close()


@pytest_asyncio.fixture
async def registrar(client: EtcdClient) -> AsyncIterator[Registrar]:
    """A registrar."""
    registrar = Registrar(client)
    yield registrar
    await registrar.close()


async def test_what_go_wrote_is_found(etcd: EtcdProcess, heard: Recorder) -> None:
    """Metadata as a string, as an object, as something else or none: each is an endpoint."""
    for key, value in _recorded().items():
        etcd.put(key, value)

    await heard.hears(*(each.address for each in _FOUND_IN_RECORD))
    assert heard.last.endpoints == _FOUND_IN_RECORD


def test_go_still_writes_what_was_recorded(etcd: EtcdProcess) -> None:
    """The same updates leave the same bytes."""
    naming_peer(etcd, _SERVICE, "update", (_RECORDED / "updates.jsonl").read_text(encoding="utf-8"))

    assert _recorded() == etcd.entries()


async def test_what_go_changes_is_followed(etcd: EtcdProcess, heard: Recorder) -> None:
    """An endpoint that Go adds under a lease, replaces and deletes is new, other and gone."""
    added = {"op": "add", "key": _KEY, "addr": "10.0.0.7:50051", "ttl_s": 60}
    naming_peer(etcd, _SERVICE, "update", json.dumps(added | {"metadata": {"zone": "a"}}))
    await heard.hears("10.0.0.7:50051")
    assert etcd.lease_of(_KEY)

    naming_peer(etcd, _SERVICE, "update", json.dumps(added | {"metadata": '{"zone":"b"}'}))
    await eventually(lambda: heard.endpoint("10.0.0.7:50051").zone == "b")

    naming_peer(etcd, _SERVICE, "update", json.dumps({"op": "delete", "key": _KEY}))
    await heard.hears()


async def test_what_etcdctl_puts_is_found(etcd: EtcdProcess, heard: Recorder) -> None:
    """Without a lease, and from a pipe with the newline that a shell adds."""
    etcdctl(etcd, "put", _KEY, _VALUE.decode())
    etcdctl(etcd, "put", f"{_SERVICE}/piped", stdin='{"Addr":"10.0.0.8:50051"}\n')

    await heard.hears("10.0.0.7:50051", "10.0.0.8:50051")


async def test_what_etcdctl_puts_under_a_lease_goes_with_it(
    etcd: EtcdProcess, heard: Recorder
) -> None:
    """It is found, and gone when the lease is revoked."""
    lease = etcdctl(etcd, "lease", "grant", "60").split()[1]
    etcdctl(etcd, "put", f"--lease={lease}", _KEY, _VALUE.decode())
    await heard.hears("10.0.0.7:50051")

    etcdctl(etcd, "lease", "revoke", lease)
    await heard.hears()


async def test_what_we_write(etcd: EtcdProcess, registrar: Registrar) -> None:
    """Go's three fields in Go's order, metadata as a string, and nothing after them."""
    await _register(registrar, _OURS)

    assert etcd.entries() == {_KEY: _OURS_WRITTEN}


async def test_go_would_have_written_the_same(etcd: EtcdProcess, registrar: Registrar) -> None:
    """What Go reads of ours and puts again are the bytes that were there."""
    await _register(registrar, _OURS)
    read = json.loads(naming_peer(etcd, _SERVICE, "list"))[_KEY]
    await registrar.close()
    again = {"op": "add", "key": _KEY, "addr": read["Addr"], "metadata": read["Metadata"]}
    naming_peer(etcd, _SERVICE, "update", json.dumps(again))

    assert etcd.entries() == {_KEY: _OURS_WRITTEN}


async def test_go_reads_what_we_write_beyond_ascii(etcd: EtcdProcess, registrar: Registrar) -> None:
    """Characters that Go and Python escape differently mean the same to both."""
    await _register(registrar, Endpoint("10.0.0.7:50051", id="<7> & co", zone="Zürich 😀"))
    read = json.loads(naming_peer(etcd, _SERVICE, "list"))[_KEY]
    metadata = json.loads(read["Metadata"])

    assert read["Addr"] == "10.0.0.7:50051"
    assert (metadata["id"], metadata["zone"]) == ("<7> & co", "Zürich 😀")


async def test_a_go_client_follows_our_services(etcd: EtcdProcess, registrar: Registrar) -> None:
    """A draining one is called like any (Go reads no metadata), one deregistered no more.

    No call fails on the way.
    """
    # Up to 3.6.5 etcd's resolver handed metadata on as part of the address: grpc-go 1.59
    # behaves as here, 1.71 gives up an endpoint for good once its metadata changes.
    async with AsyncExitStack() as stack:
        staying, leaving = [await stack.enter_async_context(_server()) for _ in range(2)]
        await _register(registrar, Endpoint(staying))
        registration = await _register(registrar, Endpoint(leaving))
        peers_of_calls = await stack.enter_async_context(go_client(etcd, _SERVICE))

        await eventually(lambda: _equals(peers_of_calls, {staying, leaving}), TIMEOUT_S)
        await registration.drain()
        await happens(registration.registered)
        assert await peers_of_calls() == {staying, leaving}
        await registration.deregister()
        await eventually(lambda: _equals(peers_of_calls, {staying}), TIMEOUT_S)


def _recorded() -> dict[str, bytes]:
    lines = (_RECORDED / "entries.txt").read_bytes().split(b"\n")
    return {key.decode(): value for key, value in zip(lines[:-1:2], lines[1::2], strict=True)}


async def _register(registrar: Registrar, endpoint: Endpoint) -> Registration:
    registration = await registrar.register(_SERVICE, endpoint)
    await happens(registration.registered)
    return registration


@asynccontextmanager
async def _server() -> AsyncIterator[str]:
    """A server that says it is healthy; yields its address."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def _equals(observe: Callable[[], Awaitable[set[str]]], expected: set[str]) -> bool:
    return expected == await observe()
