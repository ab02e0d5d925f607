"""Calls of threads that are about the same thing go to the same server."""

from __future__ import annotations

from collections import defaultdict

import pytest

from balancer import ChannelConfig, HashKey
from balancer.sync_channel import sync_channel
from tests.balancer.sync.conftest import StartServer
from tests.balancer.sync.waiting import eventually
from tests.balancer.test_keys_of_calls import ALL_WAYS, KEYS, about, multicallable


@ALL_WAYS
@pytest.mark.parametrize("policy", ["ring_hash", "hash"])
def test_a_key_has_one_owner(start_server: StartServer, policy: str, hash_key: HashKey) -> None:
    """Every call about a key finds the same server; keys are spread."""
    servers = [start_server(name) for name in (b"a", b"b", b"c")]
    target = "static:///" + ",".join(server.address for server in servers)
    config = ChannelConfig(hash_key=hash_key)
    owners = defaultdict(set)
    with sync_channel(target, policy=policy, config=config) as channel:
        eventually(lambda: "3 of 3" in channel.describe())
        call = multicallable(channel)
        for key in KEYS * 3:
            request, options = about(key)
            owners[key].add(call(request, **options).partition(b":")[0])
    assert all(len(each) == 1 for each in owners.values())
    assert 1 < len(set.union(*owners.values()))
