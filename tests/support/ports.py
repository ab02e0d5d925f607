"""Ports for processes that tests start."""

from __future__ import annotations

import itertools
import random

from services.launcher.ports import is_free

# Below those from which Linux takes one for whoever connects: between the giving of a port and
# its use nobody else comes to it by chance.
_FIRST, _LAST = 10_000, 32_000


def _all() -> list[int]:
    ports = list(range(_FIRST, _LAST))
    # Several that test at once do not go the same way.
    random.SystemRandom().shuffle(ports)
    return ports


_turns = itertools.cycle(_all())


def free_port() -> int:
    """A port that nobody listens on, and that is not given again before all others were."""
    return next(filter(is_free, _turns))
