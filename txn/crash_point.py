"""Named moments at which a test may end the process: handed in, and doing nothing by default.

There is one before and one after every force, at the process that forces, and one at each
end of every message: before it leaves, and when it has arrived and nothing has come of it
yet. Tests kill at each of them, see docs/correctness.md; a new force or message brings its
own two, with their names here.

Points that depend on what a batch holds lie in crashing.py, around what is handed in, and
only where a test has armed one.
"""

from __future__ import annotations

from collections.abc import Callable

# Forces of the coordinator. The ABORT that an inquiry writes is a presumed one.
BEFORE_IDENTITY = "before-identity"
AFTER_IDENTITY = "after-identity"
BEFORE_DECISION = "before-decision"
AFTER_DECISION = "after-decision"
BEFORE_PRESUMED_ABORT = "before-presumed-abort"
AFTER_PRESUMED_ABORT = "after-presumed-abort"
BEFORE_END = "before-end"
AFTER_END = "after-end"
BEFORE_TRUNCATION = "before-truncation"
AFTER_TRUNCATION = "after-truncation"
DURING_RECOVERY = "during-recovery"
# In one phase; an abort closes its claim with a decision.
BEFORE_CLAIM = "before-claim"
AFTER_CLAIM = "after-claim"
BEFORE_CLOSE = "before-close"
AFTER_CLOSE = "after-close"

# Forces of a participant: a vote to commit, what a Commit, an Abort, a Perform and a Resolve do.
BEFORE_VOTE = "before-vote"
AFTER_VOTE = "after-vote"
BEFORE_APPLY = "before-apply"
AFTER_APPLY = "after-apply"
BEFORE_UNDO = "before-undo"
AFTER_UNDO = "after-undo"
BEFORE_PERFORM = "before-perform"
AFTER_PERFORM = "after-perform"
BEFORE_RESOLVE = "before-resolve"
AFTER_RESOLVE = "after-resolve"
BEFORE_FORGETTING = "before-forgetting"
AFTER_FORGETTING = "after-forgetting"

# Messages from the coordinator to a participant, and back. What answers a Perform or a
# Resolve is a vote, too.
PREPARE_LEAVES = "prepare-leaves"
PREPARE_ARRIVES = "prepare-arrives"
VOTE_LEAVES = "vote-leaves"
VOTE_ARRIVES = "vote-arrives"
COMMIT_LEAVES = "commit-leaves"
COMMIT_ARRIVES = "commit-arrives"
ABORT_LEAVES = "abort-leaves"
ABORT_ARRIVES = "abort-arrives"
PERFORM_LEAVES = "perform-leaves"
PERFORM_ARRIVES = "perform-arrives"
RESOLVE_LEAVES = "resolve-leaves"
RESOLVE_ARRIVES = "resolve-arrives"
ACKNOWLEDGEMENT_LEAVES = "acknowledgement-leaves"
ACKNOWLEDGEMENT_ARRIVES = "acknowledgement-arrives"
FORGET_LEAVES = "forget-leaves"
FORGET_ARRIVES = "forget-arrives"

# Messages from a participant to the coordinator, and back: who is in doubt asks for the
# outcome, and who remembers commits asks which of them have ended.
INQUIRY_LEAVES = "inquiry-leaves"
INQUIRY_ARRIVES = "inquiry-arrives"
ANSWER_LEAVES = "answer-leaves"
ANSWER_ARRIVES = "answer-arrives"
ENDED_INQUIRY_LEAVES = "ended-inquiry-leaves"
ENDED_INQUIRY_ARRIVES = "ended-inquiry-arrives"
ENDED_ANSWER_LEAVES = "ended-answer-leaves"
ENDED_ANSWER_ARRIVES = "ended-answer-arrives"

CrashPoint = Callable[[str], None]


def no_crash(name: str) -> None:
    """What production hands in."""


def all_points() -> frozenset[str]:
    """The names of all of them."""
    return frozenset(value for name, value in globals().items() if name.isupper())
