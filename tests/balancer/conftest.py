from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.balancer.echo import EchoServer

StartServer = Callable[..., Awaitable[EchoServer]]


@pytest.fixture
async def start_server() -> AsyncIterator[StartServer]:
    """Starts echo servers and stops them afterwards."""
    servers: list[EchoServer] = []

    async def start(name: bytes = b"server") -> EchoServer:
        servers.append(await EchoServer(name).start())
        return servers[-1]

    yield start
    for server in servers:
        server.release()
        await server.stop()


@pytest.fixture
async def server(start_server: StartServer) -> EchoServer:
    """One running echo server."""
    return await start_server()


@pytest.fixture(autouse=True)
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Every task that a test's channels started has ended when the test has."""
    before = asyncio.all_tasks()
    yield
    async with asyncio.timeout(10):
        while left := _ours(asyncio.all_tasks() - before):
            await asyncio.wait(left, timeout=0.1)


def _ours(tasks: set[asyncio.Task[object]]) -> set[asyncio.Task[object]]:
    return {task for task in tasks if "balancer" in repr(task.get_coro())}
