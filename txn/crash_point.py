"""Named moments at which a test may end the process: handed in, and doing nothing by default.

Each lies between a message and a force, or a force and the message that follows it, where
a crash is hardest to survive.
"""

from __future__ import annotations

from collections.abc import Callable

BEFORE_PREPARE = "before-prepare"
AFTER_FIRST_VOTE = "after-first-vote"
BEFORE_DECISION = "before-decision"
AFTER_DECISION = "after-decision"
AFTER_VOTE = "after-vote"
AFTER_APPLY = "after-apply"
AFTER_FIRST_ACKNOWLEDGEMENT = "after-first-acknowledgement"
BEFORE_END = "before-end"
DURING_RECOVERY = "during-recovery"
# In one phase.
BEFORE_CLAIM = "before-claim"
AFTER_CLAIM = "after-claim"
AFTER_PERFORM = "after-perform"
BEFORE_CLOSE = "before-close"

CrashPoint = Callable[[str], None]


def no_crash(name: str) -> None:
    """What production hands in."""
