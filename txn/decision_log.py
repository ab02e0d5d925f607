"""The coordinator's memory: write-once outcome rows. Append is durable on return.

An outcome row is inserted where none stands yet, under its txn_id and, where a caller
named it, under (caller, idempotency_key). Whatever stands afterwards is the outcome,
whoever wrote it: that makes a decision, an inquiry's abort and a retried request agree
without any lock between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from txn.model import Decision, TxnId


class DecisionLog(Protocol):
    """Every implementation passes `txn.testing.check_decision_log`."""

    async def identity(self, proposed: str) -> str:
        """The log's own name, the same for ever: the first that was proposed, durable."""

    async def decide(self, decision: Decision) -> Decision:
        """Inserts the row unless one stands under its txn_id or key; returns what stands, durable.

        A row of the same txn_id is returned before a row of the same key. Raises
        StoreFull when nothing was begun.
        """

    async def end(self, txn_id: TxnId) -> None:
        """Marks a commit as acknowledged by all. Lazy: rides with the next force."""

    async def by_txn_id(self, txn_id: TxnId) -> Decision | None:
        """The row of a transaction."""

    async def by_key(self, caller: str, idempotency_key: str) -> Decision | None:
        """The row of a caller's key."""

    async def list_decisions(
        self, *, after: str, limit: int, unfinished_only: bool = False
    ) -> Sequence[Decision]:
        """Rows with a txn_id above `after`, ascending; commits without an end only, if asked."""
