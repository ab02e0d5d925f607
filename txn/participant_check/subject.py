"""What is checked: a resource with its tables, and samples of its operations."""

from __future__ import annotations

import copy
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from txn.model import BranchKey, Operation, Perform, Prepare
from txn.participant_check.tables import Tables
from txn.resource import BatchResource, Resource
from txn.store.opening import Schema

Op = TypeVar("Op")
Tx = sqlite3.Connection

COORDINATOR = "check"


class Subject(Generic[Op]):
    """Names its samples by numbers. It is their codec: each use gets a copy of its own."""

    def __init__(
        self,
        resource: Callable[[], Resource[Tx, Op] | BatchResource[Tx, Op]],
        schema: Schema,
        setup: Callable[[Tx], object] | None,
        state: Callable[[Tx], object] | None,
        samples: tuple[Sequence[Op], Sequence[Op], Sequence[tuple[Op, Op]]],
    ) -> None:
        accepted, refused, rivals = samples
        self.resource = resource
        self.schema = schema
        self.setup = setup
        self.state: Callable[[Tx], Any] = state or Tables()
        self.accepted = range(len(accepted))
        self.refused = range(len(accepted), len(accepted) + len(refused))
        first = self.refused.stop
        self.rivals = [(first + 2 * at, first + 2 * at + 1) for at in range(len(rivals))]
        # What a new database has taken once, any other one has to take too.
        self.taken: set[int] = set()
        self._samples = [*accepted, *refused, *(each for pair in rivals for each in pair)]

    def name(self, number: int) -> str:
        """As the user has given it."""
        if number in self.accepted:
            return f"accepted[{number}]"
        if number in self.refused:
            return f"refused[{number - self.refused.start}]"
        pair, side = divmod(number - self.refused.stop, 2)
        return f"rivals[{pair}][{side}]"

    def prepare(self, key: BranchKey, number: int) -> Prepare:
        """The message for a sample."""
        return Prepare(key, COORDINATOR, Operation("check/sample", str(number).encode()))

    def perform(self, key: BranchKey, number: int) -> Perform:
        """The message for a sample in one phase."""
        prepare = self.prepare(key, number)
        return Perform(prepare.key, prepare.coordinator, prepare.operation)

    def decode(self, operation: Operation) -> Op:
        """See Codec."""
        return self.read(operation)

    def read(self, operation: Operation) -> Op:
        """See Codec."""
        return copy.deepcopy(self._samples[int(operation.value)])
