"""One way to start a service: configuration, server, health, reflection, registration, drain.

A service is a function that adds itself to a server (`Setup`); everything around that is
here, once. The order of a start: open stores, serve, say SERVING, register. The order of
a stop: say draining in the registry, wait a moment for clients to notice, say
NOT_SERVING, finish what is in flight, close stores, deregister.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import grpc
import structlog
from grpc_channelz.v1 import channelz, channelz_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, ProcessCollector

import balancer
from discovery import (
    NAMESPACE,
    Endpoint,
    EtcdClient,
    EtcdResolver,
    EtcdResolverConfig,
    Registrar,
)
from discovery.addresses import Reach, reach
from discovery.etcd_config import config_from
from services import VERSION
from services.connections import CHANNEL_CONFIG, PINGS_APART_MIN_S
from services.edge import Edge
from services.metrics_page import MetricsPage
from services.numbers import whole_number
from txn.clock import Clock, SystemClock
from txn.errors import AlreadyOwned, LogDamaged
from txn.store.migrate import MigrationError

LEASE_TTL_S = 5
DRAIN_SETTLE_S = 0.3
DRAIN_GRACE_S = 8.0
MESSAGE_SIZE_MAX_BYTES = 4 * 1024 * 1024
METADATA_SIZE_MAX_BYTES = 16 * 1024
CONCURRENT_STREAMS_MAX = 1_000
CONCURRENT_RPCS_MAX = 2_000
# Allocations between two looks of the garbage collector at what is young.
GC_THRESHOLD = 20_000
# How long the thread that forces waits for a busy event loop to let it run.
SWITCH_INTERVAL_S = 0.0005
PORT_MAX = 65_535
ADDRESS_SHOWN_CHARS = 200
METRICS_PORT_OFFSET = "TALLYSTICK_METRICS_PORT_OFFSET"
# Not on the command line, which everybody on the machine may read.
POSTGRES = "TALLYSTICK_POSTGRES"
EXIT_CANNOT_START = 3
EXIT_TASK_FAILED = 5

_SERVER_OPTIONS: list[tuple[str, int]] = [
    # Two servers on one port would share it silently; a taken port must be an error.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MESSAGE_SIZE_MAX_BYTES),
    ("grpc.max_send_message_length", MESSAGE_SIZE_MAX_BYTES),
    ("grpc.max_metadata_size", METADATA_SIZE_MAX_BYTES),
    ("grpc.max_concurrent_streams", CONCURRENT_STREAMS_MAX),
    ("grpc.http2.min_ping_interval_without_data_ms", round(PINGS_APART_MIN_S * 1000)),
    ("grpc.max_connection_idle_ms", 3_600_000),
    ("grpc.enable_channelz", 1),
]

_log = structlog.get_logger(__name__)


class CannotStart(Exception):
    """Said in one line to whoever started the process; there is nothing to trace."""


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """What a process is told: which service and replica it is, where it listens, its registry.

    `service` and `replica` name it. It listens at `address`, host:port, and finds others in the
    cluster `etcd`, several host:port. `home` has what it keeps. `version` is told to the registry.
    """

    service: str
    replica: int
    address: str
    etcd: tuple[str, ...]
    home: Path
    version: str = VERSION
    postgres: str = field(default="", repr=False)
    """The database that keeps the books, as libpq is told; empty for SQLite files in the home."""
    metrics: str = ""
    """Where the metrics are served over HTTP; empty for nowhere."""
    advertise: str = ""
    """Where others reach it, if not at `address`: there may be a proxy in between."""

    def __post_init__(self) -> None:
        host_and_port(self.address)
        host_and_port(self.advertised)
        if self.metrics:
            host_and_port(self.metrics)
        if not self.etcd:
            raise CannotStart("no etcd endpoint is given: use --etcd or TALLYSTICK_ETCD")

    @property
    def id(self) -> str:
        """The name of this process, for example ledger-0."""
        return f"{self.service}-{self.replica}"

    @property
    def advertised(self) -> str:
        """The address that the registry is told."""
        return self.advertise or self.address

    @property
    def data(self) -> Path:
        """Where this service keeps its store; its replicas on this host share it."""
        return self.home / "data"


def host_and_port(address: str) -> tuple[str, int]:
    """Where to listen. Raises CannotStart unless that is on loopback."""
    host, _, text = address.rpartition(":")
    shown = repr(address[:ADDRESS_SHOWN_CHARS])
    if reach(f"{host}:{PORT_MAX}") is not Reach.LOOPBACK:
        raise CannotStart(
            f"{shown} is not a loopback address: callers are not authenticated yet, "
            "so this service listens on 127.0.0.1 only"
        )
    if not (port := whole_number(text, PORT_MAX)):
        raise CannotStart(f"{shown} has no port from 1 to {PORT_MAX}")
    return host.strip("[]"), port


class Runtime:
    """What a service may use while it sets itself up."""

    def __init__(
        self,
        config: RuntimeConfig,
        server: grpc.aio.Server,
        resolver: EtcdResolver,
        stopping: asyncio.Event,
    ) -> None:
        """`stopping` is set when the process is told to end, which it may be before it serves."""
        self.config = config
        self.stopping = stopping
        self.server = server
        self.clock: Clock = SystemClock()
        self.rng = random.Random()  # noqa: S311 - jitter, not secrets
        self.resolver = resolver
        self.registry = CollectorRegistry()
        self._channels: dict[str, balancer.BalancedChannel] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_drain: list[Callable[[float], Awaitable[None]]] = []
        self._stop_by = self.clock.monotonic()
        self._bound = False
        self._on_stop: list[Callable[[], Awaitable[None]]] = []

    def channel(self, service: str) -> balancer.BalancedChannel:
        """The one balanced channel to a service of the registry."""
        if service not in self._channels:
            self._channels[service] = balancer.channel(
                service, resolver=self.resolver, config=CHANNEL_CONFIG
            )
        return self._channels[service]

    def bind(self) -> None:
        """Takes the address, on which nobody is served yet. Raises CannotStart.

        That is done when the service is set up; what must not happen while another process
        has the address comes after a call of this.
        """
        if self._bound:
            return
        try:
            self.server.add_insecure_port(self.config.address)
        except RuntimeError:
            raise CannotStart(f"{self.config.address} is taken by another process") from None
        self._bound = True

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Runs work in the background until the service stops; it must not end by itself."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(_die_if_failed)

    def on_drain(self, work: Callable[[float], Awaitable[None]]) -> None:
        """Called when draining begins, with the seconds that are left for all that follows."""
        self._on_drain.append(work)

    def on_stop(self, work: Callable[[], Awaitable[None]]) -> None:
        """Called after the last call has ended, in reverse order."""
        self._on_stop.append(work)

    async def drain(self) -> None:
        """Tells the service that it is about to stop; from now on it has DRAIN_GRACE_S."""
        self._stop_by = self.clock.monotonic() + DRAIN_GRACE_S
        for work in self._on_drain:
            await work(self._grace_s())

    def _grace_s(self) -> float:
        return max(0.0, self._stop_by - self.clock.monotonic())

    async def stop(self) -> None:
        """Lets calls in flight end, then takes everything down again."""
        await self.server.stop(self._grace_s())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for work in reversed(self._on_stop):
            try:
                await work()
            except Exception:  # noqa: BLE001 - the rest has to be closed all the same
                _log.exception("closing")
        for channel in self._channels.values():
            await channel.close()


Setup = Callable[[Runtime], Awaitable[tuple[str, ...]]]
"""Adds servicers to the runtime's server; returns their full proto service names."""


