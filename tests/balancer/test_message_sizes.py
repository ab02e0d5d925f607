"""Limits of messages by method, kept by gRPC's own connections."""

from __future__ import annotations

from typing import Any

import pytest
from grpc import StatusCode

import balancer
from balancer import ChannelConfig, MethodConfig, MethodConfigs
from tests.balancer.calls import unary_stream, unary_unary
from tests.balancer.echo import SERVICE, UNARY_UNARY, EchoServer

SMALL = b"x" * 10
LARGE = b"x" * 200


def config_of(**methods: MethodConfig) -> ChannelConfig:
    """What holds for the service, and for its unary method."""
    names = {"service": SERVICE, "unary": UNARY_UNARY, "all": ""}
    return ChannelConfig(
        methods=MethodConfigs({names[each]: config for each, config in methods.items()})
    )


@pytest.mark.parametrize("limit", ["max_request_bytes", "max_response_bytes"])
async def test_a_message_above_the_limit_is_not_taken(server: EchoServer, limit: str) -> None:
    """The call fails with RESOURCE_EXHAUSTED; a smaller one succeeds."""
    limits: dict[str, Any] = {limit: 100}
    config = config_of(service=MethodConfig(**limits))
    async with balancer.channel(f"static:///{server.address}", config=config) as channel:
        assert b"server:" + SMALL == await unary_unary(channel)(SMALL)
        assert StatusCode.RESOURCE_EXHAUSTED is await unary_unary(channel)(LARGE).code()


async def test_the_most_specific_entry_applies_alone(server: EchoServer) -> None:
    """A method's entry that has no limit hides that of its service."""
    config = config_of(service=MethodConfig(max_request_bytes=100), unary=MethodConfig())
    async with balancer.channel(f"static:///{server.address}", config=config) as channel:
        assert b"server:" + LARGE == await unary_unary(channel)(LARGE)
        assert StatusCode.RESOURCE_EXHAUSTED is await unary_stream(channel)(LARGE).code()
