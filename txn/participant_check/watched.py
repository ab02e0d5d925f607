"""A resource with an eye on what it does that a participant would not notice."""

from __future__ import annotations

import inspect
import re
import sqlite3
from collections.abc import Sequence
from typing import Any, Generic, NoReturn, TypeVar

from txn.errors import Busy, Refused
from txn.model import BranchKey
from txn.participant_check.rules import Broken, Rule
from txn.resource import Item
from txn.state import Vote

Op = TypeVar("Op")
Tx = sqlite3.Connection

_REASON = re.compile(r"[A-Z][A-Z0-9_]*")


class UndoneOnPurpose(Exception):
    """Raised after a method has returned, so that its work is undone."""


class Watched(Generic[Op]):
    """The resource, with an eye on what it does that a participant would not notice."""

    def __init__(self, resource: Any) -> None:
        self._resource = resource
        # Named methods are undone after they have returned, as if a later step had failed.
        self.undo: set[str] = set()
        self.broken: Broken | None = None
        self.raised: Exception | None = None

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            result = getattr(self._resource, method)(*arguments)
        except (Refused, Busy) as error:
            if _REASON.fullmatch(error.reason) is None:
                self._breaks(Rule.REASONS, f"{method} gave the reason {error.reason!r}")
            raise
        except Exception as error:
            self.raised = error
            raise
        if inspect.iscoroutine(result):
            result.close()
            self._breaks(Rule.PLAIN_METHODS, f"{method} is a coroutine function")
        if method in self.undo:
            raise UndoneOnPurpose
        return result

    def _breaks(self, rule: Rule, seen: str) -> NoReturn:
        self.broken = self.broken or Broken(rule, seen)
        raise self.broken


class WatchedAlone(Watched[Op]):
    """A Resource."""

    def prepare(self, tx: Tx, key: BranchKey, operation: Op) -> Vote:
        """See Resource."""
        vote = self._call("prepare", tx, key, operation)
        if vote not in (Vote.COMMIT, Vote.READ_ONLY, Vote.ABORT):
            self._breaks(Rule.ANSWERS, f"prepare returned {vote!r}")
        return Vote(vote)

    def commit(self, tx: Tx, key: BranchKey, operation: Op) -> None:
        """See Resource."""
        self._call("commit", tx, key, operation)

    def abort(self, tx: Tx, key: BranchKey, operation: Op) -> None:
        """See Resource."""
        self._call("abort", tx, key, operation)


class WatchedBatches(Watched[Op]):
    """A BatchResource."""

    def prepare_all(self, tx: Tx, items: Sequence[Item[Op]]) -> Sequence[Vote | Refused | Busy]:
        """See BatchResource."""
        votes = self._answers(self._call("prepare_all", tx, items), len(items))
        for vote in votes:
            if isinstance(vote, Refused | Busy):
                if _REASON.fullmatch(vote.reason) is None:
                    self._breaks(Rule.REASONS, f"prepare_all gave the reason {vote.reason!r}")
            elif vote not in (Vote.COMMIT, Vote.READ_ONLY, Vote.ABORT):
                self._breaks(Rule.ANSWERS, f"prepare_all returned {vote!r} for an item")
        return votes

    def commit_all(self, tx: Tx, items: Sequence[Item[Op]]) -> None:
        """See BatchResource."""
        self._call("commit_all", tx, items)

    def abort_all(self, tx: Tx, items: Sequence[Item[Op]]) -> None:
        """See BatchResource."""
        self._call("abort_all", tx, items)

    def _answers(self, votes: Any, count: int) -> list[Vote | Refused | Busy]:
        if not isinstance(votes, Sequence) or len(votes) != count:
            self._breaks(
                Rule.BATCHES_ARE_ALIKE, f"prepare_all returned {votes!r} for {count} items"
            )
        return list(votes)
