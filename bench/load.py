"""Who sends the payments: a process of its own, on uvloop, as lean as a client can be.

Requests are built and serialized before the clock starts, so that the cores are left to
whom is measured. Every answer is read, and one that is not OUTCOME_COMMITTED ends the
measurement. A rate is taken while as many are in flight as were asked for: from when
that many answers have come until the last request has left.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Final, Self

import grpc.aio
import uvloop
from tallystick.txn.v1 import coordinator_service_pb2 as pb

from bench.payments import Series
from bench.peers import Peer, commands, run_role, tell
from bench.stats import percentile

SERVICE: Final = "/tallystick.txn.v1.CoordinatorService"
ECHO: Final = "/tallystick.bench.Echo/Unary"
TIMEOUT_S: Final = 120.0
# Requests of one message of the stream.
GATHERED_MAX: Final = 64
# A row about as long as a decision.
_ROW: Final = b"x" * 300
_ROUNDS: Final = 3
_LOG_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Transactions to send: `count` of them, from payment `first` of a series on.

    `how` is stream, unary or echo; an echo gets the same requests, and makes no payments.
    Each transaction has `payments` payments, two branches each.
    """

    how: str
    address: str
    count: int
    in_flight: int
    series: Series
    first: int = 0
    payments: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """`count` times what a lone transaction cannot do without, measured bare.

    Three round trips to an echo, three commits of one row with synchronous=FULL to a
    database at `path`, whose log has its blocks already.
    """

    address: str
    path: str
    count: int
    series: Series


class Client:
    """The process, for whoever measures."""

    def __init__(self) -> None:
        self._peer = Peer("bench.load", "client")

    async def send(self, load: Load) -> dict[str, float]:
        """The rate per second, and the latencies in milliseconds."""
        return await self._peer.ask(json.dumps({"load": asdict(load)}), TIMEOUT_S)

    async def floor(self, floor: Floor) -> dict[str, float]:
        """Medians in milliseconds."""
        return await self._peer.ask(json.dumps({"floor": asdict(floor)}), TIMEOUT_S)

    async def pid(self) -> int:
        """Whom a profiler may want to look at."""
        return int((await self._peer.ask(json.dumps({"pid": {}})))["pid"])

    async def __aenter__(self) -> Self:
        await self._peer.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._peer.__aexit__(kind, error, trace)


class Meter:
    """The rate while `in_flight` are in flight, and how long each took."""

    def __init__(self, count: int, in_flight: int) -> None:
        """Raises ValueError when too few are sent for any rate at all."""
        if count < 3 * in_flight:
            raise ValueError(f"{count} transactions say nothing about {in_flight} in flight")
        self.latencies_ms: list[float] = []
        self._count = count
        self._in_flight = in_flight
        self._marks: list[tuple[float, int]] = []
        self._sent = 0

    def sent(self, count: int) -> None:
        """`count` more have left."""
        self._sent += count
        if self._sent == self._count:
            self._marks.append((time.perf_counter(), len(self.latencies_ms)))

    def answered(self, latencies_ms: list[float]) -> None:
        """So many more answers have come."""
        self.latencies_ms += latencies_ms
        if len(self.latencies_ms) >= self._in_flight and not self._marks:
            self._marks.append((time.perf_counter(), len(self.latencies_ms)))

    def figures(self) -> dict[str, float]:
        """What is told."""
        (began_s, before), (ended_s, until) = self._marks
        return {
            "rate": (until - before) / (ended_s - began_s),
            "p50_ms": statistics.median(self.latencies_ms),
            "p99_ms": percentile(self.latencies_ms, 99),
        }


async def client() -> None:
    """Does what it is asked to, one thing after the other."""
    channels: dict[str, grpc.aio.Channel] = {}

    def channel(address: str) -> grpc.aio.Channel:
        if address not in channels:
            channels[address] = grpc.aio.insecure_channel(address)
        return channels[address]

    async for line in commands():
        asked: dict[str, Any] = json.loads(line)
        if "load" in asked:
            load = Load(**asked["load"] | {"series": Series(**asked["load"]["series"])})
            tell(**await (_stream if load.how == "stream" else _unary)(channel(load.address), load))
        elif "floor" in asked:
            floor = Floor(**asked["floor"] | {"series": Series(**asked["floor"]["series"])})
            tell(**await _floor(channel(floor.address), floor))
        else:
            tell(pid=os.getpid())
    for each in channels.values():
        await each.close()


def _requests(load: Load) -> list[bytes]:
    return [
        load.series.request(load.first + at * load.payments, load.payments).SerializeToString()
        for at in range(load.count)
    ]


def _check(outcome: int, answer: object) -> None:
    if outcome != pb.OUTCOME_COMMITTED:
        raise RuntimeError(f"not committed: {answer}")


