"""Limits of messages by method, on channels for threads."""

from __future__ import annotations

from typing import Any

from grpc import StatusCode

from balancer import from_service_config
from balancer.sync_channel import sync_channel
from tests.balancer.echo import UNARY_STREAM, UNARY_UNARY
from tests.balancer.sync.echo import EchoServer
from tests.balancer.test_message_sizes import LARGE, SMALL


def test_limits_of_a_service_config_hold_for_threads(server: EchoServer) -> None:
    """As they stand in gRPC's own document, for every method."""
    _, config = from_service_config(
        '{"methodConfig": [{"name": [{}], "maxRequestMessageBytes": 100}]}'
    )
    with sync_channel(f"static:///{server.address}", config=config) as channel:
        unary: Any = channel.unary_unary(UNARY_UNARY)
        assert b"server:" + SMALL == unary(SMALL, timeout=10)
        failed = unary.future(LARGE, timeout=10)
        assert StatusCode.RESOURCE_EXHAUSTED is failed.code()
        stream: Any = channel.unary_stream(UNARY_STREAM)
        assert StatusCode.RESOURCE_EXHAUSTED is stream(LARGE, timeout=10).code()
