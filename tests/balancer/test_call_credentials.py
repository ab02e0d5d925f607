"""Credentials of a channel and of a single call, on a server that speaks TLS."""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio
import pytest

import balancer
from tests.balancer.calls import unary_unary
from tests.balancer.echo import EchoServer
from tests.support.certificates import Authority

TOKEN = ("authorization", "Bearer one-call")


@pytest.mark.parametrize("kind", ["plain", "balanced"])
async def test_credentials_of_a_call_reach_the_server(tmp_path: Path, kind: str) -> None:
    """They are sent with that call, and with no other."""
    authority = Authority(tmp_path)
    pair = authority.issue("127.0.0.1")
    key_and_chain = (pair.key.read_bytes(), pair.certificate.read_bytes())
    server = EchoServer()
    await server.start(grpc.ssl_server_credentials([key_and_chain]))
    trusting = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    made: grpc.aio.Channel
    if kind == "plain":
        made = grpc.aio.secure_channel(server.address, trusting)
    else:
        made = balancer.channel(f"static:///{server.address}", credentials=trusting)
    async with made as channel:
        call = unary_unary(channel)
        credentials = grpc.access_token_call_credentials("one-call")
        assert b"server:x" == await call(b"x", credentials=credentials)
        assert TOKEN in server.metadata
        assert b"server:x" == await call(b"x")
        assert TOKEN not in server.metadata
    await server.stop()
