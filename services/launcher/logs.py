"""Shows what the processes wrote, one after another or as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from services.launcher.errors import HomeError
from services.launcher.home import Home
from services.launcher.mesh import tail

TAIL_LINES = 40
FOLLOW_POLL_S = 0.25
READ_BYTES_MAX = 1024 * 1024


def choose(home: Home, name: str | None) -> dict[str, Path]:
    """Logs by process: all, or those of a process or service; raises HomeError if none."""
    found = {path.stem: path for path in sorted(home.logs.glob("*.log"))}
    if not found:
        raise HomeError(f"there are no logs in {home.logs}: run `make up`")
    chosen = {
        process: path
        for process, path in found.items()
        if name in (None, process, process.rpartition("-")[0])
    }
    if not chosen:
        raise HomeError(f"no log of {name!r}; there are {', '.join(found)}")
    return chosen


def show(chosen: Mapping[str, Path], tell: Callable[[str], None]) -> None:
    """Tells the last lines of each log."""
    for process, path in chosen.items():
        for line in tail(path, TAIL_LINES):
            tell(_shown(chosen, process, line))


def follow(chosen: Mapping[str, Path], tell: Callable[[str], None]) -> None:
    """Tells what is written from now on; never returns, it ends by KeyboardInterrupt."""
    positions = {process: _size(path) for process, path in chosen.items()}
    while True:
        for process, path in chosen.items():
            if _size(path) < positions[process]:
                positions[process] = 0  # it was shortened
            lines, positions[process] = _read(path, positions[process])
            for line in lines:
                tell(_shown(chosen, process, line))
        time.sleep(FOLLOW_POLL_S)


def _shown(chosen: Mapping[str, Path], process: str, line: str) -> str:
    return line if len(chosen) == 1 else f"{process:<14} {line}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read(path: Path, position: int) -> tuple[list[str], int]:
    """Whole lines after `position`, and where the next one begins."""
    try:
        with path.open("rb") as file:
            file.seek(position)
            content = file.read(READ_BYTES_MAX)
    except OSError:
        return [], position
    whole = content[: content.rfind(b"\n") + 1]
    if not whole and len(content) == READ_BYTES_MAX:
        whole = content
    return whole.decode("utf-8", errors="replace").splitlines(), position + len(whole)
