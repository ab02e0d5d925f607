"""How long a registration takes to a picker, beside a bare watch of the same puts.

The method stands in `bench.discovery`. Run as a module this file is one of the two
watchers; `measure` is the writer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import grpc.aio
from tallystick.etcd.v3 import etcd_pb2 as pb

import balancer
from balancer import Picker, Policy, PolicyContext, Subchannel, policy_named
from bench.bare_etcd import BareEtcd
from bench.peers import Peer, commands, run_role, tell
from bench.stats import percentile, spread
from discovery import (
    Endpoint,
    EtcdClient,
    EtcdResolver,
    ResolverState,
    decode_value,
    encode_key,
    encode_value,
    service_prefix,
)
from tests.support.waiting import eventually

SERVICE: Final = "bench/propagation"
SERVERS: Final = 8
WARM_UP_SHARE: Final = 0.05
# Above the resolver's report_every_s: what is measured is one registration, not a queue.
PACE_S: Final = 0.03
# Said later than seen, so that the telling does not disturb the other watcher.
_TELL_AFTER_S: Final = 0.01

# As our subchannels have it: otherwise gRPC shares connections between channels.
_OWN_CONNECTION: Final = [("grpc.use_local_subchannel_pool", 1)]
SEEN_TIMEOUT_S: Final = 30.0
_STAGES: Final = ("bare", "bare_connected", "listener", "picker")
_RATIOS: Final = (("listener", "bare"), ("picker", "bare"))
_RATIOS_ANEW: Final = (*_RATIOS, ("picker", "bare_connected"))

Sightings = dict[str, dict[int, int]]


# --- the watchers ---


class Notes:
    """When each registration, known by the number in its version, was seen first."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._last = -1

    def see(self, endpoint: Endpoint, at_ns: int) -> None:
        """Tells the parent, unless this registration was seen here before."""
        number = int(endpoint.version)
        if number > self._last and not endpoint.draining:
            self._last = number
            tell_later = asyncio.get_running_loop().call_later
            tell_later(_TELL_AFTER_S, lambda: tell(stage=self._stage, number=number, at_ns=at_ns))


class WatchedPolicy:
    """Round robin that says when a picker with a new registration was built."""

    def __init__(self, notes: Notes) -> None:
        self._policy: Policy = policy_named("round_robin", PolicyContext(rng=random.Random(0)))  # noqa: S311 - not secret
        self._notes = notes

    def build(self, subchannels: Sequence[Subchannel]) -> Picker:
        """As round robin."""
        picker = self._policy.build(subchannels)
        at_ns = time.monotonic_ns()
        self._notes.see(_newest([each.endpoint for each in subchannels]), at_ns)
        return picker


def _newest(endpoints: Sequence[Endpoint]) -> Endpoint:
    return max(endpoints, key=lambda each: int(each.version))


class BareWatcher:
    """A watch on a plain channel, and a plain channel to each address that is new."""

    def __init__(self, etcd: str) -> None:
        self._etcd = BareEtcd(etcd)
        self._seen, self._connected = Notes("bare"), Notes("bare_connected")
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._connecting: set[asyncio.Task[None]] = set()

    async def follow(self) -> None:
        """Watches for ever."""
        async for reply in self._etcd.watch(service_prefix(SERVICE)):
            at_ns = time.monotonic_ns()
            if reply.created:
                tell(stage="ready")
            for event in reply.events:
                await self._take(event, at_ns)

    async def close(self) -> None:
        """Closes every channel."""
        for channel in self._channels.values():
            await channel.close(None)
        await self._etcd.close()

    async def _take(self, event: pb.Event, at_ns: int) -> None:
        address = event.kv.key.rpartition(b"/")[2].decode()
        if not event.kv.value:
            await self._channels.pop(address).close(None)
            return
        endpoint = decode_value(event.kv.value)
        self._seen.see(endpoint, at_ns)
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address, options=_OWN_CONNECTION)
            task = asyncio.ensure_future(self._connect(endpoint))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, endpoint: Endpoint) -> None:
        await self._channels[endpoint.address].channel_ready()
        self._connected.see(endpoint, time.monotonic_ns())


async def watch_bare(etcd: str) -> None:
    """The bare watcher."""
    watcher = BareWatcher(etcd)
    await _until_told_to_end(watcher.follow())
    await watcher.close()


async def watch_picker(etcd: str) -> None:
    """The watcher with a balanced channel; hears what the resolver says, too."""
    client, notes = EtcdClient([etcd]), Notes("listener")
    resolver = EtcdResolver(client)

    def listen(state: ResolverState) -> None:
        if state.endpoints:
            notes.see(_newest(state.endpoints), time.monotonic_ns())

    resolver.subscribe(SERVICE, listen)
    policy = WatchedPolicy(Notes("picker"))
    async with balancer.channel(f"etcd:///{SERVICE}", resolver=resolver, policy=policy) as channel:
        await channel.channel_ready()
        tell(stage="ready")
        await _until_told_to_end(asyncio.Event().wait())
    await resolver.close()
    await client.close()


