"""What the supervisor is to run: decided by `up`, handed over as a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from services.launcher import etcd, postgres
from services.launcher.ports import HOST, Ports
from services.launcher.settings import Settings
from services.launcher.status import ETCD, POSTGRES

POSTGRES_VARIABLE = "TALLYSTICK_POSTGRES"


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """One process: its name, where it listens (host:port) and its command line."""

    name: str
    service: str
    replica: int
    address: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MeshPlan:
    """All processes in the order of starting; `etcd` are the endpoints they use.

    `variables` are those of the environment that the services are given beside their own.
    """

    home: str
    repository: str
    etcd: tuple[str, ...]
    processes: tuple[ProcessPlan, ...]
    store: str = "sqlite"
    variables: Mapping[str, str] = field(default_factory=dict)


def make(settings: Settings, replicas: Mapping[str, int], tell: Callable[[str], None]) -> MeshPlan:
    """Chooses ports and command lines; tells of what is not as usual.

    Raises EtcdUnavailable, PostgresUnavailable or PortsExhausted.
    """
    below = [settings.etcd_port, settings.postgres_port]
    ports = Ports([*below, *(service.port for service in settings.catalogue)])
    registry = () if settings.etcd else (_etcd(settings, ports, tell),)
    database, variables = _store(settings, ports, tell)
    endpoints = settings.etcd or tuple(process.address for process in registry)
    services = tuple(
        _service(settings, service.name, replica, address, endpoints)
        for service in settings.catalogue
        for replica in range(replicas[service.name])
        for address in [_address(ports, service.port + replica, f"{service.name}-{replica}", tell)]
    )
    return MeshPlan(
        str(settings.home.path),
        str(settings.repository),
        endpoints,
        registry + database + services,
        settings.store,
        variables,
    )


def encode(plan: MeshPlan) -> bytes:
    """The content of the plan file."""
    return json.dumps(asdict(plan), indent=1).encode()


def load(path: Path) -> MeshPlan:
    """Reads a plan file; raises OSError or ValueError."""
    content = path.read_bytes()
    try:
        raw = json.loads(content)
        processes = tuple(
            ProcessPlan(**{**entry, "command": tuple(entry["command"])})
            for entry in raw["processes"]
        )
        return MeshPlan(
            raw["home"],
            raw["repository"],
            tuple(raw["etcd"]),
            processes,
            raw["store"],
            dict(raw["variables"]),
        )
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError("not a plan of a mesh") from None


def _service(
    settings: Settings, name: str, replica: int, address: str, endpoints: tuple[str, ...]
) -> ProcessPlan:
    line = settings.service_command(name, replica, address, ",".join(endpoints))
    return ProcessPlan(f"{name}-{replica}", name, replica, address, tuple(line))


def _etcd(settings: Settings, ports: Ports, tell: Callable[[str], None]) -> ProcessPlan:
    binary = etcd.find(settings.etcd_binary)
    tell(f"etcd {binary.version} ({binary.path})")
    if binary.warning:
        tell(binary.warning)
    address = _address(ports, settings.etcd_port, "etcd", tell)
    peer = _address(ports, settings.etcd_port + 1, "etcd's peer port", tell)
    data = settings.home.path / ETCD / binary.version
    line = etcd.command(binary, data, _port(address), _port(peer))
    return ProcessPlan(f"{ETCD}-0", ETCD, 0, address, tuple(line))


def _store(
    settings: Settings, ports: Ports, tell: Callable[[str], None]
) -> tuple[tuple[ProcessPlan, ...], Mapping[str, str]]:
    """The database server that is to be started, if one is, and how the services find theirs."""
    if settings.store != POSTGRES:
        return (), {POSTGRES_VARIABLE: ""}
    if settings.postgres:
        # In the environment already, and with a password perhaps: not for a file.
        return (), {}
    programs = postgres.find(settings.postgres_programs)
    data = postgres.data_directory(settings.home.path, programs.version)
    tell(f"PostgreSQL {programs.version} ({programs.directory}), data in {data}")
    passwords = settings.home.path / POSTGRES / "password"
    postgres.initialise(programs, data, passwords)
    address = _address(ports, settings.postgres_port, POSTGRES, tell)
    line = postgres.command(programs, data, _port(address))
    process = ProcessPlan(f"{POSTGRES}-0", POSTGRES, 0, address, tuple(line))
    return (process,), {POSTGRES_VARIABLE: postgres.dsn(_port(address), passwords)}


def _address(ports: Ports, default: int, owner: str, tell: Callable[[str], None]) -> str:
    port, told = ports.take(default, owner)
    if told:
        tell(told)
    return f"{HOST}:{port}"


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
