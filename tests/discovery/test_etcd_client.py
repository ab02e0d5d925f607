import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import pytest_asyncio
from tallystick.etcd.v3 import etcd_pb2 as pb

import discovery.etcd_client
from discovery import EtcdClient, EtcdClientConfig, sync_transport
from discovery.etcd3_compat import etcd3
from discovery.etcd_client import WatchReader, prefix_end
from discovery.etcd_types import (
    CompactedError,
    LeaseNotFoundError,
    PermissionDeniedError,
    RejectedError,
    ResourceExhaustedError,
    StoreRolledBackError,
    UnauthenticatedError,
    UnavailableError,
)
from tests.discovery.proxy import TcpProxy
from tests.support.etcd import EtcdProcess
from tests.support.waiting import WAIT_S, eventually

_UNUSED_LEASE = 77


def _on_aio(etcd: EtcdProcess) -> EtcdClient:
    return EtcdClient([etcd.endpoint])


def _on_threads(etcd: EtcdProcess) -> EtcdClient:
    return EtcdClient([etcd.endpoint], connect=sync_transport.connect)


def _on_etcd3(etcd: EtcdProcess) -> EtcdClient:
    host, _, port = etcd.endpoint.rpartition(":")
    options = {"grpc.max_reconnect_backoff_ms": 500, "grpc.initial_reconnect_backoff_ms": 100}
    return EtcdClient(etcd3.Etcd3Client(host, int(port), grpc_options=options.items()))


@pytest_asyncio.fixture(params=[_on_aio, _on_threads, _on_etcd3])
async def client(etcd: EtcdProcess, request: pytest.FixtureRequest) -> AsyncIterator[EtcdClient]:
    """A client on each of the transports, the last on a channel of the package etcd3."""
    client: EtcdClient = request.param(etcd)
    yield client
    await client.close()


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"a/", b"a0"), (b"a\xff", b"b"), (b"\xff", b"\0"), (b"", b"\0")],
)
def test_the_end_of_a_prefix(prefix: bytes, end: bytes) -> None:
    """The first key that no longer starts with the prefix; zero means to the end."""
    assert end == prefix_end(prefix)


def test_fragments_are_joined() -> None:
    """Events arrive together although etcd split the response, and old ones do not."""
    reader = WatchReader(b"a", 4)
    part = pb.WatchResponse(
        events=[pb.Event(kv=pb.KeyValue(key=b"a1", mod_revision=6))], fragment=True
    )
    last = pb.WatchResponse(
        header=pb.ResponseHeader(revision=6),
        events=[
            pb.Event(type=pb.EVENT_TYPE_DELETE, kv=pb.KeyValue(key=b"a2", mod_revision=6)),
            pb.Event(kv=pb.KeyValue(key=b"known", mod_revision=4)),
        ],
    )

    assert reader.feed(part) is None
    batch = reader.feed(last)

    assert batch is not None
    assert [(e.entry.key, e.deleted) for e in batch.events] == [(b"a1", False), (b"a2", True)]


