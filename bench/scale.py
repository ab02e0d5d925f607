"""Ten thousand endpoints: the first list, and what one change costs.

The method stands in `bench.discovery`. Run as a module this file is the process that is
measured; `measure` fills etcd and makes the changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import grpc.aio

import balancer
from bench.bare_etcd import BareEtcd
from bench.peers import Peer, commands, run_role, tell
from discovery import (
    Endpoint,
    EtcdClient,
    EtcdResolver,
    ResolverState,
    encode_key,
    encode_value,
)

SERVICE: Final = "bench/scale"
LISTS: Final = 5
_QUIET_CPU_S: Final = 0.02
_QUIET_EVERY_S: Final = 0.5
# Above the resolver's report_every_s, so that every change is a state of its own.
PACE_S: Final = 0.05
LIST_TIMEOUT_S: Final = 60.0
_PARALLEL_PUTS: Final = 64
_GRPC_SERVICES: Final = (
    "tallystick.ledger.v1.LedgerService",
    "tallystick.txn.v1.ParticipantService",
    "grpc.health.v1.Health",
)


def fleet(size: int, port: int) -> list[Endpoint]:
    """`size` endpoints on one port of as many loopback addresses, with full metadata."""
    return [
        Endpoint(
            f"127.1.{number // 250}.{number % 250 + 1}:{port}",
            id=f"0197c0de-0000-7000-8000-{number:012x}",
            zone=f"zone-{'abc'[number % 3]}",
            weight=100,
            version="0",
            services=_GRPC_SERVICES,
            started_at="2026-01-01T00:00:00Z",
        )
        for number in range(size)
    ]


# --- who is measured ---


class Listener:
    """Counts states, and knows when `size` endpoints were there for the first time."""

    def __init__(self, size: int) -> None:
        self.states = 0
        self.complete = asyncio.Event()
        self._size = size

    def __call__(self, state: ResolverState) -> None:
        """The listener."""
        self.states += 1
        if state.resolved and len(state.endpoints) == self._size:
            self.complete.set()


async def follow(etcd: str, size: int, channel: bool) -> None:
    """Lists LISTS times, tells how long each took, then follows and answers with its CPU time."""
    tell(list_s=[await _listed(etcd, size) for _ in range(LISTS)])
    client = EtcdClient([etcd])
    resolver, listener = EtcdResolver(client), Listener(size)
    resolver.subscribe(SERVICE, listener)
    async with contextlib.AsyncExitStack() as stack:
        await listener.complete.wait()
        if channel:
            balanced = balancer.channel(f"etcd:///{SERVICE}", resolver=resolver)
            await stack.enter_async_context(balanced)
            await balanced.channel_ready()
        async for _ in commands():
            tell(cpu_s=time.process_time(), at_s=time.monotonic(), states=listener.states)
    await resolver.close()
    await client.close()


async def _listed(etcd: str, size: int) -> float:
    client = EtcdClient([etcd])
    resolver, listener = EtcdResolver(client), Listener(size)
    began_at = time.perf_counter()
    resolver.subscribe(SERVICE, listener)
    async with asyncio.timeout(LIST_TIMEOUT_S):
        await listener.complete.wait()
    took_s = time.perf_counter() - began_at
    await resolver.close()
    await client.close()
    return took_s


# --- who measures ---


async def measure(etcd: str, size: int, changes: int, idle_s: float) -> dict[str, Any]:
    """Lists of `size` endpoints, and `changes` single changes of them."""
    writer = BareEtcd(etcd)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(writer.close)
        endpoints = fleet(size, await _listen_everywhere(stack))
        stored_bytes = await _fill(writer, endpoints)
        result: dict[str, Any] = {"endpoints": size, "stored_mib": round(stored_bytes / 2**20, 2)}
        for name, channel in (("listener", False), ("channel", True)):
            peer = Peer("bench.scale", "follow", etcd=etcd, size=size, channel=channel)
            async with peer:
                list_s = (await peer.hear())["list_s"]
                result[name] = await _change(peer, writer, endpoints, changes, idle_s)
                result[name]["list_s"] = [round(each, 3) for each in list_s]
        return result


async def _listen_everywhere(stack: contextlib.AsyncExitStack) -> int:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("0.0.0.0:0")
    await server.start()
    stack.push_async_callback(server.stop, None)
    return port


async def _fill(writer: BareEtcd, endpoints: Sequence[Endpoint]) -> int:
    """Puts them all; returns the bytes of keys and values."""
    pairs = [(encode_key(SERVICE, each), encode_value(each)) for each in endpoints]
    for start in range(0, len(pairs), _PARALLEL_PUTS):
        batch = pairs[start : start + _PARALLEL_PUTS]
        await asyncio.gather(*(writer.put(key, value) for key, value in batch))
    return sum(len(key) + len(value) for key, value in pairs)


async def _change(
    peer: Peer, writer: BareEtcd, endpoints: Sequence[Endpoint], changes: int, idle_s: float
) -> dict[str, Any]:
    """CPU time of the peer for one change, less what it uses when nothing changes."""
    rng = random.Random(0)  # noqa: S311 - not secret
    # A name no earlier series has written: an equal value would be no change.
    series = f"{time.monotonic_ns():x}"
    await _settled(peer)
    before = await peer.ask("cpu")
    await asyncio.sleep(idle_s)
    idle = await peer.ask("cpu")
    for number in range(changes):
        endpoint = replace(rng.choice(endpoints), version=f"{series}-{number}")
        await writer.put(encode_key(SERVICE, endpoint), encode_value(endpoint))
        await asyncio.sleep(PACE_S)
    after = await peer.ask("cpu")
    idle_share = (idle["cpu_s"] - before["cpu_s"]) / (idle["at_s"] - before["at_s"])
    busy_s = (after["cpu_s"] - idle["cpu_s"]) - idle_share * (after["at_s"] - idle["at_s"])
    return {
        "change_cpu_ms": round(busy_s * 1000 / changes, 3),
        "states": after["states"] - idle["states"],
        "idle_core_share": round(idle_share, 5),
    }


async def _settled(peer: Peer) -> None:
    """Waits until the peer has connected to whom it wants and is quiet."""
    former = await peer.ask("cpu")
    while True:
        await asyncio.sleep(_QUIET_EVERY_S)
        now = await peer.ask("cpu")
        if now["cpu_s"] - former["cpu_s"] < _QUIET_CPU_S:
            return
        former = now


if __name__ == "__main__":
    asyncio.run(run_role({"follow": follow}))
