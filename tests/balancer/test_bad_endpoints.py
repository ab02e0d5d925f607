"""What is no gRPC server costs no call as long as another is one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from grpc import ChannelConnectivity, StatusCode

import balancer
from balancer import BalancedChannel, BalancedSyncChannel, ChannelConfig
from balancer.describe import EndpointFacts
from tests.balancer.bad_endpoints import never_speaks, speaks_http1
from tests.balancer.calls import call, served_by
from tests.balancer.echo import EchoServer
from tests.balancer.waiting import reaches
from tests.support.waiting import eventually

Bad = Callable[[], AbstractContextManager[str]]
IMPATIENT = ChannelConfig(connect_timeout_s=0.2)
BAD = pytest.mark.parametrize("bad", [speaks_http1, never_speaks])


def facts_of(channel: BalancedChannel | BalancedSyncChannel, address: str) -> EndpointFacts:
    """What `channel` knows of the endpoint at `address`."""
    return next(each for each in channel.facts().endpoints if each.address == address)


@BAD
async def test_the_others_serve(server: EchoServer, bad: Bad) -> None:
    """It is in TRANSIENT_FAILURE with a reason, and every call goes elsewhere."""
    with bad() as address:
        target = f"static:///{address},{server.address}"
        async with balancer.channel(target, config=IMPATIENT) as channel:
            await channel.channel_ready()
            assert {"server": 20} == await served_by(channel, 20)
            await eventually(lambda: facts_of(channel, address).state == "TRANSIENT_FAILURE")
            assert facts_of(channel, address).last_error
            assert {"server": 20} == await served_by(channel, 20)


@BAD
async def test_alone_it_fails_calls_with_the_reason(bad: Bad) -> None:
    """A call does not hang; it is UNAVAILABLE, and says for whom."""
    with bad() as address:
        async with balancer.channel(f"static:///{address}", config=IMPATIENT) as channel:
            await reaches(channel, ChannelConnectivity.TRANSIENT_FAILURE)
            failed = call(channel, timeout=10)
            assert StatusCode.UNAVAILABLE is await failed.code()
            assert address in await failed.details()
