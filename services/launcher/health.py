"""Asks a process over grpc.health.v1 whether it serves; PostgreSQL in its own protocol."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health_pb2

CHECK_TIMEOUT_S = 1.0
STARTING_INTERVAL_S = 0.1
SERVING_INTERVAL_S = 2.0
# Answered with S or N. https://www.postgresql.org/docs/current/protocol-message-formats.html
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
METHOD = "/grpc.health.v1.Health/Check"
# Loopback: asking again soon costs nothing, and a start is seen at once.
CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
)


async def watch(address: str, report: Callable[[bool], None]) -> None:
    """Reports for ever whether the process at `address` serves; ends when cancelled."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        await _watch(lambda: check(channel), report)


async def watch_postgres(address: str, report: Callable[[bool], None]) -> None:
    """The same for a PostgreSQL."""
    await _watch(lambda: check_postgres(address), report)


async def _watch(check: Callable[[], Awaitable[bool]], report: Callable[[bool], None]) -> None:
    while True:
        serves = await check()
        report(serves)
        await asyncio.sleep(SERVING_INTERVAL_S if serves else STARTING_INTERVAL_S)


async def check_postgres(address: str) -> bool:
    """Whether a server answers within CHECK_TIMEOUT_S what a client asks before all else."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(SSL_REQUEST)
                return await reader.read(1) in (b"S", b"N")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


async def check(channel: grpc.aio.Channel) -> bool:
    """Whether the server as a whole says SERVING within CHECK_TIMEOUT_S."""
    call = channel.unary_unary(
        METHOD,
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    try:
        answer = await call(
            health_pb2.HealthCheckRequest(), timeout=CHECK_TIMEOUT_S, wait_for_ready=True
        )
    except grpc.RpcError:
        return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING
