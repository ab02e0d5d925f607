"""What the launcher is told by its environment, read once."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.launcher.catalogue import CATALOGUE, Service
from services.launcher.cleaning import home_of
from services.launcher.errors import EtcdUnavailable
from services.launcher.home import Home
from services.numbers import whole_number

REPOSITORY = Path(__file__).resolve().parents[2]
ETCD_PORT = 2379
POSTGRES_PORT = 5432
PORT_MAX = 65_535
SHOWN_CHARS_MAX = 200
# A service drains within 10 s of SIGTERM by itself.
SERVICE_DRAIN_S = 12.0
ETCD_DRAIN_S = 5.0
STOP_DEADLINE_S = SERVICE_DRAIN_S + ETCD_DRAIN_S + 3.0
SERVICE_COMMAND = (
    "{python}", "-m", "services.{service}", "--replica", "{replica}",
    "--address", "{address}", "--etcd", "{etcd}", "--home", "{home}",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things are and what is started; times in seconds.

    `command` is the template of a service's command line. `etcd` names an existing
    cluster as HOST:PORT, and is empty when one is to be started: from `etcd_binary`
    if given, else as found. `postgres` and `postgres_programs` are the same for the server
    that the store "postgres" needs: how to connect to one, and where its programs are.
    """

    home: Home
    repository: Path = REPOSITORY
    catalogue: tuple[Service, ...] = CATALOGUE
    command: tuple[str, ...] = SERVICE_COMMAND
    etcd: tuple[str, ...] = ()
    etcd_binary: str | None = None
    etcd_port: int = ETCD_PORT
    store: str = "sqlite"
    postgres: str = field(default="", repr=False)
    postgres_programs: str | None = None
    postgres_port: int = POSTGRES_PORT
    up_deadline_s: float = 60.0

    def service_command(self, service: str, replica: int, address: str, etcd: str) -> list[str]:
        """The command line of one process."""
        values = {
            "python": sys.executable,
            "service": service,
            "replica": str(replica),
            "address": address,
            "etcd": etcd,
            "home": str(self.home.path),
        }
        return [part.format_map(values) for part in self.command]


def from_environment(environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings as TALLYSTICK_HOME, _ETCD, _POSTGRES, ETCD and POSTGRES say. EtcdUnavailable."""
    named = environ.get("TALLYSTICK_ETCD", "").replace(",", " ").split()
    return Settings(
        home=home_of(REPOSITORY),
        etcd=tuple(_endpoint(text) for text in named),
        etcd_binary=environ.get("ETCD") or None,
        store="postgres" if environ.get("TALLYSTICK_POSTGRES") else "sqlite",
        postgres=environ.get("TALLYSTICK_POSTGRES", ""),
        postgres_programs=environ.get("POSTGRES") or None,
    )


def _endpoint(text: str) -> str:
    endpoint = text.removeprefix("http://").rstrip("/")
    host, _, port = endpoint.rpartition(":")
    if not host or not whole_number(port, PORT_MAX):
        shown = repr(text[:SHOWN_CHARS_MAX])
        raise EtcdUnavailable(f"TALLYSTICK_ETCD: {shown} is not HOST:PORT, like 127.0.0.1:2379")
    return endpoint
