"""What an absent etcd costs, and what it does not: CPU, calls, registrations.

The method stands in `bench.discovery`. Run as a module this file is one of the processes
of a small mesh; the functions at the end are who breaks its etcd.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import grpc.aio

import balancer
from bench.peers import Peer, commands, run_role, tell
from discovery import (
    Endpoint,
    EtcdClient,
    EtcdResolver,
    Registrar,
    ResolverState,
    encode_key,
)
from discovery.session import DEFAULT_TTL_S
from tests.balancer.echo import UNARY_UNARY, EchoServer
from tests.support.etcd import EtcdProcess
from tests.support.waiting import eventually

SERVICE: Final = "bench/outage"
SERVICES: Final = 3
CALLERS: Final = 4
CALL_TIMEOUT_S: Final = 5.0
CALL_EVERY_S: Final = 0.01
KILLS: Final = 6
BACK_TIMEOUT_S: Final = 60.0
_SETTLE_S: Final = 1.0


# --- the mesh ---


async def idle(etcd: str) -> None:
    """A registrar and two resolvers, each with a client of its own; answers with its CPU time."""
    clients = [EtcdClient([etcd]) for _ in range(3)]
    registrar = Registrar(clients[0])
    registration = await registrar.register(SERVICE, Endpoint("127.0.0.1:1"))
    resolvers = [EtcdResolver(client) for client in clients[1:]]
    resolved = [asyncio.Event() for _ in resolvers]
    for resolver, event in zip(resolvers, resolved, strict=True):
        resolver.subscribe(SERVICE, partial(_note, event))
    await asyncio.gather(registration.registered.wait(), *(event.wait() for event in resolved))
    tell(ready=True)
    async for _ in commands():
        tell(cpu_s=time.process_time(), at_s=time.monotonic())


def _note(resolved: asyncio.Event, state: ResolverState) -> None:
    if state.resolved:
        resolved.set()


async def service(etcd: str, ttl_s: float) -> None:
    """An echo server that registers itself."""
    server = await EchoServer().start()
    client = EtcdClient([etcd])
    registrar = Registrar(client, ttl_s)
    registration = await registrar.register(SERVICE, Endpoint(server.address))
    await registration.registered.wait()
    tell(address=server.address)
    async for _ in commands():
        pass
    await registrar.close()
    await client.close()
    await server.stop()


async def caller(etcd: str) -> None:
    """Calls over a balanced channel without a pause; answers with how the calls ended."""
    client = EtcdClient([etcd])
    resolver = EtcdResolver(client)
    outcomes: Counter[str] = Counter()
    async with balancer.channel(f"etcd:///{SERVICE}", resolver=resolver) as channel:
        await channel.channel_ready()
        echo: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(UNARY_UNARY)

        async def call() -> None:
            while True:
                try:
                    await echo(b"load", timeout=CALL_TIMEOUT_S)
                    outcomes["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    outcomes[error.code().name] += 1
                await asyncio.sleep(CALL_EVERY_S)

        calling = [asyncio.ensure_future(call()) for _ in range(CALLERS)]
        tell(ready=True)
        async for _ in commands():
            tell(outcomes=outcomes)
        for task in calling:
            task.cancel()
        await asyncio.gather(*calling, return_exceptions=True)
    await resolver.close()
    await client.close()


# --- who breaks it ---


async def measure_idle(outage_s: float) -> dict[str, Any]:
    """Share of a core while etcd is there, killed, and stopped; `outage_s` each."""
    result: dict[str, Any] = {"outage_s": outage_s}
    with EtcdProcess() as etcd:
        async with Peer("bench.outage", "idle", etcd=etcd.endpoint) as peer:
            await peer.hear()
            await asyncio.sleep(_SETTLE_S)
            result["up_core_share"] = await _share(peer, outage_s)
            etcd.freeze()
            result["silent_core_share"] = await _share(peer, outage_s)
            etcd.thaw()
            await asyncio.sleep(_SETTLE_S)
            etcd.kill9()
            result["down_core_share"] = await _share(peer, outage_s)
    return result


async def _share(peer: Peer, for_s: float) -> float:
    before = await peer.ask("cpu")
    await asyncio.sleep(for_s)
    after = await peer.ask("cpu")
    share: float = (after["cpu_s"] - before["cpu_s"]) / (after["at_s"] - before["at_s"])
    return round(share, 5)


async def measure_outage(outage_s: float, ttl_s: float = DEFAULT_TTL_S) -> dict[str, Any]:
    """Kills etcd under load, brings it back with its data, then once more with none.

    Raises ValueError unless the leases end meanwhile: a registration that is back is
    known by its new lease.
    """
    if outage_s <= 1.5 * ttl_s:
        raise ValueError("the outage must outlast the leases")
    result: dict[str, Any] = {"outage_s": outage_s, "ttl_s": ttl_s}
    async with contextlib.AsyncExitStack() as stack:
        etcd = stack.enter_context(EtcdProcess())
        keys = [await _started(stack, etcd.endpoint, ttl_s) for _ in range(SERVICES)]
        calling = await stack.enter_async_context(
            Peer("bench.outage", "caller", etcd=etcd.endpoint)
        )
        await calling.hear()
        for name, empty in (("kept", False), ("emptied", True)):
            result[name] = await _outage(etcd, keys, calling, outage_s, ttl_s, empty=empty)
    return result


async def _started(stack: contextlib.AsyncExitStack, etcd: str, ttl_s: float) -> str:
    peer = Peer("bench.outage", "service", etcd=etcd, ttl_s=ttl_s)
    await stack.enter_async_context(peer)
    address = (await peer.hear())["address"]
    return encode_key(SERVICE, Endpoint(address)).decode()


async def _outage(
    etcd: EtcdProcess,
    keys: list[str],
    calling: Peer,
    outage_s: float,
    ttl_s: float,
    *,
    empty: bool,
) -> dict[str, Any]:
    former = {etcd.lease_of(key) for key in keys}
    before = Counter((await calling.ask("outcomes"))["outcomes"])
    etcd.kill9()
    await asyncio.sleep(outage_s)
    await asyncio.to_thread(etcd.restart, empty=empty)
    back_at = time.monotonic()
    await eventually(
        lambda: {etcd.lease_of(key) for key in keys}.isdisjoint(former | {0}), BACK_TIMEOUT_S
    )
    registered_s = time.monotonic() - back_at
    # Whatever the return breaks shows until the old leases are surely gone.
    await asyncio.sleep(_SETTLE_S + ttl_s)
    calls = Counter((await calling.ask("outcomes"))["outcomes"]) - before
    return {
        "registered_again_s": round(registered_s, 2),
        "calls": calls.total(),
        "failed_calls": calls.total() - calls["OK"],
        "failures": {code: count for code, count in calls.items() if code != "OK"},
    }


async def measure_kills(ttl_s: float = DEFAULT_TTL_S, kills: int = KILLS) -> dict[str, Any]:
    """Seconds from kill -9 of a service until it is gone from a client's list."""
    async with contextlib.AsyncExitStack() as stack:
        etcd = stack.enter_context(EtcdProcess())
        client = EtcdClient([etcd.endpoint])
        stack.push_async_callback(client.close)
        resolver = EtcdResolver(client)
        stack.push_async_callback(resolver.close)
        peers: dict[str, Peer] = {}
        for _ in range(kills + 1):
            peer = Peer("bench.outage", "service", etcd=etcd.endpoint, ttl_s=ttl_s)
            await stack.enter_async_context(peer)
            peers[(await peer.hear())["address"]] = peer
        gone = _Gone()
        resolver.subscribe(SERVICE, gone)
        gone_s = await _kill_all_but_one(peers, gone, ttl_s)
    return {"ttl_s": ttl_s, "kills": kills, "gone_s_max": round(max(gone_s), 2)}


class _Gone:
    """A listener that knows who was there and since when not."""

    def __init__(self) -> None:
        self.present: frozenset[str] = frozenset()
        self.since: dict[str, float] = {}

    def __call__(self, state: ResolverState) -> None:
        now = frozenset(each.address for each in state.endpoints)
        for address in self.present - now:
            self.since[address] = time.monotonic()
        self.present = now


async def _kill_all_but_one(peers: dict[str, Peer], gone: _Gone, ttl_s: float) -> list[float]:
    await eventually(lambda: len(gone.present) == len(peers))
    killed: dict[str, float] = {}
    victims = dict(list(peers.items())[1:])
    for address, peer in victims.items():
        peer.kill9()
        killed[address] = time.monotonic()
        # Spread over the time between two renewals: worst is a kill right after one.
        await asyncio.sleep(ttl_s / 3 / len(victims))
    await eventually(lambda: victims.keys() <= gone.since.keys(), BACK_TIMEOUT_S)
    return [gone.since[address] - at for address, at in killed.items()]


_ROLES: dict[str, Callable[..., Awaitable[None]]] = {
    "idle": idle,
    "service": service,
    "caller": caller,
}

if __name__ == "__main__":
    asyncio.run(run_role(_ROLES))
