"""The participant's memory: rows in the same local transaction as the business change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from txn.model import BranchKey, BranchRow
from txn.state import BranchState

Tx_contra = TypeVar("Tx_contra", contravariant=True)


class BranchTable(Protocol[Tx_contra]):
    """Every implementation passes `txn.testing.check_branch_table`."""

    def get_all(self, tx: Tx_contra, keys: Sequence[BranchKey]) -> Mapping[BranchKey, BranchRow]:
        """The rows of those branches that have one."""

    def insert_all(self, tx: Tx_contra, rows: Sequence[BranchRow]) -> None:
        """Remembers new branches."""

    def set_state_all(self, tx: Tx_contra, keys: Sequence[BranchKey], state: BranchState) -> None:
        """Moves branches that are there."""

    def list_rows(
        self, tx: Tx_contra, *, after: BranchKey | None, limit: int, state: BranchState | None
    ) -> Sequence[BranchRow]:
        """Rows above `after` in the order of their keys; of one state only, if asked."""

    def prepare_horizon(self, tx: Tx_contra, log_id: str) -> str:
        """What was last given to `forget` for a log; empty when nothing was."""

    def forget(self, tx: Tx_contra, keys: Sequence[BranchKey], log_id: str, horizon: str) -> int:
        """Deletes rows that are COMMITTED, below `horizon`, which it remembers with them.

        A few aborted rows of that log below it go too: no prepare can find them missing.
        Returns how many rows went.
        """
