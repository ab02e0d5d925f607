"""What a participant wraps: the business code of one kind of operation, and how it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from txn.errors import Busy, Refused
from txn.model import BranchKey, Operation
from txn.state import Vote

REFUSED = "REFUSED"

Tx_contra = TypeVar("Tx_contra", contravariant=True)
Op = TypeVar("Op")
Op_co = TypeVar("Op_co", covariant=True)
Op_contra = TypeVar("Op_contra", contravariant=True)


class Resource(Protocol[Tx_contra, Op_contra]):
    """The business code of one kind of operation.

    Each method runs inside `tx` and does no more than read and change it: no clock that
    matters, no network, no state of its own.
    """

    def prepare(self, tx: Tx_contra, key: BranchKey, operation: Op_contra) -> Vote:
        """Reserves what commit will need; returns COMMIT, or READ_ONLY when nothing is to commit.

        Raises Refused to vote ABORT, and Busy when another transaction is in the way; then
        nothing that was changed in `tx` stays.
        """

    def commit(self, tx: Tx_contra, key: BranchKey, operation: Op_contra) -> None:
        """Makes the reservation final. It has promised to be able to, so it must not fail."""

    def abort(self, tx: Tx_contra, key: BranchKey, operation: Op_contra) -> None:
        """Gives the reservation back."""


class Item(NamedTuple, Generic[Op]):
    """One branch of a batch."""

    key: BranchKey
    operation: Op


class BatchResource(Protocol[Tx_contra, Op]):
    """The same for many branches at once, for who can do that with fewer statements.

    The items of a call are different branches. Should a call raise, its changes are undone
    and the items are handed over again, one at a time; so what raises harms no other.
    """

    def prepare_all(
        self, tx: Tx_contra, items: Sequence[Item[Op]]
    ) -> Sequence[Vote | Refused | Busy]:
        """A vote for each, as of `Resource.prepare`; refusals are returned, not raised.

        Each item sees what those before it have reserved, and one that is refused has
        changed nothing.
        """

    def commit_all(self, tx: Tx_contra, items: Sequence[Item[Op]]) -> None:
        """Makes the reservations final."""

    def abort_all(self, tx: Tx_contra, items: Sequence[Item[Op]]) -> None:
        """Gives the reservations back."""


class OneAtATime(Generic[Tx_contra, Op]):
    """A Resource as a BatchResource, for calls with one item: a refusal is raised."""

    def __init__(self, resource: Resource[Tx_contra, Op]) -> None:
        self._resource = resource

    def prepare_all(
        self, tx: Tx_contra, items: Sequence[Item[Op]]
    ) -> Sequence[Vote | Refused | Busy]:
        """See BatchResource.prepare_all. Raises what the resource raises."""
        votes: list[Vote | Refused | Busy] = []
        for key, operation in items:
            vote = self._resource.prepare(tx, key, operation)
            if vote is Vote.ABORT:
                # Said without raising; what was changed in `tx` must not stay all the same.
                raise Refused(REFUSED)
            votes.append(vote)
        return votes

    def commit_all(self, tx: Tx_contra, items: Sequence[Item[Op]]) -> None:
        """See BatchResource.commit_all."""
        for key, operation in items:
            self._resource.commit(tx, key, operation)

    def abort_all(self, tx: Tx_contra, items: Sequence[Item[Op]]) -> None:
        """See BatchResource.abort_all."""
        for key, operation in items:
            self._resource.abort(tx, key, operation)


class Codec(Protocol[Op_co]):
    """Turns operations into what the resource takes."""

    def decode(self, operation: Operation) -> Op_co:
        """An operation from outside. Raises InvalidOperation when it breaks a rule."""

    def read(self, operation: Operation) -> Op_co:
        """An operation that was decoded before, perhaps by an earlier release."""
