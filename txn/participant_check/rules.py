"""The rules of a resource, and how it is told which of them it breaks."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Rule(Enum):
    """What a resource has to keep to; the value says what to do about one that is broken."""

    ANSWERS = "prepare returns Vote.COMMIT or READ_ONLY, or raises Refused or Busy, nothing else"
    PLAIN_METHODS = "methods are plain functions, not coroutines: only `tx` is theirs to wait for"
    REASONS = "a reason is in UPPER_SNAKE_CASE: programs decide by it"
    ACCEPTS = "prepare votes COMMIT for what can be done"
    REFUSES = "prepare checks all that commit needs, and raises Refused where it is missing"
    REFUSAL_CHANGES_NOTHING = "what is refused has changed nothing: check first, then write"
    READ_ONLY_CHANGES_NOTHING = "READ_ONLY is a promise to have written nothing: vote COMMIT"
    COMMIT_TAKES_EFFECT = "what is done is written through `tx`, by commit at the latest"
    COMMIT_SUCCEEDS = "commit never fails: check and reserve in prepare what it will need"
    ABORT_SUCCEEDS = "abort never fails: whatever prepare reserved can be given back"
    ABORT_GIVES_BACK = "abort gives back all that prepare took, and no more"
    ONCE = "a repeated or late message changes nothing: write through `tx` only"
    TRANSACTION = "`tx` is the participant's: do not commit, roll back or close it"
    CAN_BE_COMMITTED = (
        "what a method leaves can be committed, with what others wrote: let no constraint wait for "
        "the COMMIT, and raise nothing but Exceptions"
    )
    NOTHING_ELSEWHERE = "what is kept is kept in `tx`, and undone with it: no memory, no file"
    SURVIVES_RESTART = "what prepare reserved is in the tables: keep nothing in memory"
    HOLDS = "what one branch has reserved no other gets: prepare writes it down and looks for it"
    BRANCHES_ARE_APART = "a branch touches only its own reservation: keep it under the whole key"
    ONE_PHASE = "commit may follow prepare in the same `tx`: it finds there what prepare wrote"
    BATCHES_ARE_ALIKE = "a batch does what its items would do alone, and votes in their order"


class BrokenRules(AssertionError):
    """The rules that a resource breaks, each with what was seen."""

    def __init__(self, broken: Mapping[Rule, str]) -> None:
        lines = [f"{rule.name}: {seen}. The rule: {rule.value}." for rule, seen in broken.items()]
        super().__init__("\n".join(lines))
        self.broken = dict(broken)


class Broken(Exception):
    """One rule is broken; ends a scenario."""

    def __init__(self, rule: Rule, seen: str) -> None:
        super().__init__(seen)
        self.rule = rule
        self.seen = seen


def same(expected: object, found: object, rule: Rule, seen: str) -> None:
    """Raises Broken unless the tables hold what was expected."""
    if expected != found:
        raise Broken(rule, f"{seen}: {_difference(expected, found)}")


def _difference(expected: object, found: object) -> str:
    if isinstance(expected, dict) and isinstance(found, dict):
        return "; ".join(
            f"{name} has {found.get(name)} and not {expected.get(name)}"
            for name in sorted({*expected, *found})
            if expected.get(name) != found.get(name)
        )
    return f"{found!r} and not {expected!r}"
