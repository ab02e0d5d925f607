"""Fault row 33: random bytes at every port. The processes live, and are afterwards as before."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.order.v1 import order_service_pb2
from tallystick.txn.v1 import coordinator_service_pb2, participant_service_pb2
from tallystick.wallet.v1 import wallet_service_pb2

from services.edge import OUR_METHODS
from services.metrics_page import CONNECTIONS_MAX
from tests.integration.test_metrics import page
from tests.support.mesh import Mesh, Shop
from tests.support.messages import any_message
from tests.support.waiting import eventually

SEED = 33
CALL_TIMEOUT_S = 3.0
SETTLED_S = 30.0
ANSWER_S = 0.2
HELD_CONNECTIONS = 2 * CONNECTIONS_MAX
FLEETING_CONNECTIONS = 150
MESSAGES_OF_A_METHOD = 12
# Threads, and descriptors, that a service starts when it needs them first: that which reads, at the
# first look for what is in doubt. What a connection left behind would be there a hundred times.
ON_FIRST_USE = 2
# What Python's and C's allocators keep of a second round that was as long as the first.
MEMORY_GROWTH_MAX_KIB = 12 * 1024

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Types of frames (RFC 9113, section 6).
DATA, HEADERS, RESET, SETTINGS, PING, GO_AWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
FORGED = b'{"event": "forged"}'
CLIENT_HELLO = bytes.fromhex("16030100a5010000a10303") + bytes(160)
Attack = Callable[[random.Random], bytes]

SERVICES: dict[str, Sequence[ModuleType]] = {
    "order": (order_service_pb2, participant_service_pb2),
    "ledger": (ledger_service_pb2, participant_service_pb2),
    "wallet": (wallet_service_pb2,),
    "coordinator": (coordinator_service_pb2,),
}
COMMON = (health_pb2, channelz_pb2, reflection_pb2)


def frame(kind: int, payload: bytes, *, flags: int = 0, stream: int = 0, size: int = -1) -> bytes:
    """One of HTTP/2 (RFC 9113, section 4.1); `size` is what it says of its payload's length."""
    length = len(payload) if size < 0 else size
    return struct.pack(">I", length)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


# A connection may say why it ends (RFC 9113, section 6.8), and gRPC's core would log that.
FAREWELL = frame(GO_AWAY, bytes(8) + b"\n" + FORGED + b"\n")


def garbage(rng: random.Random) -> bytes:
    """Anything at all."""
    return rng.randbytes(rng.choice((1, 24, 1000, 70_000)))


def half_a_preface(rng: random.Random) -> bytes:
    """It begins like HTTP/2, and ends."""
    return PREFACE[: rng.randrange(1, len(PREFACE))]


def no_frames(rng: random.Random) -> bytes:
    """HTTP/2, and then not."""
    return PREFACE + garbage(rng)


def wrong_frames(rng: random.Random) -> bytes:
    """Frames of every kind, with anything in them, on any stream."""
    sent = PREFACE + frame(SETTINGS, b"")
    for _ in range(20):
        kind = rng.choice((*range(10), 99))
        payload = rng.randbytes(rng.randrange(60))
        sent += frame(kind, payload, flags=rng.randrange(256), stream=rng.choice((0, 1, 2, 3)))
    return sent + FAREWELL


def a_frame_of_16_mib(rng: random.Random) -> bytes:
    """At least that is what it says."""
    sent = PREFACE + frame(SETTINGS, b"")
    return sent + frame(DATA, rng.randbytes(999), stream=1, size=2**24 - 1)


def headers_without_end(rng: random.Random) -> bytes:
    """A block of headers that goes on and on: each a literal that is new (RFC 7541, 6.2.2)."""
    field = b"\0" + b"\x7f\x21" + b"a" * 160 + b"\x7f\x21" + rng.randbytes(160)
    sent = PREFACE + frame(SETTINGS, b"") + frame(HEADERS, field * 40, stream=1)
    return sent + frame(CONTINUATION, field * 40, stream=1) * 20


