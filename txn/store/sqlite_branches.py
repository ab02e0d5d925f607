"""The branch table on SQLite."""

from __future__ import annotations

import importlib.resources
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from txn.model import BranchId, BranchKey, BranchRow, Operation, TxnId
from txn.state import BranchState
from txn.store.migrate import Migration, load

_COLUMNS = "txn_id, branch_id, state, coordinator, operation_type, operation, prepared_at_us"


def schema() -> Mapping[str, tuple[Migration, ...]]:
    """The migrations that a participant's store needs, beside the business tables."""
    return {
        "participant": load(
            importlib.resources.files(__package__) / "migrations/sqlite/participant"
        )
    }


class SqliteBranchTable:
    """BranchTable in the database of the business tables."""

    def get(self, tx: sqlite3.Connection, key: BranchKey) -> BranchRow | None:
        """See BranchTable.get."""
        row = tx.execute(
            f"SELECT {_COLUMNS} FROM branch WHERE txn_id = ? AND branch_id = ?",
            (key.txn_id, key.branch_id),
        ).fetchone()
        return None if row is None else _decoded(row)

    def insert(self, tx: sqlite3.Connection, row: BranchRow) -> None:
        """See BranchTable.insert."""
        operation = row.operation
        tx.execute(
            f"INSERT INTO branch ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                row.key.txn_id,
                row.key.branch_id,
                row.state.value,
                row.coordinator,
                None if operation is None else operation.type_url,
                None if operation is None else operation.value,
                row.prepared_at_us,
            ),
        )

    def set_state(self, tx: sqlite3.Connection, key: BranchKey, state: BranchState) -> None:
        """See BranchTable.set_state."""
        tx.execute(
            "UPDATE branch SET state = ? WHERE txn_id = ? AND branch_id = ?",
            (state.value, key.txn_id, key.branch_id),
        )

    def list_rows(
        self,
        tx: sqlite3.Connection,
        *,
        after: BranchKey | None,
        limit: int,
        state: BranchState | None,
    ) -> Sequence[BranchRow]:
        """See BranchTable.list_rows."""
        # The state is a literal, so that SQLite can use the partial index.
        condition = "" if state is None else f"AND state = '{state.value}'"
        rows = tx.execute(
            f"SELECT {_COLUMNS} FROM branch "
            f"WHERE (txn_id, branch_id) > (?, ?) {condition} ORDER BY txn_id, branch_id LIMIT ?",
            ("", "", limit) if after is None else (after.txn_id, after.branch_id, limit),
        ).fetchall()
        return [_decoded(row) for row in rows]


def _decoded(row: tuple[Any, ...]) -> BranchRow:
    txn_id, branch_id, state, coordinator, operation_type, operation, prepared_at_us = row
    return BranchRow(
        key=BranchKey(TxnId(txn_id), BranchId(branch_id)),
        state=BranchState(state),
        coordinator=coordinator,
        operation=None if operation_type is None else Operation(operation_type, operation),
        prepared_at_us=prepared_at_us,
    )
