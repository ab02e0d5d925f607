"""Ports for processes that tests start."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator

from services.launcher.ports import is_free

# Below those that banks under fire take (tests/chaos/rig.py), and those from which Linux takes
# one for whoever connects, unless it is told otherwise: between the giving of a port and its use
# nobody comes to it by chance.
_FIRST, _LAST = 10_000, 20_000
# Up to so many workers of one run have no port in common.
_SHARES = 16
_BLOCK_TRIES = 100


def _own_ports() -> Iterator[int]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    chance = random.SystemRandom()
    share = int(worker) % _SHARES if worker else chance.randrange(_SHARES)
    count = (_LAST - _FIRST) // _SHARES
    # Two runs at the same time begin in different places.
    first = chance.randrange(count)
    for number in itertools.count(first):
        yield _FIRST + share * count + number % count


_ports = _own_ports()


def free_port() -> int:
    """A port that nobody listens on, and that is not given again before all others were."""
    return next(filter(is_free, _ports))


def free_block(count: int) -> int:
    """The first of so many ports in a row that nobody listens on now. Raises RuntimeError."""
    for _ in range(_BLOCK_TRIES):
        block = [free_port() for _ in range(count)]
        if block[-1] - block[0] == count - 1:
            return block[0]
    raise RuntimeError(f"there are no {count} free ports in a row")