def a_flood(_: random.Random) -> bytes:
    """Pings, settings and streams that are reset at once."""
    sent = PREFACE + (frame(SETTINGS, b"") + frame(PING, bytes(8))) * 200
    for stream in range(1, 400, 2):
        sent += frame(HEADERS, b"\x83\x86\x84", flags=4, stream=stream)
        sent += frame(RESET, bytes(4), stream=stream)
    return sent


def another_protocol(rng: random.Random) -> bytes:
    """TLS, HTTP/1.1 that is none, and HTTP/1.1 that is."""
    return rng.choice(
        (
            CLIENT_HELLO,
            b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 3,
            b"POST /metrics HTTP/1.1\r\nContent-Length: -1\r\nTransfer-Encoding: x\r\n\r\n",
            b"GET /" + b"a" * 100_000,
            b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 5000,
            b"\r\n\r\n" * 1000,
            b"GET /metrics HTTP/1.1\r\nAccept: \xff;version=\xff,=;\r\n\r\n",
        )
    )


ATTACKS: tuple[Attack, ...] = (
    garbage,
    half_a_preface,
    no_frames,
    wrong_frames,
    a_frame_of_16_mib,
    headers_without_end,
    a_flood,
    another_protocol,
    another_protocol,
)


@dataclass(frozen=True, slots=True)
class Use:
    """What a process holds of the system."""

    descriptors: int
    threads: int
    memory_kib: int


def use_of(pid: int) -> Use:
    """As the kernel says. Raises OSError when there is no such process."""
    status = Path(f"/proc/{pid}/status").read_text()
    numbers = {
        name: int(number) for name, number in re.findall(r"^(\w+):\s*(\d+)", status, re.MULTILINE)
    }
    descriptors = len([*Path(f"/proc/{pid}/fd").iterdir()])
    return Use(descriptors, numbers["Threads"], numbers["VmRSS"])


async def sent(port: int, content: bytes, *, abruptly: bool) -> None:
    """Sends `content`, hears what comes to that, and leaves, in order or by a reset."""
    with contextlib.suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(content)
            async with asyncio.timeout(ANSWER_S):
                await writer.drain()
                while await reader.read(2**16):
                    pass
        finally:
            if abruptly:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
            writer.close()


async def fleeting(port: int) -> None:
    """Connections that say nothing."""
    for _ in range(FLEETING_CONNECTIONS):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()


@contextlib.asynccontextmanager
async def slow_ones(ports: Sequence[int]) -> AsyncIterator[None]:
    """While it lasts, connections to each port that say one byte after the other."""
    streams = [
        await asyncio.open_connection("127.0.0.1", port)
        for port in ports
        for _ in range(HELD_CONNECTIONS)
    ]

    async def drip(number: int) -> None:
        content = (PREFACE, b"GET /metrics HTTP/1.1\r\n")[number % 2]
        for at in range(len(content)):
            with contextlib.suppress(OSError):
                streams[number][1].write(content[at : at + 1])
                await streams[number][1].drain()
            await asyncio.sleep(ANSWER_S)

    async with asyncio.TaskGroup() as dripping:
        tasks = [dripping.create_task(drip(number)) for number in range(len(streams))]
        try:
            yield
        finally:
            for task, (_, writer) in zip(tasks, streams, strict=True):
                task.cancel()
                writer.close()


def methods(modules: Sequence[ModuleType]) -> Iterator[tuple[str, type[Message]]]:
    """Every method of them: its path, and the type of its request."""
    for module in modules:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield (
                    f"/{service.full_name}/{method.name}",
                    getattr(module, method.input_type.name),
                )


async def wrong_answers(address: str, modules: Sequence[ModuleType]) -> set[str]:
    """Sends any messages, and what is none, to all methods; what is wrong with the answers."""
    rng = random.Random(SEED)
    wrong: set[str] = set()
    async with grpc.aio.insecure_channel(address) as channel:
        for path, kind in methods((*modules, *COMMON)):
            for number in range(MESSAGES_OF_A_METHOD):
                raw = any_message(kind, rng).SerializeToString() if number else rng.randbytes(50)
                # On the wire all four kinds of calls are one.
                multicallable: Any = channel.stream_stream(path)
                call = multicallable(iter([raw]), timeout=CALL_TIMEOUT_S)
                wrong |= await shows_the_inside(path, call)
    return wrong


