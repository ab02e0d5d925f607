"""Calls that are about the same thing go to the same server, whichever way they say it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

import balancer
from balancer import ChannelConfig, HashKey, from_callable, from_field, from_metadata
from tests.balancer.calls import only
from tests.balancer.conftest import StartServer
from tests.balancer.echo import UNARY_UNARY

KEYS = [f"account-{number}" for number in range(12)]
ALL_WAYS = pytest.mark.parametrize(
    "hash_key",
    [
        from_metadata("x-account"),
        from_field("value"),
        from_callable(lambda info: dict(info.metadata)["x-account"] if info.metadata else None),
    ],
    ids=["metadata", "field", "callable"],
)


def multicallable(channel: Any) -> Any:
    """Calls with messages, which name the server that answers."""
    return channel.unary_unary(UNARY_UNARY, request_serializer=StringValue.SerializeToString)


def about(key: str) -> tuple[StringValue, dict[str, Any]]:
    """The request and the options of a call about `key`."""
    return StringValue(value=key), {"metadata": (("x-account", key),), "timeout": 10}


@ALL_WAYS
@pytest.mark.parametrize("policy", ["ring_hash", "hash"])
async def test_a_key_has_one_owner(
    start_server: StartServer, policy: str, hash_key: HashKey
) -> None:
    """Every call about a key finds the same server, in another channel too; keys are spread."""
    servers = [await start_server(name) for name in (b"a", b"b", b"c")]
    target = "static:///" + ",".join(server.address for server in servers)
    config = ChannelConfig(hash_key=hash_key)
    owners = defaultdict(set)
    for _ in range(2):
        async with balancer.channel(target, policy=policy, config=config) as channel:
            await only(channel, "a", "b", "c")
            call = multicallable(channel)
            for key in KEYS * 3:
                request, options = about(key)
                owners[key].add((await call(request, **options)).partition(b":")[0])
    assert all(len(each) == 1 for each in owners.values())
    assert 1 < len(set.union(*owners.values()))
