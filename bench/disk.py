"""A directory whose forces are real ones: on a file system in memory they cost nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_MOUNTS: Final = Path("/proc/self/mountinfo")


def scratch_directory() -> Path:
    """Where temporary stores may be; the system's own place, else beside this package.

    Ends the program when both are in memory.
    """
    here = Path(__file__).resolve().parents[1]
    for directory in (Path(tempfile.gettempdir()).resolve(), here):
        if file_system(directory) not in _IN_MEMORY:
            return directory
    raise SystemExit("every directory here is in memory: set TMPDIR to one on a disk")


def file_system(directory: Path) -> str:
    """The type of the file system that `directory` is on; empty where that is not told."""
    if not _MOUNTS.exists():
        return ""
    best = ("", "")
    for line in _MOUNTS.read_text().splitlines():
        # See proc(5): fields, a dash, then the type.
        mount_point = line.split()[4]
        if directory.is_relative_to(mount_point) and len(mount_point) >= len(best[0]):
            best = (mount_point, line.partition(" - ")[2].split()[0])
    return best[1]
