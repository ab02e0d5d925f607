"""Connections that are lost in the worst moment: after a call was given one, before it is sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from balancer import BalancedChannel
from balancer.subchannel import AioSubchannel
from balancer.sync_channel import BalancedSyncChannel
from balancer.sync_subchannel import SyncSubchannel
from tests.balancer.sync.echo import EchoServer

WAIT_S = 10.0


def losing(
    channel: BalancedChannel | BalancedSyncChannel, servers: Sequence[EchoServer]
) -> Callable[[bytes], bytes]:
    """A serializer of requests that stops the server to which the first of them goes.

    gRPC serializes a request when its endpoint is picked, READY, and before it sends anything;
    and this returns when gRPC has noticed that the connection is gone.
    """
    left = {server.address: server for server in servers}

    def serialize(request: bytes) -> bytes:
        if len(left) == len(servers):
            (chosen,) = (each for each in channel._pool.connections() if each.in_flight)
            left.pop(chosen.endpoint.address).stop()
            deadline = time.monotonic() + WAIT_S
            while _is_connected(chosen):
                assert time.monotonic() < deadline, "the loss of a connection was not noticed"
                # An event loop may have to stand still here: nothing else is to come between.
                time.sleep(0.001)
        return request

    return serialize


def _is_connected(connection: object) -> bool:
    if isinstance(connection, AioSubchannel):
        return connection.is_ready()
    assert isinstance(connection, SyncSubchannel)
    return connection._link.is_ready()
