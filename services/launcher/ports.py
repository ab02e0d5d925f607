"""Which port a process gets: its default, or the next free one beyond every default block.

gRPC servers set SO_REUSEPORT, with which two of them share a port in silence and each
gets half of the calls. So "free" is asked here, before the start, by a plain socket
which has no part in that.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from services.launcher.errors import PortsExhausted

HOST = "127.0.0.1"
BLOCK_PORTS = 10
LAST_PORT = 65535
CONNECT_TIMEOUT_S = 0.2


def is_free(port: int) -> bool:
    """Whether nobody listens on `port` of this machine's loopback, or of all its interfaces."""
    with socket.socket() as probe:
        probe.settimeout(CONNECT_TIMEOUT_S)
        if probe.connect_ex((HOST, port)) == 0:
            return False
    with socket.socket() as probe:
        # As servers do, or connections that linger in TIME_WAIT would count as busy.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


class Ports:
    """Hands out ports; each only once."""

    def __init__(self, defaults: Iterable[int]) -> None:
        self._beyond = max(defaults) + BLOCK_PORTS
        self._given: set[int] = set()

    def take(self, default: int, owner: str) -> tuple[int, str | None]:
        """A port for `owner`, and a line about it when it is not the default one.

        Raises PortsExhausted.
        """
        port = default
        while port in self._given or not is_free(port):
            port = max(port + 1, self._beyond)
            if port > LAST_PORT:
                raise PortsExhausted(f"no free port for {owner}: stop something and try again")
        self._given.add(port)
        told = None if port == default else f"port {default} is busy: {owner} gets {port}"
        return port, told