async def shows_the_inside(path: str, call: Any) -> set[str]:
    """What of the end of a call only the inside of a service can have said."""
    try:
        while await call.read() is not grpc.aio.EOF:
            if path.endswith("/Watch"):
                # It does not end by itself.
                call.cancel()
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        # How it ended is looked at below.
        pass
    code, details = await call.code(), await call.details() or ""
    is_ours = path.startswith(OUR_METHODS)
    fits = code is not grpc.StatusCode.UNKNOWN or not is_ours
    if code is grpc.StatusCode.INTERNAL and is_ours:
        fits = details == "the request is no message"
    return set() if fits and "Traceback" not in details else {f"{path}: {code.name} {details}"}


async def attacked(ports: Sequence[int], shop: Shop, rng: random.Random) -> None:
    """One round of everything, with a payment in its midst."""
    await asyncio.gather(
        *(
            sent(port, attack(rng), abruptly=rng.random() < 0.5)
            for port in ports
            for attack in ATTACKS
        )
    )
    await asyncio.gather(*map(fleeting, ports))
    async with slow_ones(ports):
        await shop.pay_until_final(await shop.trade(), within_s=SETTLED_S)


def uses(mesh: Mesh) -> dict[str, Use]:
    """What each process holds; raises when one has ended."""
    return {name: use_of(process.pid) for name, process in mesh.processes.items()}


async def settled(mesh: Mesh, before: dict[str, Use]) -> dict[str, Use]:
    """Waits until every process holds no more than `before`, but for what is ON_FIRST_USE."""

    def is_as_before() -> bool:
        now = uses(mesh)
        more = {
            name: (before[name], use)
            for name, use in now.items()
            if use.descriptors > before[name].descriptors + ON_FIRST_USE
            or use.threads > before[name].threads + ON_FIRST_USE
        }
        assert not more, more
        return True

    await eventually(is_as_before, timeout_s=SETTLED_S, what="as before")
    return uses(mesh)


async def test_row_33_random_bytes_at_every_port(shared_mesh: Mesh, shop: Shop) -> None:
    """Payments go on, no process ends or keeps a descriptor, a thread or memory of it."""
    mesh, rng = shared_mesh, random.Random(SEED)
    pids = {name: process.pid for name, process in mesh.processes.items()}
    ports = [int(each.address.rpartition(":")[2]) for each in mesh.processes.values()]
    ports += [each.metrics_port for each in mesh.processes.values()]
    await shop.pay_until_final(await shop.trade(), within_s=SETTLED_S)
    before = uses(mesh)
    await attacked(ports, shop, rng)
    first = await settled(mesh, before)
    await attacked(ports, shop, rng)
    second = await settled(mesh, before)
    grown = {name: second[name].memory_kib - first[name].memory_kib for name in first}
    assert max(grown.values()) < MEMORY_GROWTH_MAX_KIB, grown
    assert pids == {name: process.pid for name, process in mesh.processes.items()}
    for process in mesh.processes.values():
        await process.serving()
        # Whoever connects writes nothing into the log.
        assert all(each.startswith('{"') for each in process.log.splitlines())
        assert FORGED.decode() not in process.log
        assert "process_open_fds" in await asyncio.to_thread(page, process.metrics_port)
    assert 3 * 350 == (await shop.balance(shop.merchant)).posted_minor


async def test_row_33_any_message_at_every_method(shared_mesh: Mesh, shop: Shop) -> None:
    """Every answer is one that a caller may see, no service meets anything unforeseen."""
    mesh = shared_mesh
    wrong = await asyncio.gather(
        *(
            wrong_answers(mesh.processes[f"{service}-0"].address, modules)
            for service, modules in SERVICES.items()
        )
    )
    assert set() == set().union(*wrong)
    for process in mesh.processes.values():
        # What gRPC's own services make of what is no message it logs by itself.
        lines = [each for each in process.log.splitlines() if "method [/grpc." not in each]
        assert [] == [each for each in lines if "Traceback" in each]
    await shop.pay_until_final(await shop.trade(), within_s=SETTLED_S)
