"""How busy a machine is that should be idle: what others do on it spoils every figure."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

_STAT: Final = Path("/proc/stat")
# Of the first line of proc(5)'s stat, after its name: user nice system idle iowait ...
_IDLE: Final = slice(3, 5)
_LOOK_S: Final = 0.3


async def busy_share() -> float | None:
    """The share of all cores that is in use, looked at for a moment; None if not told."""
    if not _STAT.exists():
        return None
    total, idle = _ticks()
    await asyncio.sleep(_LOOK_S)
    total_then, idle_then = _ticks()
    return round(1 - (idle_then - idle) / max(1, total_then - total), 2)


def _ticks() -> tuple[int, int]:
    ticks = [int(each) for each in _STAT.read_text().splitlines()[0].split()[1:9]]
    return sum(ticks), sum(ticks[_IDLE])
