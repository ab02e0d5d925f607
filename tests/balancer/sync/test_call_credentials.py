"""Credentials of a channel for threads and of a single call, on a server that speaks TLS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from balancer.sync_channel import sync_channel
from tests.balancer.echo import UNARY_UNARY
from tests.balancer.sync.echo import EchoServer
from tests.balancer.test_call_credentials import TOKEN
from tests.support.certificates import Authority


@pytest.mark.parametrize("kind", ["plain", "balanced"])
def test_credentials_of_a_call_reach_the_server(tmp_path: Path, kind: str) -> None:
    """They are sent with that call, and with no other."""
    authority = Authority(tmp_path)
    pair = authority.issue("127.0.0.1")
    key_and_chain = (pair.key.read_bytes(), pair.certificate.read_bytes())
    server = EchoServer()
    server.start(grpc.ssl_server_credentials([key_and_chain]))
    trusting = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    made: grpc.Channel
    if kind == "plain":
        made = grpc.secure_channel(server.address, trusting)
    else:
        made = sync_channel(f"static:///{server.address}", credentials=trusting)
    with made as channel:
        call: Any = channel.unary_unary(UNARY_UNARY)
        credentials = grpc.access_token_call_credentials("one-call")
        assert b"server:x" == call(b"x", credentials=credentials, timeout=10)
        assert TOKEN in [tuple(each) for each in server.metadata]
        assert b"server:x" == call(b"x", timeout=10)
        assert TOKEN not in [tuple(each) for each in server.metadata]
    server.stop()
