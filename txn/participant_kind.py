"""What a participant does, of whatever kind: what is served, asks back and forgets.

`Participant` keeps its reservations in tables of its own; `PreparedParticipant` leaves them to
PostgreSQL's PREPARE TRANSACTION (docs/adr/0009-prepared-transactions.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from txn.model import Batch, BranchKey, BranchRow, Prepare, Reply, TxnId, VoteReply
from txn.state import BranchState


class ParticipantKind(Protocol):
    """See `Participant` for each method, and what it raises."""

    @property
    def coordinators(self) -> frozenset[str]:
        """The service names that a prepare may name to be asked back."""

    async def prepare(self, message: Prepare) -> VoteReply:
        """Reserves and votes; the vote is durable on return."""

    async def commit(self, key: BranchKey) -> None:
        """Makes a prepared branch final; durable on return."""

    async def abort(self, key: BranchKey) -> None:
        """Gives back what a branch holds, or remembers that it must never hold anything."""

    async def exchange(self, batch: Batch) -> list[Reply]:
        """Answers every message of a batch; errors are answers too."""

    async def forget(self, keys: Sequence[BranchKey], horizon: TxnId) -> int:
        """Forgets commits of which nobody will ask again, and some aborts."""

    async def get(self, key: BranchKey) -> BranchRow:
        """What is remembered of a branch. Raises NotFound."""

    async def list_branches(
        self, *, after: BranchKey | None, limit: int, state: BranchState | None
    ) -> Sequence[BranchRow]:
        """Branches above `after`, in the order of their keys."""
