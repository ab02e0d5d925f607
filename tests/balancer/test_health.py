"""Health over a Watch stream, against servers good and bad."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health

from balancer.errors import InvalidConfigError
from balancer.health import Health, HealthConfig, HealthWatch
from tests.support.waiting import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SAYS_SERVING = b"\x08\x01"

Behaviour = Callable[[grpc.aio.ServicerContext[bytes, bytes]], AsyncIterator[bytes]]
Serve = Callable[[Callable[[grpc.aio.Server], None]], Awaitable[grpc.aio.Channel]]
Follow = Callable[..., HealthWatch]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server with what it is given, and gives a channel to it."""
    closing: list[Callable[[], Awaitable[None]]] = []

    async def start(add: Callable[[grpc.aio.Server], None]) -> grpc.aio.Channel:
        server = grpc.aio.server()
        add(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        closing.extend([lambda: server.stop(None), channel.close])
        await channel.channel_ready()
        return channel

    yield start
    for close in reversed(closing):
        await close()


@pytest.fixture
async def follow() -> AsyncIterator[Follow]:
    """Starts watches, and stops them afterwards."""
    watches: list[HealthWatch] = []

    def start(
        channel: grpc.aio.Channel, seen: list[Health] | None = None, **options: Any
    ) -> HealthWatch:
        config = HealthConfig(**{"initial_backoff_s": 0.005, "max_backoff_s": 0.01} | options)
        watch: HealthWatch
        watch = HealthWatch(
            channel,
            config,
            lambda: (seen if seen is not None else []).append(watch.health),
            address="a:1",
            rng=random.Random(1),
        )
        watch.start()
        watches.append(watch)
        return watch

    yield start
    for watch in watches:
        watch.stop()


def behaving(watch: Behaviour) -> Callable[[grpc.aio.Server], None]:
    """Adds a health service of which Watch is `watch`, in bytes."""

    async def handle(
        request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        async for reply in watch(context):
            yield reply

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(handle)
    service = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Watch": handler})
    return lambda server: server.add_generic_rpc_handlers((service,))


async def healthy(serve: Serve, service: str = "") -> tuple[Any, grpc.aio.Channel]:
    """A real health servicer that says SERVING, and a channel to it."""
    servicer = grpc_health.HealthServicer()
    await servicer.set(service, SERVING)
    channel = await serve(
        lambda server: health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    )
    return servicer, channel


async def test_it_follows_what_the_server_says(serve: Serve, follow: Follow) -> None:
    """SERVING, NOT_SERVING and SERVING again are each reported once, in that order."""
    servicer, channel = await healthy(serve)
    seen: list[Health] = []
    watch = follow(channel, seen)
    assert Health.UNKNOWN is watch.health
    await eventually(lambda: watch.health is Health.SERVING)
    await servicer.set("", NOT_SERVING)
    await eventually(lambda: watch.health is Health.NOT_SERVING)
    assert watch.reason == "it says NOT_SERVING"
    await servicer.set("", SERVING)
    await eventually(lambda: watch.health is Health.SERVING)
    assert [Health.SERVING, Health.NOT_SERVING, Health.SERVING] == seen
    assert watch.reason == ""


async def test_it_asks_for_the_service_by_name(serve: Serve, follow: Follow) -> None:
    """Another service's health is not taken for its own; an unknown one is not healthy."""
    servicer, channel = await healthy(serve, "pkg.Known")
    known, unknown = (follow(channel, service=name) for name in ("pkg.Known", "pkg.Unknown"))
    await eventually(lambda: known.health is Health.SERVING)
    await eventually(lambda: unknown.health is Health.NOT_SERVING)
    assert unknown.reason == "it says SERVICE_UNKNOWN"
    await servicer.set("pkg.Unknown", SERVING)
    await eventually(lambda: unknown.health is Health.SERVING)


async def test_a_server_without_health_is_healthy(
    serve: Serve, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    """UNIMPLEMENTED means SERVING; it is said once, whatever number of connections follow."""
    channel = await serve(lambda server: None)
    watch = follow(channel)
    with caplog.at_level(logging.WARNING, "balancer.health"):
        for _ in range(2):
            await eventually(lambda: watch.health is Health.SERVING)
            watch.stop()
            watch.start()
    assert ["a:1 has no health service and counts as healthy"] == caplog.messages


async def test_no_answer_yet_is_unknown(serve: Serve, follow: Follow) -> None:
    """Until the first answer nothing is reported, and what is waited for is told."""
    asked = asyncio.Event()

    async def silent(context: object) -> AsyncIterator[bytes]:
        asked.set()
        await asyncio.Event().wait()
        yield b""

    seen: list[Health] = []
    watch = follow(await serve(behaving(silent)), seen)
    await asyncio.wait_for(asked.wait(), 10)
    assert (Health.UNKNOWN, "no answer yet", []) == (watch.health, watch.reason, seen)


async def test_a_first_answer_that_never_comes_is_not_waited_for(
    serve: Serve, follow: Follow
) -> None:
    """A server that accepts the stream and is silent is asked again, and is not serving."""
    streams = 0

    async def silent(context: object) -> AsyncIterator[bytes]:
        nonlocal streams
        streams += 1
        await asyncio.Event().wait()
        yield b""

    watch = follow(await serve(behaving(silent)), answer_timeout_s=0.05)
    await eventually(lambda: watch.health is Health.NOT_SERVING and streams > 1)
    assert watch.reason == "no answer about its health in 0.05 s"


async def test_silence_after_an_answer_is_good(serve: Serve, follow: Follow) -> None:
    """The time for the first answer does not run out later."""
    streams = 0

    async def once(context: object) -> AsyncIterator[bytes]:
        nonlocal streams
        streams += 1
        yield SAYS_SERVING
        await asyncio.Event().wait()

    seen: list[Health] = []
    channel = await serve(behaving(once))
    first = follow(channel, seen, answer_timeout_s=0.2)
    await eventually(lambda: first.health is Health.SERVING)
    # A second one that never answers would have run out of time twice by now.
    slow = follow(await serve(behaving(_hang)), answer_timeout_s=0.4)
    await eventually(lambda: slow.health is Health.NOT_SERVING)
    assert ([Health.SERVING], 1) == (seen, streams)


async def _hang(context: object) -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ([b"\xff\xff\xff"], "no health reply: a number does not end"),
        ([b"\x08\x01" * 1000], "no health reply: 2000 bytes are more than 1024"),
        ([bytes(5 * 1024 * 1024)], "the health stream failed: RESOURCE_EXHAUSTED"),
        ([SAYS_SERVING, b"\x08"], "no health reply: a number does not end"),
        ([], "the health stream has ended"),
    ],
)
async def test_hostile_replies(
    serve: Serve, follow: Follow, replies: list[bytes], expected: str
) -> None:
    """What is no reply makes the endpoint unhealthy with a reason; the stream is opened again."""
    streams = 0

    async def hostile(context: object) -> AsyncIterator[bytes]:
        nonlocal streams
        streams += 1
        for reply in replies:
            yield reply

    watch = follow(await serve(behaving(hostile)))
    await eventually(lambda: watch.health is Health.NOT_SERVING and streams > 2)
    await eventually(lambda: watch.reason.startswith(expected), what=expected)


async def test_a_failing_stream_recovers(serve: Serve, follow: Follow) -> None:
    """Errors other than UNIMPLEMENTED are tried again until an answer comes."""
    failures = iter([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])

    async def recovering(
        context: grpc.aio.ServicerContext[bytes, bytes],
    ) -> AsyncIterator[bytes]:
        if (code := next(failures, None)) is not None:
            await context.abort(code, "not now")
        yield SAYS_SERVING
        await asyncio.Event().wait()

    seen: list[Health] = []
    watch = follow(await serve(behaving(recovering)), seen)
    await eventually(lambda: watch.health is Health.SERVING)
    assert [Health.NOT_SERVING, Health.SERVING] == seen


async def test_stop_forgets_and_start_asks_anew(serve: Serve, follow: Follow) -> None:
    """A connection that is lost takes what was known with it, silently; the stream ends."""
    ended = 0

    async def counting(context: object) -> AsyncIterator[bytes]:
        nonlocal ended
        try:
            yield SAYS_SERVING
            await asyncio.Event().wait()
        finally:
            ended += 1

    seen: list[Health] = []
    watch = follow(await serve(behaving(counting)), seen)
    await eventually(lambda: watch.health is Health.SERVING)
    watch.stop()
    assert (Health.UNKNOWN, [Health.SERVING]) == (watch.health, seen)
    await eventually(lambda: ended == 1)
    watch.start()
    watch.start()
    await eventually(lambda: len(seen) == 2)
    assert [Health.SERVING, Health.SERVING] == seen


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"answer_timeout_s": 0}, "answer_timeout_s"),
        ({"initial_backoff_s": -1}, "initial_backoff_s"),
        ({"max_backoff_s": float("nan")}, "max_backoff_s"),
        ({"initial_backoff_s": 2, "max_backoff_s": 1}, "initial_backoff_s"),
        ({"service": "\ud800"}, "service"),
        ({"service": "x" * 5000}, "service"),
    ],
)
def test_settings_that_cannot_be(limits: dict[str, Any], field: str) -> None:
    """They are refused, by name, before any connection."""
    with pytest.raises(InvalidConfigError, match=field):
        HealthConfig(**limits)
