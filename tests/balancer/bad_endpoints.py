"""Endpoints that a registry may name and that are no gRPC servers."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections.abc import Iterator

STEP_S = 0.01


@contextlib.contextmanager
def speaks_http1() -> Iterator[str]:
    """The address of a web server that answers whatever it is asked by HTTP/1.1."""
    server = http.server.HTTPServer(("127.0.0.1", 0), _Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(STEP_S,), daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@contextlib.contextmanager
def never_speaks() -> Iterator[str]:
    """The address of one that lets everybody connect and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


class _Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Nothing."""
