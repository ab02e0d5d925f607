"""The participant's memory: rows in the same local transaction as the business change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from txn.model import BranchKey, BranchRow
from txn.state import BranchState

Tx_contra = TypeVar("Tx_contra", contravariant=True)


class BranchTable(Protocol[Tx_contra]):
    """Every implementation passes `txn.testing.check_branch_table`."""

    def get(self, tx: Tx_contra, key: BranchKey) -> BranchRow | None:
        """The row of a branch."""

    def insert(self, tx: Tx_contra, row: BranchRow) -> None:
        """Remembers a new branch."""

    def set_state(self, tx: Tx_contra, key: BranchKey, state: BranchState) -> None:
        """Moves a branch that is there."""

    def list_rows(
        self, tx: Tx_contra, *, after: BranchKey | None, limit: int, state: BranchState | None
    ) -> Sequence[BranchRow]:
        """Rows above `after` in the order of their keys; of one state only, if asked."""
