"""Named moments at which a test may end the process: handed in, and doing nothing by default.

Each lies between a message and a force, or a force and the message that follows it, where
a crash is hardest to survive.
"""

from __future__ import annotations

from collections.abc import Callable

BEFORE_DECISION = "before-decision"
AFTER_DECISION = "after-decision"
AFTER_VOTE = "after-vote"
AFTER_APPLY = "after-apply"

CrashPoint = Callable[[str], None]


def no_crash(name: str) -> None:
    """What production hands in."""
