"""The only file that speaks to etcd.

etcd's v3 API is plain gRPC, so the eight RPCs needed here are a page of messages and
the method paths below; why no client library stands in docs/adr/0001. The upper half
(requests and replies) knows no channel and no event loop, so that a blocking face can
stand on it; the lower half is the asyncio face, on `discovery.etcd_channel`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn, TypeVar

from google.protobuf.message import Message
from tallystick.etcd.v3 import etcd_pb2 as pb

from discovery.etcd_channel import EtcdChannel, EtcdClientConfig, Method, Stream, within
from discovery.etcd_types import (
    CompactedError,
    KeyValue,
    Lease,
    LeaseNotFoundError,
    Listing,
    RejectedError,
    ResourceExhaustedError,
    StoreRolledBackError,
    UnavailableError,
    WatchBatch,
    WatchEvent,
)

MAX_LISTED_KEYS: Final = 100_000
MAX_BATCH_EVENTS: Final = 100_000

_Request = TypeVar("_Request", bound=Message)
_Reply = TypeVar("_Reply", bound=Message)


# --- requests and replies: no channel, no loop ---


def _method(path: str, request: type[_Request], reply: type[_Reply]) -> Method[_Request, _Reply]:
    return Method(path, request.SerializeToString, reply.FromString)


RANGE = _method("/etcdserverpb.KV/Range", pb.RangeRequest, pb.RangeResponse)
PUT = _method("/etcdserverpb.KV/Put", pb.PutRequest, pb.PutResponse)
DELETE = _method("/etcdserverpb.KV/DeleteRange", pb.DeleteRangeRequest, pb.DeleteRangeResponse)
LEASE_GRANT = _method("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest, pb.LeaseGrantResponse)
LEASE_REVOKE = _method(
    "/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeRequest, pb.LeaseRevokeResponse
)
LEASE_KEEPALIVE = _method(
    "/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse
)
WATCH = _method("/etcdserverpb.Watch/Watch", pb.WatchRequest, pb.WatchResponse)


def prefix_end(prefix: bytes) -> bytes:
    """The first key after every key that starts with `prefix` (etcd's range_end)."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b"\0"


class Pages:
    """A listing in progress: what to ask next, until there is no more.

    All pages are read at the revision of the first, so that together they are one
    moment. A page too big for a message is asked for again in halves.
    """

    def __init__(self, prefix: bytes, page_size: int) -> None:
        self._start = prefix
        self._end = prefix_end(prefix)
        self._limit = page_size
        self._revision = 0
        self._entries: list[KeyValue] = []

    def request(self) -> pb.RangeRequest:
        """The next page to ask for."""
        return pb.RangeRequest(
            key=self._start, range_end=self._end, limit=self._limit, revision=self._revision
        )

    def feed(self, reply: pb.RangeResponse) -> Listing | None:
        """Takes a page; the whole listing when it was the last.

        Raises ResourceExhaustedError beyond MAX_LISTED_KEYS.
        """
        self._revision = self._revision or reply.header.revision
        self._entries.extend(_key_value(each) for each in reply.kvs)
        if len(self._entries) > MAX_LISTED_KEYS:
            raise ResourceExhaustedError(f"more than {MAX_LISTED_KEYS} keys")
        if not reply.more or not reply.kvs:
            return Listing(self._revision, tuple(self._entries))
        self._start = reply.kvs[-1].key + b"\0"
        return None

    def halve(self, error: ResourceExhaustedError) -> None:
        """Asks for less at a time; raises `error` when there is no less."""
        if self._limit <= 1:
            raise error
        self._limit //= 2


class WatchReader:
    """Turns watch responses into batches; joins fragments.

    `revision` is the store's own when the watch was created.
    """

    def __init__(self, prefix: bytes, start_revision: int) -> None:
        self.revision = 0
        self._prefix = prefix
        self._start_revision = start_revision
        self._fragments: list[WatchEvent] = []

    def create_request(self) -> pb.WatchRequest:
        """The first message of the stream."""
        return pb.WatchRequest(
            create_request=pb.WatchCreateRequest(
                key=self._prefix,
                range_end=prefix_end(self._prefix),
                start_revision=self._start_revision,
                fragment=True,
            )
        )

    def feed(self, reply: pb.WatchResponse) -> WatchBatch | None:
        """Takes a response; None while parts are missing.

        Raises CompactedError, StoreRolledBackError, UnavailableError, RejectedError,
        and ResourceExhaustedError beyond MAX_BATCH_EVENTS.
        """
        if reply.canceled:
            self._refuse(reply)
        if reply.created:
            self._accept(reply.header.revision)
        self._fragments.extend(_event(each) for each in reply.events)
        if len(self._fragments) > MAX_BATCH_EVENTS:
            raise ResourceExhaustedError(f"more than {MAX_BATCH_EVENTS} events at once")
        if reply.fragment:
            return None
        events, self._fragments = tuple(self._fragments), []
        return WatchBatch(reply.header.revision, events)

    def _accept(self, revision: int) -> None:
        # etcd would wait in silence for the store to grow up to the start revision.
        if revision + 1 < self._start_revision:
            raise StoreRolledBackError(
                f"store is at {revision}, watch was to start at {self._start_revision}"
            )
        self.revision = revision

    @staticmethod
    def _refuse(reply: pb.WatchResponse) -> NoReturn:
        reason = reply.cancel_reason or "watch cancelled"
        if reply.compact_revision:
            raise CompactedError(reason, reply.compact_revision)
        if "no leader" in reason:
            raise UnavailableError(reason)
        raise RejectedError(reason)


def _key_value(entry: pb.KeyValue) -> KeyValue:
    return KeyValue(entry.key, entry.value, entry.mod_revision, entry.lease)


def _event(event: pb.Event) -> WatchEvent:
    return WatchEvent(_key_value(event.kv), deleted=event.type == pb.EVENT_TYPE_DELETE)


# --- the asyncio face ---


class EtcdClient:
    """Speaks to the first of `endpoints` that answers.

    `endpoints` are `host:port`, optionally after `http://`. After a call that nobody
    answered, the next call goes to the next of them. The client opens nothing until it
    is used, and belongs to the event loop on which it is used first.

    Every method raises a class of `discovery.etcd_types.EtcdError`.
    """

    def __init__(self, endpoints: Sequence[str], *, config: EtcdClientConfig | None = None) -> None:
        self._config = config or EtcdClientConfig()
        self._channel = EtcdChannel(endpoints, self._config)

    async def list_prefix(self, prefix: bytes) -> Listing:
        """Every key that starts with `prefix`, as of one revision, read in pages.

        Linearizable. Raises CompactedError when the store was compacted meanwhile.
        """
        pages = Pages(prefix, self._config.page_size)
        while True:
            try:
                listing = pages.feed(await self._channel.call(RANGE, pages.request()))
            except ResourceExhaustedError as error:
                pages.halve(error)
                continue
            if listing is not None:
                return listing

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
    async def watch(self, prefix: bytes, *, start_revision: int) -> AsyncIterator[Watch]:
        """Events of every key that starts with `prefix`, from `start_revision` on.

        Entered once etcd has confirmed it. Raises CompactedError, StoreRolledBackError.
        """
        reader = WatchReader(prefix, start_revision)
        async with self._channel.stream(WATCH) as stream:
            watch = Watch(stream, reader, self._config.request_timeout_s)
            await watch.open()
            yield watch

    async def close(self) -> None:
        """Closes every connection; calls under way fail with UnavailableError."""
        await self._channel.close()


class Renewals:
    """An open keepalive stream of one lease."""

    def __init__(self, stream: Stream[Any, Any], lease_id: int) -> None:
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

    def __init__(self, stream: Stream[Any, Any], reader: WatchReader, timeout_s: float) -> None:
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