def test_endless_fragments_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits to be joined is bounded."""
    monkeypatch.setattr(discovery.etcd_client, "MAX_BATCH_EVENTS", 1)
    reader = WatchReader(b"a", 4)
    event = pb.Event(kv=pb.KeyValue(key=b"a1", mod_revision=6))

    with pytest.raises(ResourceExhaustedError):
        reader.feed(pb.WatchResponse(events=[event, event], fragment=True))


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (pb.WatchResponse(created=True, canceled=True, compact_revision=9), CompactedError),
        (pb.WatchResponse(canceled=True, cancel_reason="etcdserver: no leader"), UnavailableError),
        (
            pb.WatchResponse(canceled=True, cancel_reason="etcdserver: permission denied"),
            PermissionDeniedError,
        ),
        (
            pb.WatchResponse(
                created=True, canceled=True, cancel_reason="etcdserver: invalid auth token"
            ),
            UnauthenticatedError,
        ),
        (pb.WatchResponse(canceled=True, cancel_reason="for reasons of its own"), RejectedError),
        (
            pb.WatchResponse(created=True, header=pb.ResponseHeader(revision=3)),
            StoreRolledBackError,
        ),
    ],
)
def test_a_refused_watch_says_why(reply: pb.WatchResponse, error: type[Exception]) -> None:
    """Each reason for which a watch ends is an error of its own."""
    with pytest.raises(error):
        WatchReader(b"a", 4).feed(reply)


async def test_what_is_put_can_be_got_and_deleted(client: EtcdClient) -> None:
    """One key goes through its life."""
    revision = await client.put(b"k", b"v")

    entry = await client.get(b"k")
    assert entry is not None
    assert (b"k", b"v", revision, 0) == (entry.key, entry.value, entry.mod_revision, entry.lease_id)
    assert await client.delete(b"k")
    assert not await client.delete(b"k")
    assert await client.get(b"k") is None


async def test_a_key_is_replaced_and_removed_only_as_it_was(client: EtcdClient) -> None:
    """What somebody else has written meanwhile stays."""
    lease = await client.lease_grant(60.0)
    await client.put(b"k", b"1", lease_id=lease.lease_id)
    first = await client.get(b"k")
    assert first is not None

    second = await client.replace(first, b"2")

    assert second == await client.get(b"k")
    assert second is not None
    assert lease.lease_id == second.lease_id
    assert await client.replace(first, b"3") is None
    assert not await client.remove(first)
    assert await client.remove(second)
    assert await client.get(b"k") is None


async def test_a_listing_is_read_in_pages_at_one_revision(etcd: EtcdProcess) -> None:
    """Seven keys in pages of two are one moment, and neighbours are not in it."""
    for name in ["p/1", "p/2", "p/3", "p/4", "p/5", "p/6", "p/7", "o/1", "p0"]:
        etcd.put(name, b"v")
    client = EtcdClient([etcd.endpoint], config=EtcdClientConfig(page_size=2))

    listing = await client.list_prefix(b"p/")

    assert [f"p/{n}".encode() for n in range(1, 8)] == [entry.key for entry in listing.entries]
    assert etcd.revision() == listing.revision
    await client.close()


async def test_a_page_too_big_for_a_message_is_halved(
    etcd: EtcdProcess, client: EtcdClient
) -> None:
    """Six values of 1 MiB do not fit one 4 MiB message, and are listed all the same."""
    for n in range(6):
        etcd.put(f"big/{n}", bytes(1024 * 1024))

    listing = await client.list_prefix(b"big/")

    assert len(listing.entries) == 6


async def test_a_listing_is_bounded(
    etcd: EtcdProcess, client: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More keys than the limit are an error, not memory."""
    monkeypatch.setattr(discovery.etcd_client, "MAX_LISTED_KEYS", 1)
    etcd.put("p/1", b"")
    etcd.put("p/2", b"")

    with pytest.raises(ResourceExhaustedError):
        await client.list_prefix(b"p/")


async def test_a_lease_that_is_gone_is_named(client: EtcdClient) -> None:
    """Putting under, renewing and revoking an unknown lease are the same error."""
    with pytest.raises(LeaseNotFoundError):
        await client.put(b"k", b"v", lease_id=_UNUSED_LEASE)
    with pytest.raises(LeaseNotFoundError):
        await client.lease_revoke(_UNUSED_LEASE)
    with pytest.raises(LeaseNotFoundError):
        async with client.keepalive(_UNUSED_LEASE) as renewals:
            await renewals.renew(3.0)


async def test_a_lease_takes_its_keys_with_it(client: EtcdClient) -> None:
    """Revoking deletes what stands under the lease."""
    lease = await client.lease_grant(5.0)
    await client.put(b"k", b"v", lease_id=lease.lease_id)
    async with client.keepalive(lease.lease_id) as renewals:
        assert lease.ttl_s == await renewals.renew(3.0)

    await client.lease_revoke(lease.lease_id)

    assert await client.get(b"k") is None


async def test_a_watch_reports_puts_and_deletes(etcd: EtcdProcess, client: EtcdClient) -> None:
    """Events from the start revision on arrive, in order, old ones too."""
    before = etcd.revision()
    etcd.put("p/1", b"old")

    async with client.watch(b"p/", after_revision=before) as watch:
        etcd.delete("p/1")
        seen = []
        async for batch in watch:
            seen += [(event.entry.key, event.deleted) for event in batch.events]
            if len(seen) == 2:
                break

    assert seen == [(b"p/1", False), (b"p/1", True)]


async def test_a_silent_watch_answers_a_progress_request(client: EtcdClient) -> None:
    """Silence is no batch; a probe is answered by one without events."""
    async with client.watch(b"p/", after_revision=1) as watch:
        assert await watch.next(0.01) is None
        await watch.request_progress()
        batch = await watch.next(5.0)

    assert batch is not None
    assert batch.events == ()


async def test_a_watch_on_a_compacted_revision_says_so(
    etcd: EtcdProcess, client: EtcdClient
) -> None:
    """The error carries the revision up to which history is gone."""
    etcd.put("p/1", b"")
    etcd.put("p/1", b"")
    compacted = etcd.compact()

    with pytest.raises(CompactedError) as caught:
        async with client.watch(b"p/", after_revision=0) as watch:
            await watch.next(5.0)

    assert compacted == caught.value.compact_revision


