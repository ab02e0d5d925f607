"""What the supervisor says about the mesh, in a file that `up`, `ps` and `down` read.

The file outlives its writer. So it names each process by pid and birth, and whoever
reads it checks that these still run before believing, let alone signalling, them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from services.launcher.home import Home
from services.launcher.processes import Identity, alive

# What is started before the services, and taken down after them.
ETCD, POSTGRES = FOUNDATIONS = ("etcd", "postgres")


class State(StrEnum):
    """Where a process stands."""

    STARTING = "STARTING"
    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    RESTARTING = "RESTARTING"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    ORPHANED = "ORPHANED"


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process of the mesh; `failures` are the ends in a row without having served."""

    name: str
    service: str
    replica: int
    address: str
    state: State = State.STARTING
    identity: Identity | None = None
    restarts: int = 0
    failures: int = 0

    @property
    def is_foundation(self) -> bool:
        """Whether it is no service, but something that they stand on."""
        return self.service in FOUNDATIONS

    def public(self) -> dict[str, object]:
        """As `ps --json` shows it."""
        return {
            "name": self.name,
            "service": self.service,
            "replica": self.replica,
            "pid": self.identity.pid if self.identity else None,
            "address": self.address,
            "state": self.state.value,
            "restarts": self.restarts,
        }


@dataclass(frozen=True, slots=True)
class MeshStatus:
    """The whole mesh; `supervisor` is None when nothing watches over it."""

    supervisor: Identity | None = None
    processes: tuple[ProcessStatus, ...] = ()
    etcd: tuple[str, ...] = ()
    store: str = "sqlite"

    @property
    def replicas(self) -> dict[str, int]:
        """How many of each service; what they stand on is not one of them."""
        counts: dict[str, int] = {}
        for process in self.processes:
            if not process.is_foundation:
                counts[process.service] = counts.get(process.service, 0) + 1
        return counts

    @property
    def serving(self) -> bool:
        """Whether there is a mesh and every process of it serves."""
        return bool(self.processes) and all(p.state is State.SERVING for p in self.processes)

    def public(self) -> dict[str, object]:
        """As `ps --json` shows it."""
        return {
            "supervisor": {"pid": self.supervisor.pid} if self.supervisor else None,
            "processes": [process.public() for process in self.processes],
        }


def encode(status: MeshStatus) -> bytes:
    """The content of the status file."""
    return json.dumps(asdict(status), indent=1).encode()


def decode(content: bytes) -> MeshStatus:
    """The inverse of `encode`; raises ValueError on anything else."""
    try:
        raw = json.loads(content)
        return MeshStatus(
            supervisor=_identity(raw["supervisor"]),
            processes=tuple(_process(entry) for entry in raw["processes"]),
            etcd=tuple(raw["etcd"]),
            store=str(raw.get("store", "sqlite")),
        )
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        raise ValueError("not a status of a mesh") from None


def read(home: Home) -> MeshStatus:
    """The mesh as it is now: the status file, corrected by what really runs.

    Without a living supervisor, processes that still run are ORPHANED and the others
    are left out. A file that cannot be understood counts as none.
    """
    try:
        written = decode(home.status.read_bytes())
    except (OSError, ValueError):
        return MeshStatus()
    if written.supervisor and alive(written.supervisor):
        return written
    orphans = tuple(
        replace(process, state=State.ORPHANED)
        for process in written.processes
        if process.identity and alive(process.identity)
    )
    return MeshStatus(processes=orphans, etcd=written.etcd if orphans else ())


def _process(raw: dict[str, Any]) -> ProcessStatus:
    fields = {**raw, "state": State(raw["state"]), "identity": _identity(raw["identity"])}
    return ProcessStatus(**fields)


def _identity(raw: dict[str, Any] | None) -> Identity | None:
    return Identity(int(raw["pid"]), str(raw["birth"])) if raw else None