async def _until_told_to_end(work: Awaitable[Any]) -> None:
    working = asyncio.ensure_future(work)
    async for _ in commands():
        pass
    working.cancel()
    await asyncio.wait({working})


# --- the writer ---


class Writer:
    """Registers endpoints and gathers when the watchers saw them."""

    def __init__(self, etcd: str, peers: Sequence[Peer], addresses: Sequence[str]) -> None:
        self._etcd = BareEtcd(etcd)
        self._peers = peers
        self._addresses = itertools.cycle(addresses)
        self._numbers = itertools.count()
        self._put_at: dict[int, int] = {}
        self._seen: Sightings = {stage: {} for stage in _STAGES}
        self._hearing: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Registers everybody and waits until both watchers follow."""
        for _ in range(SERVERS):
            await self._write(self._next())
        for peer in self._peers:
            while (await peer.hear())["stage"] != "ready":
                pass
            self._hearing.append(asyncio.ensure_future(self._listen(peer)))

    async def again(self) -> int:
        """Registers one that is there, with a new version; returns its number."""
        return await self._register(self._next(), ("bare", "listener", "picker"))

    async def anew(self) -> int:
        """Takes one away and registers it again; returns its number."""
        endpoint = self._next()
        await self._write(replace(endpoint, draining=True))
        await self._etcd.delete(encode_key(SERVICE, endpoint))
        # Two reports of the resolver, and the closing of connections.
        await asyncio.sleep(2 * PACE_S)
        return await self._register(endpoint, _STAGES)

    def latencies_ms(self, numbers: Sequence[int], stage: str) -> list[float]:
        """From the put until seen at `stage`, in the order of `numbers`."""
        seen = self._seen[stage]
        return [(seen[number] - self._put_at[number]) / 1e6 for number in numbers]

    async def close(self) -> None:
        """Ends the connection to etcd and the listening."""
        for task in self._hearing:
            task.cancel()
        await asyncio.gather(*self._hearing, return_exceptions=True)
        await self._etcd.close()

    def _next(self) -> Endpoint:
        address = next(self._addresses)
        return Endpoint(address, id=f"at-{address}", zone="a", version=str(next(self._numbers)))

    async def _register(self, endpoint: Endpoint, stages: Sequence[str]) -> int:
        number = int(endpoint.version)
        self._put_at[number] = time.monotonic_ns()
        await self._write(endpoint)
        await asyncio.sleep(PACE_S)
        await eventually(
            lambda: all(number in self._seen[stage] for stage in stages), SEEN_TIMEOUT_S
        )
        return number

    async def _write(self, endpoint: Endpoint) -> None:
        await self._etcd.put(encode_key(SERVICE, endpoint), encode_value(endpoint))

    async def _listen(self, peer: Peer) -> None:
        while True:
            said = await peer.hear(None)
            self._seen[said["stage"]].setdefault(said["number"], said["at_ns"])


async def measure(etcd: str, puts: int) -> dict[str, Any]:
    """`puts` registrations of connected endpoints and as many of new ones."""
    async with contextlib.AsyncExitStack() as stack:
        addresses = [await _listening_server(stack) for _ in range(SERVERS)]
        names = ("watch_bare", "watch_picker")
        peers = [
            await stack.enter_async_context(Peer("bench.propagation", name, etcd=etcd))
            for name in names
        ]
        writer = Writer(etcd, peers, addresses)
        stack.push_async_callback(writer.close)
        await writer.start()
        again = await _series(writer.again, puts)
        anew = await _series(writer.anew, puts)
        return {
            "connected": _compared(writer, again, _RATIOS),
            "connecting": _compared(writer, anew, _RATIOS_ANEW),
        }


async def _series(register: Callable[[], Awaitable[int]], puts: int) -> list[int]:
    warm_up = round(puts * WARM_UP_SHARE)
    return [await register() for _ in range(warm_up + puts)][warm_up:]


async def _listening_server(stack: contextlib.AsyncExitStack) -> str:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stack.push_async_callback(server.stop, None)
    return f"127.0.0.1:{port}"


def _compared(
    writer: Writer, numbers: Sequence[int], ratios: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    stages = dict.fromkeys(itertools.chain.from_iterable(ratios))
    series = {stage: writer.latencies_ms(numbers, stage) for stage in stages}
    result: dict[str, Any] = {f"{stage}_ms": spread(series[stage]) for stage in series}
    for ours, plain in ratios:
        result[f"{ours}_vs_{plain}"] = _ratios(series[ours], series[plain])
    return result


def _ratios(ours: Sequence[float], plain: Sequence[float]) -> dict[str, float]:
    pairs = [mine / its for mine, its in zip(ours, plain, strict=True)]
    return {
        "p50": round(statistics.median(pairs), 3),
        "p99": round(percentile(pairs, 99), 3),
        "of_p50s": round(statistics.median(ours) / statistics.median(plain), 3),
        "of_p99s": round(percentile(ours, 99) / percentile(plain, 99), 3),
    }


_ROLES = {"watch_bare": watch_bare, "watch_picker": watch_picker}

if __name__ == "__main__":
    asyncio.run(run_role(_ROLES))