async def _stream(channel: grpc.aio.Channel, load: Load) -> dict[str, float]:
    numbered = [_numbered(at, request) for at, request in enumerate(_requests(load))]
    call: grpc.aio.StreamStreamCall[bytes, pb.ExecuteStreamResponse] = channel.stream_stream(
        f"{SERVICE}/ExecuteStream",
        response_deserializer=pb.ExecuteStreamResponse.FromString,
    )(timeout=TIMEOUT_S)
    meter = Meter(load.count, load.in_flight)
    free = asyncio.Semaphore(load.in_flight)
    sent_at_s = [0.0] * load.count

    async def send() -> None:
        at = 0
        while at < load.count:
            await free.acquire()
            until = at + 1
            # What became free in this turn goes in one message.
            while until < min(load.count, at + GATHERED_MAX) and not free.locked():
                await free.acquire()
                until += 1
            now_s = time.perf_counter()
            sent_at_s[at:until] = [now_s] * (until - at)
            await call.write(b"".join(numbered[at:until]))
            meter.sent(until - at)
            at = until

    sending = asyncio.ensure_future(send())
    unanswered = set(range(load.count))
    while unanswered:
        message = await call.read()
        if not isinstance(message, pb.ExecuteStreamResponse):
            raise RuntimeError(  # noqa: TRY004 - it is grpc.aio.EOF
                f"the stream ended: {await call.code()}: {await call.details()}"
            )
        now_s = time.perf_counter()
        for each in message.responses:
            _check(each.response.outcome, each)
            unanswered.remove(each.number)
            free.release()
        meter.answered([(now_s - sent_at_s[each.number]) * 1e3 for each in message.responses])
    await sending
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    return meter.figures()


def _numbered(number: int, request: bytes) -> bytes:
    """One request as it stands in a message of the stream; messages are their concatenation."""
    message = pb.ExecuteStreamRequest()
    message.requests.add(number=number).request.ParseFromString(request)
    return message.SerializeToString()


async def _unary(channel: grpc.aio.Channel, load: Load) -> dict[str, float]:
    requests = iter(_requests(load))
    method = ECHO if load.how == "echo" else f"{SERVICE}/Execute"
    execute: grpc.aio.UnaryUnaryMultiCallable[bytes, pb.ExecuteResponse] = channel.unary_unary(
        method, response_deserializer=pb.ExecuteResponse.FromString
    )
    meter = Meter(load.count, load.in_flight)

    async def work() -> None:
        for request in requests:
            began_s = time.perf_counter()
            meter.sent(1)
            answer = await execute(request, timeout=TIMEOUT_S)
            _check(answer.outcome, answer)
            meter.answered([(time.perf_counter() - began_s) * 1e3])

    await asyncio.gather(*(work() for _ in range(load.in_flight)))
    return meter.figures()


async def _floor(channel: grpc.aio.Channel, floor: Floor) -> dict[str, float]:
    echo: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ECHO)
    request = floor.series.request(0).SerializeToString()
    with closing(sqlite3.connect(floor.path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS bare (id INTEGER PRIMARY KEY, row BLOB)")
        # A log that grows costs the file system more to force than one that is used again, as
        # those of services are that have run for a while.
        connection.execute("INSERT INTO bare (row) VALUES (zeroblob(?))", (_LOG_BYTES,))
        connection.execute("PRAGMA wal_checkpoint(RESTART)")

        async def call() -> None:
            await echo(request, timeout=TIMEOUT_S)

        async def force() -> None:
            connection.execute("INSERT INTO bare (row) VALUES (?)", (_ROW,))

        forces, round_trips, all_of_it = [], [], []
        for _ in range(floor.count):
            forced_ms = await _timed_ms(force)
            called_ms = await _timed_ms(call)
            forces.append(forced_ms / _ROUNDS)
            round_trips.append(called_ms / _ROUNDS)
            all_of_it.append(forced_ms + called_ms)
    return {
        "force_ms": statistics.median(forces),
        "round_trip_ms": statistics.median(round_trips),
        "floor_ms": statistics.median(all_of_it),
    }


async def _timed_ms(what: Callable[[], Awaitable[None]]) -> float:
    began_s = time.perf_counter()
    for _ in range(_ROUNDS):
        await what()
    return (time.perf_counter() - began_s) * 1e3


async def echo() -> None:
    """A bare unary echo, whose answer is as long as that of Execute and reads the same."""
    answer = pb.ExecuteResponse(txn_id="0" * 49, outcome=pb.OUTCOME_COMMITTED).SerializeToString()

    async def unary(request: bytes, context: object) -> bytes:
        del request, context
        return answer

    _, service, method = ECHO.split("/")
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(unary)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    tell(address=f"127.0.0.1:{port}")
    async for _ in commands():
        pass
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(run_role({"client": client, "echo": echo}))
