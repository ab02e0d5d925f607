"""What keeps calls of threads away from an endpoint, on real servers."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc import StatusCode

from balancer import BreakerConfig, ChannelConfig, FailurePercentageEjection, OutlierConfig
from balancer.sync_channel import BalancedSyncChannel, sync_channel
from tests.balancer.echo import UNARY_UNARY
from tests.balancer.sync.conftest import StartServer
from tests.balancer.sync.echo import EchoServer
from tests.balancer.sync.waiting import eventually, only


@pytest.fixture
def servers(start_server: StartServer) -> list[EchoServer]:
    """Three servers, a, b and c."""
    return [start_server(name) for name in (b"a", b"b", b"c")]


def connected(servers: list[EchoServer], config: ChannelConfig) -> BalancedSyncChannel:
    """A channel to all of them."""
    channel = sync_channel(
        "static:///" + ",".join(server.address for server in servers), config=config
    )
    only(channel, "a", "b", "c")
    return channel


def codes(channel: grpc.Channel, calls: int) -> list[StatusCode]:
    """How so many calls end."""
    unary: Any = channel.unary_unary(UNARY_UNARY)
    return [unary.future(b"x", timeout=10).code() for _ in range(calls)]


def test_who_fails_time_after_time_is_left_alone_and_probed(servers: list[EchoServer]) -> None:
    """A breaker opens after five failures in a row, and one good probe closes it."""
    config = ChannelConfig(breaker=BreakerConfig(open_s=0.05, max_open_s=0.1))
    with connected(servers, config) as channel:
        servers[0].refusal = StatusCode.UNAVAILABLE
        assert 5 <= codes(channel, 24).count(StatusCode.UNAVAILABLE) <= 7
        servers[0].refusal = None
        only(channel, "a", "b", "c")


def test_who_does_worse_than_the_others_is_ejected(servers: list[EchoServer]) -> None:
    """The detector of gRFC A50 hears of the calls of threads, and `describe` says for how long."""
    failing = FailurePercentageEjection(threshold=50, minimum_hosts=3, request_volume=5)
    config = ChannelConfig(
        outlier=OutlierConfig(
            interval_s=0.05,
            max_ejection_percent=34,
            success_rate=None,
            failure_percentage=failing,
        )
    )
    with connected(servers, config) as channel:
        servers[0].refusal = StatusCode.INTERNAL
        eventually(lambda: codes(channel, 24).count(StatusCode.INTERNAL) == 0)
        (facts,) = [each for each in channel.facts().endpoints if each.ejected_for_s is not None]
        assert servers[0].address == facts.address
        assert "ejected for" in channel.describe()
