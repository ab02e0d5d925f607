"""etcd spoken to with nothing in between: a plain grpc.aio channel and the messages.

What the discovery package is compared with. No retries, no deadlines' renewal, no
decoding of values: what nobody could do without.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import grpc.aio
from tallystick.etcd.v3 import etcd_pb2 as pb

CALL_TIMEOUT_S: Final = 10.0


class BareEtcd:
    """Put, delete and watch on one channel."""

    def __init__(self, endpoint: str) -> None:
        self._channel = grpc.aio.insecure_channel(endpoint)
        self._put: Any = self._channel.unary_unary(
            "/etcdserverpb.KV/Put", pb.PutRequest.SerializeToString, pb.PutResponse.FromString
        )
        self._delete: Any = self._channel.unary_unary(
            "/etcdserverpb.KV/DeleteRange",
            pb.DeleteRangeRequest.SerializeToString,
            pb.DeleteRangeResponse.FromString,
        )
        self._watch: Any = self._channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            pb.WatchRequest.SerializeToString,
            pb.WatchResponse.FromString,
        )

    async def put(self, key: bytes, value: bytes) -> None:
        """Writes one key, without a lease."""
        await self._put(pb.PutRequest(key=key, value=value), timeout=CALL_TIMEOUT_S)

    async def delete(self, key: bytes) -> None:
        """Deletes one key."""
        await self._delete(pb.DeleteRangeRequest(key=key), timeout=CALL_TIMEOUT_S)

    async def watch(self, prefix: bytes) -> AsyncIterator[pb.WatchResponse]:
        """What etcd says of the keys under `prefix`, which ends with a slash."""
        call = self._watch()
        end = prefix[:-1] + bytes([prefix[-1] + 1])
        create = pb.WatchCreateRequest(key=prefix, range_end=end)
        await call.write(pb.WatchRequest(create_request=create))
        try:
            while (reply := await call.read()) is not grpc.aio.EOF:
                yield reply
        finally:
            call.cancel()

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close(None)