def main(service: str, setup: Setup) -> NoReturn:
    """The main function of every service process; never returns."""
    # The books, and the password hashes in them, are the owner's alone.
    os.umask(0o077)
    _configure_logs()
    try:
        config = _parse(service)
        structlog.contextvars.bind_contextvars(process=config.id)
        _run(_serve(config, setup))
    except (CannotStart, AlreadyOwned, LogDamaged, MigrationError) as error:
        sys.stderr.write(f"{service}: {error}\n")
        sys.exit(EXIT_CANNOT_START)
    sys.exit(0)


def _run(work: Coroutine[object, object, None]) -> None:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


def _parse(service: str) -> RuntimeConfig:
    parser = argparse.ArgumentParser(prog=f"python -m services.{service}")
    parser.add_argument("--replica", type=int, default=0, help="number of this replica, from 0")
    parser.add_argument("--address", required=True, help="127.0.0.1:PORT to listen on")
    parser.add_argument(
        "--advertise", default="", help="127.0.0.1:PORT to register, by default that of --address"
    )
    parser.add_argument(
        "--etcd", default=os.environ.get("TALLYSTICK_ETCD", ""), help="HOST:PORT[,HOST:PORT...]"
    )
    parser.add_argument(
        "--home",
        type=Path,
        default=Path(os.environ.get("TALLYSTICK_HOME", ".tallystick")),
        help="where the books are kept",
    )
    parser.add_argument(
        "--metrics",
        default="",
        help="127.0.0.1:PORT to serve metrics on; by default as far above the port of --address "
        f"as {METRICS_PORT_OFFSET} says, and nowhere without that",
    )
    arguments = parser.parse_args()
    return RuntimeConfig(
        service=service,
        replica=arguments.replica,
        address=arguments.address,
        etcd=tuple(part for part in arguments.etcd.split(",") if part),
        home=arguments.home,
        postgres=os.environ.get(POSTGRES, ""),
        metrics=arguments.metrics or metrics_address(arguments.address, os.environ),
        advertise=arguments.advertise,
    )


