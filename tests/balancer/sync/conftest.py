from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from tests.balancer.sync.echo import EchoServer
from tests.balancer.sync.waiting import eventually

StartServer = Callable[..., EchoServer]


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts echo servers and stops them afterwards."""
    servers: list[EchoServer] = []

    def start(name: bytes = b"server") -> EchoServer:
        servers.append(EchoServer(name).start())
        return servers[-1]

    yield start
    for server in servers:
        server.release()
        server.stop()


@pytest.fixture
def server(start_server: StartServer) -> EchoServer:
    """One running echo server."""
    return start_server()


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """Every thread that a test's channels started has ended when the test has."""
    before = set(threading.enumerate())
    yield
    eventually(lambda: not ours(set(threading.enumerate()) - before), "the end of our threads")


def ours(threads: set[threading.Thread]) -> list[str]:
    """The names of those that this package started."""
    return [thread.name for thread in threads if thread.name.startswith("tallystick")]