async def test_a_watch_ahead_of_the_store_says_so(client: EtcdClient) -> None:
    """Etcd would wait in silence; we know that it has lost data."""
    with pytest.raises(StoreRolledBackError):
        async with client.watch(b"p/", after_revision=999):
            pass


async def test_a_broken_connection_ends_the_watch(etcd: EtcdProcess, client: EtcdClient) -> None:
    """Killing etcd is UNAVAILABLE to whoever waits, and to the next call."""
    async with client.watch(b"p/", after_revision=1) as watch:
        etcd.kill9()
        with pytest.raises(UnavailableError):
            await watch.next(5.0)
    with pytest.raises(UnavailableError):
        await client.get(b"k")


async def test_the_client_finds_etcd_when_it_is_back(etcd: EtcdProcess, client: EtcdClient) -> None:
    """The same client goes on after a kill and a start on the same port."""
    await client.put(b"k", b"v")
    etcd.restart()

    found = asyncio.Event()

    async def ask() -> None:
        while not found.is_set():
            try:
                await client.get(b"k")
                found.set()
            except UnavailableError:
                await asyncio.sleep(0.01)

    async with asyncio.timeout(15):
        await ask()


async def test_several_endpoints_are_tried_in_turn(etcd: EtcdProcess) -> None:
    """A first endpoint that is dead costs one call."""
    client = EtcdClient(["127.0.0.1:1", f"http://{etcd.endpoint}"])

    with pytest.raises(UnavailableError):
        await client.get(b"k")

    assert await client.get(b"k") is None
    await client.close()


async def test_a_call_without_an_answer_is_unavailable(etcd: EtcdProcess) -> None:
    """A path that swallows everything does not hold a call beyond its timeout."""
    async with TcpProxy(etcd.endpoint) as proxy:
        client = EtcdClient([proxy.endpoint], config=EtcdClientConfig(request_timeout_s=0.2))
        assert await client.get(b"k") is None
        proxy.freeze()

        with pytest.raises(UnavailableError):
            await client.get(b"k")
        with pytest.raises(UnavailableError):
            async with client.watch(b"k", after_revision=0):
                pass
        await client.close()


async def test_a_stream_ends_on_which_no_ping_is_answered(etcd: EtcdProcess) -> None:
    """A watch may be silent; it ends when nobody is there any more."""
    config = EtcdClientConfig(ping_after_s=5.0, ping_timeout_s=0.5)
    async with TcpProxy(etcd.endpoint) as proxy:
        client = EtcdClient([proxy.endpoint], config=config)
        async with client.watch(b"k", after_revision=0) as watch:
            proxy.freeze()
            with pytest.raises(UnavailableError):
                await watch.next(WAIT_S)
        await client.close()


async def test_closing_fails_the_calls_under_way(etcd: EtcdProcess) -> None:
    """Waiters are told, not cancelled; later calls are refused the same way."""
    async with TcpProxy(etcd.endpoint) as proxy:
        client = EtcdClient([proxy.endpoint])
        await client.get(b"k")
        proxy.freeze()
        waiting = asyncio.ensure_future(client.get(b"k"))
        await asyncio.sleep(0)
        await client.close()

        with pytest.raises(UnavailableError):
            await waiting
        with pytest.raises(UnavailableError):
            await client.get(b"k")


async def test_a_cancelled_caller_is_cancelled(etcd: EtcdProcess) -> None:
    """Our own task's cancellation is not mistaken for a lost connection."""
    async with TcpProxy(etcd.endpoint) as proxy:
        client = EtcdClient([proxy.endpoint])
        await client.get(b"k")
        proxy.freeze()
        waiting = asyncio.ensure_future(client.get(b"k"))
        await asyncio.sleep(0)
        waiting.cancel()

        await eventually(waiting.done)
        assert waiting.cancelled()
        await client.close()


@pytest.mark.parametrize(
    "endpoints",
    [
        [],
        [""],
        ["a"],
        ["a:"],
        ["ftp://a:1"],
        ["a:1/x"],
        ["a:0"],
        ["a:65536"],
        ["a:\u0661"],
        ["a b:1"],
        ["\udcff:1"],
        "a:1",
        ["https://a:1", "b:1"],
        ["a:1"] * 17,
    ],
)
def test_what_is_not_an_endpoint_is_refused(endpoints: list[str] | str) -> None:
    """Nonsense is refused at once."""
    with pytest.raises(ValueError, match="endpoint"):
        EtcdClient(endpoints)


@pytest.mark.parametrize(
    "field", ["request_timeout_s", "page_size", "ping_after_s", "reconnect_backoff_max_s"]
)
def test_limits_must_make_sense(field: str) -> None:
    """A limit of nothing is refused at construction."""
    with pytest.raises(ValueError, match=field):
        EtcdClientConfig(**cast("Any", {field: 0}))