def metrics_address(address: str, variables: Mapping[str, str]) -> str:
    """As many ports above `address` as the environment says: one rule for a whole mesh."""
    offset = variables.get(METRICS_PORT_OFFSET, "")
    if not offset:
        return ""
    if (above := whole_number(offset, PORT_MAX)) is None:
        raise CannotStart(f"{METRICS_PORT_OFFSET} is not a number: {offset[:20]!r}")
    host, _, text = address.rpartition(":")
    port = whole_number(text, PORT_MAX)
    return address if port is None else f"{host}:{port + above}"


def _configure_logs() -> None:
    level = logging.getLevelNamesMapping().get(os.environ.get("TALLYSTICK_LOG", "INFO").upper())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level or logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processor=structlog.processors.JSONRenderer(), foreign_pre_chain=shared
        )
    )
    logging.basicConfig(level=level or logging.INFO, handlers=[handler], force=True)


def _etcd_client(config: RuntimeConfig) -> EtcdClient:
    try:
        return EtcdClient(config.etcd, config=config_from(os.environ))
    except ValueError as error:
        raise CannotStart(f"etcd: {error}") from None


async def _serve(config: RuntimeConfig, setup: Setup) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        client = _etcd_client(config)
        stack.push_async_callback(client.close)
        # Services listen on loopback only, so those in the registry are this machine's,
        # wherever etcd may be.
        resolver = EtcdResolver(client, config=EtcdResolverConfig(accept_loopback=True))
        stack.push_async_callback(resolver.close)
        registrar = Registrar(client, ttl_s=LEASE_TTL_S)
        stack.push_async_callback(registrar.close)
        server = grpc.aio.server(
            interceptors=[Edge()],
            options=_SERVER_OPTIONS,
            maximum_concurrent_rpcs=CONCURRENT_RPCS_MAX,
        )
        runtime = Runtime(config, server, resolver, stop)
        stack.push_async_callback(runtime.stop)
        await _serve_metrics(runtime, stack)
        names = await setup(runtime)
        health = await _start_server(runtime, names)
        _spare_the_collector()
        await registrar.register(f"{NAMESPACE}/{config.service}", _endpoint(config, names))
        _log.info("serving", address=config.address, services=names)
        await stop.wait()
        _log.info("draining")
        await _drain(runtime, registrar, health)
    _log.info("stopped")


async def _serve_metrics(runtime: Runtime, stack: contextlib.AsyncExitStack) -> None:
    ProcessCollector(registry=runtime.registry)
    if not (address := runtime.config.metrics):
        return
    page = MetricsPage(runtime.registry)
    try:
        await page.start(*host_and_port(address))
    except OSError:
        raise CannotStart(f"{address} is taken by another process") from None
    stack.push_async_callback(page.close)


async def _start_server(runtime: Runtime, names: tuple[str, ...]) -> health_aio.HealthServicer:
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, runtime.server)
    channelz.add_channelz_servicer(runtime.server)
    shown = (
        *names,
        health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
        channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name,
        reflection.SERVICE_NAME,
    )
    reflection.enable_server_reflection(shown, runtime.server)
    runtime.bind()
    await runtime.server.start()
    for name in ("", *names):
        await health.set(name, health_pb2.HealthCheckResponse.SERVING)
    return health


def _spare_the_collector() -> None:
    """What is there after the start stays, and what requests make is mostly not cyclic.

    Looking through all of it, again and again, was a sixth of the coordinator's CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)


def _endpoint(config: RuntimeConfig, names: tuple[str, ...]) -> Endpoint:
    return Endpoint(
        address=config.advertised,
        id=config.id,
        version=config.version,
        services=names,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


async def _drain(runtime: Runtime, registrar: Registrar, health: health_aio.HealthServicer) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SETTLE_S):
            await registrar.drain()
    await asyncio.sleep(DRAIN_SETTLE_S)
    await health.enter_graceful_shutdown()
    await runtime.drain()


def _die_if_failed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("a background task failed: restarting", exc_info=error)
        sys.stderr.flush()
        os._exit(EXIT_TASK_FAILED)
