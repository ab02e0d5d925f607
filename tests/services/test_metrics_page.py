"""Metrics over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from services import metrics_page
from services.metrics_page import CONNECTIONS_MAX, REQUEST_MAX_BYTES, MetricsPage
from tests.support.waiting import eventually

DEADLINE_S = 10.0


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A page with one counter that says 3."""
    registry = CollectorRegistry()
    Counter("coffees", "Drunk.", registry=registry).inc(3)
    page = MetricsPage(registry)
    port = await page.start("127.0.0.1", 0)
    yield port
    await page.close()


async def said(port: int, request: bytes) -> bytes:
    """All that is answered, until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(DEADLINE_S):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_prometheus_can_read_it(port: int) -> None:
    """An ordinary client gets text that parses, and its content type."""

    def get() -> tuple[str, str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            return reply.headers["Content-Type"], reply.read().decode()

    content_type, text = await asyncio.to_thread(get)
    assert content_type.startswith("text/plain")
    (family,) = [each for each in text_string_to_metric_families(text) if each.name == "coffees"]
    assert [3.0] == [each.value for each in family.samples if each.name == "coffees_total"]


async def test_openmetrics_for_who_asks(port: int) -> None:
    """Prometheus itself prefers it."""
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\n\r\n"
    reply = await said(port, request)
    assert b"Content-Type: application/openmetrics-text" in reply
    assert reply.endswith(b"# EOF\n")


async def test_what_a_client_accepts_may_be_nonsense(port: int) -> None:
    """It gets plain text."""
    accept = b"Accept: application/openmetrics-text; version=x"
    reply = await said(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + accept + b"\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 200")
    assert b"Content-Type: text/plain" in reply


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /metrics?a=b HTTP/1.1", b"200"),
        (b"HEAD /metrics HTTP/1.0", b"200"),
        (b"POST /metrics HTTP/1.1", b"405"),
        (b"GET / HTTP/1.1", b"404"),
        (b"GET /metrics/../etc HTTP/1.1", b"404"),
        (b"GET /metrics", b"400"),
        (b"\xff\x00\xfe", b"400"),
        (b"PRI * HTTP/2.0", b"400"),
    ],
)
async def test_each_request_has_its_status(port: int, request_line: bytes, status: bytes) -> None:
    """What is not asked for rightly is refused by name, and the connection is closed."""
    reply = await said(port, request_line + b"\r\nHost: x\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 " + status)
    assert b"Connection: close" in reply
    assert (b"coffees" in reply) == (status == b"200" and request_line.startswith(b"GET"))


async def test_a_request_without_end_is_cut_off(port: int) -> None:
    """No more is read than a request may have."""
    assert b"" == await said(port, b"x" * (2 * REQUEST_MAX_BYTES))


async def test_silence_is_not_waited_for(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says nothing, or half of it, is sent away."""
    monkeypatch.setattr(metrics_page, "REQUEST_TIMEOUT_S", 0.05)
    assert b"" == await said(port, b"GET /metrics HTTP/1.1\r\n")


async def test_so_many_at_once(port: int) -> None:
    """Those beyond are turned away; when somebody leaves there is room again."""
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_MAX)]
    request = b"GET /metrics HTTP/1.1\r\n\r\n"
    await eventually(lambda: _turned_away(port, request))
    for _, writer in silent:
        writer.close()
    await eventually(lambda: _answered(port, request))


async def _turned_away(port: int, request: bytes) -> bool:
    return await said(port, request) == b""


async def _answered(port: int, request: bytes) -> bool:
    return (await said(port, request)).startswith(b"HTTP/1.1 200")


async def test_a_closed_page_serves_nobody() -> None:
    """Neither those who are connected nor those who come."""
    page = MetricsPage(CollectorRegistry())
    port = await page.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await page.close()
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionResetError):
            assert b"" == await reader.read()
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
