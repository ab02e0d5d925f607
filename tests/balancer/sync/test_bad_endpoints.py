"""What is no gRPC server costs no call of a thread as long as another is one."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc import ChannelConnectivity, StatusCode

from balancer.sync_channel import sync_channel
from tests.balancer.echo import UNARY_UNARY
from tests.balancer.sync.echo import EchoServer
from tests.balancer.sync.waiting import eventually, reaches, served_by
from tests.balancer.test_bad_endpoints import BAD, IMPATIENT, Bad, facts_of


@BAD
def test_the_others_serve(server: EchoServer, bad: Bad) -> None:
    """It is in TRANSIENT_FAILURE with a reason, and every call goes elsewhere."""
    with bad() as address:
        target = f"static:///{address},{server.address}"
        with sync_channel(target, config=IMPATIENT) as channel:
            reaches(channel, ChannelConnectivity.READY)
            assert {"server": 20} == served_by(channel, 20)
            eventually(lambda: facts_of(channel, address).state == "TRANSIENT_FAILURE")
            assert facts_of(channel, address).last_error
            assert {"server": 20} == served_by(channel, 20)


@BAD
def test_alone_it_fails_calls_with_the_reason(bad: Bad) -> None:
    """A call does not hang; it is UNAVAILABLE, and says for whom."""
    with bad() as address, sync_channel(f"static:///{address}", config=IMPATIENT) as channel:
        reaches(channel, ChannelConnectivity.TRANSIENT_FAILURE)
        unary: Any = channel.unary_unary(UNARY_UNARY)
        with pytest.raises(grpc.RpcError) as raised:
            unary(b"x", timeout=10)
        error: Any = raised.value
        assert StatusCode.UNAVAILABLE is error.code()
        assert address in error.details()
