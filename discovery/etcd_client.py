"""The only file that speaks to etcd.

etcd's v3 API is plain gRPC, so the nine RPCs needed here are a page of messages and
the method paths below; why no client library stands in docs/adr/0001. The upper half
(requests and replies) knows no connection and no event loop; the lower half says them
over `discovery.etcd_channel`, on whichever transport it stands.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final, NoReturn, TypeVar

from google.protobuf.message import Message
from tallystick.etcd.v3 import etcd_pb2 as pb

from discovery import aio_transport
from discovery.etcd_auth import TokenKeeper
from discovery.etcd_channel import EtcdChannel
from discovery.etcd_config import EtcdClientConfig
from discovery.etcd_route import Connect, Endpoints, route_of
from discovery.etcd_types import (
    MAX_KEPT_VALUE_BYTES,
    CompactedError,
    Fingerprint,
    KeyValue,
    Lease,
    LeaseNotFoundError,
    Listing,
    Page,
    RejectedError,
    ResourceExhaustedError,
    StoreRolledBackError,
    WatchBatch,
    WatchEvent,
)
from discovery.transport import Method, Stream, Transport, refusal_of, within

MAX_LISTED_KEYS: Final = 100_000
MAX_BATCH_EVENTS: Final = 100_000
MAX_BATCH_BYTES: Final = 64 * 1024 * 1024

_Request = TypeVar("_Request", bound=Message)
_Reply = TypeVar("_Reply", bound=Message)


# --- requests and replies: no channel, no loop ---


def _method(path: str, request: type[_Request], reply: type[_Reply]) -> Method[_Request, _Reply]:
    return Method(path, request.SerializeToString, reply.FromString)


RANGE = _method("/etcdserverpb.KV/Range", pb.RangeRequest, pb.RangeResponse)
PUT = _method("/etcdserverpb.KV/Put", pb.PutRequest, pb.PutResponse)
TXN = _method("/etcdserverpb.KV/Txn", pb.TxnRequest, pb.TxnResponse)
DELETE = _method("/etcdserverpb.KV/DeleteRange", pb.DeleteRangeRequest, pb.DeleteRangeResponse)
LEASE_GRANT = _method("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest, pb.LeaseGrantResponse)
LEASE_REVOKE = _method(
    "/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeRequest, pb.LeaseRevokeResponse
)
LEASE_KEEPALIVE = _method(
    "/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse
)
WATCH = _method("/etcdserverpb.Watch/Watch", pb.WatchRequest, pb.WatchResponse)
AUTHENTICATE = _method(
    "/etcdserverpb.Auth/Authenticate", pb.AuthenticateRequest, pb.AuthenticateResponse
)


def prefix_end(prefix: bytes) -> bytes:
    """The first key after every key that starts with `prefix` (etcd's range_end)."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b"\0"


class Pages:
    """A listing in progress: what to ask next, until there is no more.

    All pages are read at the revision of the first, so that together they are one
    moment. A page too big for a message is asked for again in halves; what follows a
    few big values may be small, so pages grow again.
    """

    def __init__(self, prefix: bytes, page_size: int) -> None:
        # No key is empty, and etcd takes an empty one for a mistake.
        self._start = prefix or b"\0"
        self._end = prefix_end(prefix)
        self._page_size = page_size
        self._limit = page_size
        self._revision = 0
        self._listed = 0

    def request(self) -> pb.RangeRequest:
        """The next page to ask for."""
        return pb.RangeRequest(
            key=self._start, range_end=self._end, limit=self._limit, revision=self._revision
        )

    def feed(self, reply: pb.RangeResponse) -> Page:
        """Takes a reply. Raises ResourceExhaustedError beyond MAX_LISTED_KEYS."""
        self._revision = self._revision or reply.header.revision
        self._listed += len(reply.kvs)
        if self._listed > MAX_LISTED_KEYS:
            raise ResourceExhaustedError(f"more than {MAX_LISTED_KEYS} keys")
        if reply.kvs:
            self._start = reply.kvs[-1].key + b"\0"
        self._limit = min(2 * self._limit, self._page_size)
        entries = tuple(_key_value(each) for each in reply.kvs)
        return Page(self._revision, entries, last=not (reply.more and entries))

    def halve(self, error: ResourceExhaustedError) -> None:
        """Asks for less at a time; raises `error` when there is no less."""
        if self._limit <= 1:
            raise error
        self._limit //= 2


class WatchReader:
    """Turns watch responses into batches; joins fragments.

    etcd is asked to begin at `after_revision` itself, and what happened in it is dropped:
    etcd 3.6 answers no progress request on a watch that begins beyond the store's
    revision, as one at the next revision does while nothing is written.

    `revision` is the store's own when the watch was created.
    """

    def __init__(self, prefix: bytes, after_revision: int) -> None:
        self.revision = 0
        self._prefix = prefix
        self._after_revision = after_revision
        self._fragments: list[WatchEvent] = []
        self._size_bytes = 0

    def create_request(self) -> pb.WatchRequest:
        """The first message of the stream."""
        return pb.WatchRequest(
            create_request=pb.WatchCreateRequest(
                key=self._prefix or b"\0",
                range_end=prefix_end(self._prefix),
                # 0 would mean "from now on".
                start_revision=max(1, self._after_revision),
                fragment=True,
            )
        )

    def feed(self, reply: pb.WatchResponse) -> WatchBatch | None:
        """Takes a response; None while parts are missing.

        Raises CompactedError, StoreRolledBackError, ResourceExhaustedError beyond
        MAX_BATCH_EVENTS or MAX_BATCH_BYTES, and what `discovery.transport.refusal_of`
        reads in a reason.
        """
        if reply.canceled:
            self._refuse(reply)
        if reply.created:
            self._accept(reply.header.revision)
        news = (_event(each) for each in reply.events)
        self._keep([each for each in news if each.entry.mod_revision > self._after_revision])
        if reply.fragment:
            return None
        events, self._fragments, self._size_bytes = tuple(self._fragments), [], 0
        return WatchBatch(reply.header.revision, events)

    def _keep(self, events: list[WatchEvent]) -> None:
        self._fragments += events
        self._size_bytes += sum(len(each.entry.key) + len(each.entry.value) for each in events)
        if len(self._fragments) > MAX_BATCH_EVENTS or self._size_bytes > MAX_BATCH_BYTES:
            raise ResourceExhaustedError("more events at once than can be joined")

    def _accept(self, revision: int) -> None:
        # etcd would wait in silence for the store to grow up to it.
        if revision < self._after_revision:
            raise StoreRolledBackError(
                f"store is at {revision}, watch was to go on after {self._after_revision}"
            )
        self.revision = revision

    @staticmethod
    def _refuse(reply: pb.WatchResponse) -> NoReturn:
        reason = reply.cancel_reason or "watch cancelled"
        if reply.compact_revision:
            raise CompactedError(reason, reply.compact_revision)
        raise refusal_of(reason)(reason)


def _key_value(entry: pb.KeyValue) -> KeyValue:
    return KeyValue(
        entry.key,
        entry.value[:MAX_KEPT_VALUE_BYTES],
        entry.mod_revision,
        entry.lease,
        entry.version,
        entry.create_revision,
    )


def _event(event: pb.Event) -> WatchEvent:
    return WatchEvent(_key_value(event.kv), deleted=event.type == pb.EVENT_TYPE_DELETE)


# --- what is said ---


class EtcdClient:
    """Speaks to one of `endpoints`: `host:port`, `http://` or `https://host:port`.

    Names are resolved by gRPC and verified in etcd's certificate. After a call that
    nobody answered, the next call goes to the next endpoint. In place of endpoints an
    `etcd3.Etcd3Client` is taken, on whose channel everything then goes; it stays open.
    The client opens nothing until it is used, and belongs to the event loop on which it
    is used first. Raises ValueError for what is no endpoint.

    Every method raises a class of `discovery.etcd_types.EtcdError`.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        config: EtcdClientConfig | None = None,
        connect: Connect = aio_transport.connect,
    ) -> None:
        self._config = config or EtcdClientConfig()
        route = route_of(endpoints, self._config, connect)
        self.local = route.local
        self._channel = EtcdChannel(
            route,
            request_timeout_s=self._config.request_timeout_s,
            tokens=self._tokens() if self._config.username else None,
        )

    async def pages(self, prefix: bytes) -> AsyncIterator[Page]:
        """Every key that starts with `prefix`, as of one revision, page by page.

        Linearizable. Raises CompactedError when the store was compacted meanwhile.
        """
        pages = Pages(prefix, self._config.page_size)
        last = False
        while not last:
            try:
                page = pages.feed(await self._channel.call(RANGE, pages.request()))
            except ResourceExhaustedError as error:
                pages.halve(error)
                continue
            last = page.last
            yield page

    async def list_prefix(self, prefix: bytes) -> Listing:
        """All `pages` in one: every value in memory at once."""
        pages = [page async for page in self.pages(prefix)]
        return Listing(pages[0].revision, tuple(each for page in pages for each in page.entries))

    async def fingerprint(self, prefix: bytes, revision: int) -> Fingerprint:
        """What tells whether the keys under `prefix` at `revision` are those known.

        Raises CompactedError, and StoreRolledBackError when there is no such revision.
        """
        request = pb.RangeRequest(
            key=prefix,
            range_end=prefix_end(prefix),
            revision=revision,
            limit=1,
            sort_order=pb.RangeRequest.SORT_ORDER_DESCEND,
            sort_target=pb.RangeRequest.SORT_TARGET_MOD,
        )
        reply = await self._channel.call(RANGE, request)
        return Fingerprint(reply.count, _key_value(reply.kvs[0]) if reply.kvs else None)

    async def get(self, key: bytes) -> KeyValue | None:
        """One key, or None. Linearizable."""
        reply = await self._channel.call(RANGE, pb.RangeRequest(key=key))
        return _key_value(reply.kvs[0]) if reply.kvs else None

    async def put(self, key: bytes, value: bytes, *, lease_id: int = 0) -> int:
        """Writes, moving the key to this lease; returns the revision.

        Raises LeaseNotFoundError.
        """
        request = pb.PutRequest(key=key, value=value, lease=lease_id)
        return (await self._channel.call(PUT, request)).header.revision

    async def replace(self, entry: KeyValue, value: bytes) -> KeyValue | None:
        """Writes `value` under the same lease; None when the key is no longer `entry`.

        Otherwise returns the key as it now is.
        """
        put = pb.PutRequest(key=entry.key, value=value, lease=entry.lease_id)
        reply = await self._if_unchanged(entry, pb.RequestOp(request_put=put))
        if not reply.succeeded:
            return None
        revision, version = reply.header.revision, entry.version + 1
        return replace(entry, value=value, mod_revision=revision, version=version)

    async def remove(self, entry: KeyValue) -> bool:
        """Deletes a key; False when it is no longer `entry`."""
        delete = pb.DeleteRangeRequest(key=entry.key)
        reply = await self._if_unchanged(entry, pb.RequestOp(request_delete_range=delete))
        return reply.succeeded

    async def delete(self, key: bytes) -> bool:
        """Deletes one key; False when it was not there."""
        return (await self._channel.call(DELETE, pb.DeleteRangeRequest(key=key))).deleted > 0

    async def lease_grant(self, ttl_s: float) -> Lease:
        """A new lease of at least `ttl_s`, in whole seconds."""
        reply = await self._channel.call(LEASE_GRANT, pb.LeaseGrantRequest(ttl=math.ceil(ttl_s)))
        if reply.error:
            raise RejectedError(reply.error)
        return Lease(reply.id, float(reply.ttl))

    async def lease_revoke(self, lease_id: int) -> None:
        """Ends a lease and deletes its keys. Raises LeaseNotFoundError."""
        await self._channel.call(LEASE_REVOKE, pb.LeaseRevokeRequest(id=lease_id))

    @asynccontextmanager
    async def keepalive(self, lease_id: int) -> AsyncIterator[Renewals]:
        """A stream on which `lease_id` can be renewed."""
        async with self._channel.stream(LEASE_KEEPALIVE) as stream:
            yield Renewals(stream, lease_id)

    @asynccontextmanager
    async def watch(self, prefix: bytes, *, after_revision: int) -> AsyncIterator[Watch]:
        """Events of every key that starts with `prefix`, after `after_revision`.

        Entered once etcd has confirmed it. Raises CompactedError, StoreRolledBackError.
        """
        reader = WatchReader(prefix, after_revision)
        async with self._channel.stream(WATCH) as stream:
            watch = Watch(stream, reader, self._config.request_timeout_s)
            await watch.open()
            yield watch

    async def close(self) -> None:
        """Closes every connection; calls under way fail with UnavailableError.

        Those on a borrowed channel end as they would have.
        """
        await self._channel.close()

    async def _if_unchanged(self, entry: KeyValue, operation: pb.RequestOp) -> pb.TxnResponse:
        unchanged = pb.Compare(
            target=pb.Compare.COMPARE_TARGET_MOD, key=entry.key, mod_revision=entry.mod_revision
        )
        return await self._channel.call(
            TXN, pb.TxnRequest(compare=[unchanged], success=[operation])
        )

    def _tokens(self) -> TokenKeeper:
        return TokenKeeper(self._sign_in, self._config.refused_pause_s, time.monotonic)

    async def _sign_in(self, transport: Transport) -> str:
        request = pb.AuthenticateRequest(name=self._config.username, password=self._config.password)
        timeout_s = self._config.request_timeout_s
        try:
            reply = await transport.call(
                AUTHENTICATE, request, timeout_s=timeout_s, metadata=(), patient=False
            )
        except RejectedError as error:
            if _AUTH_IS_OFF in str(error):
                return ""
            raise
        return reply.token


_AUTH_IS_OFF = "authentication is not enabled"


class Renewals:
    """An open keepalive stream of one lease."""

    def __init__(self, stream: Stream, lease_id: int) -> None:
        self._stream = stream
        self._lease_id = lease_id

    async def renew(self, timeout_s: float) -> float:
        """Renews once; returns the seconds the lease now has.

        Raises LeaseNotFoundError, and UnavailableError without an answer in `timeout_s`;
        the stream is then of no more use, since that answer may still come.
        """
        async with within(timeout_s):
            await self._stream.send(pb.LeaseKeepAliveRequest(id=self._lease_id))
            reply = await self._stream.receive(None)
        if reply is None or reply.ttl <= 0:
            raise LeaseNotFoundError(f"lease {self._lease_id:x} is gone")
        return float(reply.ttl)


class Watch:
    """An open watch: an async iterator of batches that never ends by itself."""

    def __init__(self, stream: Stream, reader: WatchReader, timeout_s: float) -> None:
        self._stream = stream
        self._reader = reader
        self._timeout_s = timeout_s

    @property
    def revision(self) -> int:
        """The store's own revision when the watch was created."""
        return self._reader.revision

    async def open(self) -> None:
        """Asks for the watch and waits until etcd confirms it."""
        async with within(self._timeout_s):
            await self._stream.send(self._reader.create_request())
            await self.next(None)

    async def next(self, timeout_s: float | None) -> WatchBatch | None:
        """The next batch, or None after `timeout_s` of silence.

        Raises CompactedError, UnavailableError, RejectedError, ResourceExhaustedError.
        """
        while (reply := await self._stream.receive(timeout_s)) is not None:
            batch = self._reader.feed(reply)
            if batch is not None:
                return batch
        return None

    async def request_progress(self) -> None:
        """Asks etcd for a sign of life: it answers with a batch without events."""
        async with within(self._timeout_s):
            await self._stream.send(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> WatchBatch:
        batch = await self.next(None)
        assert batch is not None, "silence without a timeout"
        return batch
