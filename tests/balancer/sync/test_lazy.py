"""Channels for threads that connect at the first call and not before."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc import ChannelConnectivity

from balancer import ChannelConfig
from balancer.sync_channel import sync_channel
from tests.balancer.echo import UNARY_UNARY
from tests.balancer.sync.echo import EchoServer
from tests.balancer.sync.waiting import TIMEOUT_S, reaches

IDLE = ChannelConnectivity.IDLE
READY = ChannelConnectivity.READY
LAZY = ChannelConfig(lazy=True)


@pytest.mark.parametrize("style", ["__call__", "future"])
def test_it_is_idle_until_the_first_call(server: EchoServer, style: str) -> None:
    """The first call connects, waits and is answered."""
    target = f"static:///{server.address}"
    with sync_channel(target, config=LAZY) as channel:
        reaches(channel, IDLE)
        # Time enough to connect, for one that does.
        with sync_channel(target) as eager:
            reaches(eager, READY)
        assert IDLE is channel.get_state()
        unary: Any = channel.unary_unary(UNARY_UNARY)
        made = getattr(unary, style)(b"x", timeout=TIMEOUT_S)
        assert b"server:x" == (made.result() if style == "future" else made)
        reaches(channel, READY)


def test_it_connects_when_asked_to(server: EchoServer) -> None:
    """By `get_state(try_to_connect=True)`, and by grpc.channel_ready_future."""
    target = f"static:///{server.address}"
    with sync_channel(target, config=LAZY) as channel:
        reaches(channel, IDLE)
        channel.get_state(try_to_connect=True)
        reaches(channel, READY)
    with sync_channel(target, config=LAZY) as channel:
        grpc.channel_ready_future(channel).result(timeout=TIMEOUT_S)
