"""The branch table on SQLite and PostgreSQL."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

from txn.model import BranchKey, BranchRow, Operation
from txn.state import BranchState
from txn.store.migrate import Dialect, Migration, load
from txn.store.sql import Sql, select_in, write_rows

# At once; the next call takes the next ones.
ABORTED_FORGOTTEN_MAX = 64

_WRITTEN = "txn_id, branch_id, state, coordinator, operation_type, operation, prepared_at_us"
_COLUMNS = f"{_WRITTEN}, reason"


# `txn.model.log_id_of` in SQL. Not by LIKE: to that letters of both cases are one, and a log
# that others name may have a sign in its name that stands for all.
_OF_LOG = "substr(txn_id, length(txn_id) - length(?) + 1) = ?"
_OF_NO_LOG = "txn_id NOT LIKE '%-%'"
_STATES = {state.value: state for state in BranchState}


def schema(dialect: Dialect = "sqlite") -> Mapping[str, tuple[Migration, ...]]:
    """The migrations that a participant's store needs, beside the business tables."""
    return {
        "participant": load(
            importlib.resources.files(__package__) / "migrations" / dialect / "participant"
        )
    }


class SqlBranchTable:
    """BranchTable in the database of the business tables."""

    def get_all(self, tx: Sql, keys: Sequence[BranchKey]) -> Mapping[BranchKey, BranchRow]:
        """See BranchTable.get_all."""
        wanted = frozenset(keys)
        found = select_in(
            tx,
            f"SELECT {_COLUMNS} FROM branch WHERE txn_id IN",
            list(dict.fromkeys([key.txn_id for key in keys])),
        )
        rows = map(_decoded, found)
        return {row.key: row for row in rows if row.key in wanted}

    def insert_all(self, tx: Sql, rows: Sequence[BranchRow]) -> None:
        """See BranchTable.insert_all."""
        write_rows(
            tx,
            f"INSERT INTO branch ({_WRITTEN}) {{rows}}",
            [
                (
                    *row.key,
                    row.state.value,
                    row.coordinator,
                    *(row.operation or (None, None)),
                    row.prepared_at_us,
                )
                for row in rows
            ],
            "text, text, text, text, text, bytea, bigint",
        )
        # Few have one.
        if given := [(row.reason, *row.key) for row in rows if row.reason]:
            write_rows(
                tx,
                "UPDATE branch SET reason = column1 FROM ({rows}) AS given "
                "WHERE txn_id = column2 AND branch_id = column3",
                given,
                "text, text, text",
            )

    def set_state_all(self, tx: Sql, keys: Sequence[BranchKey], state: BranchState) -> None:
        """See BranchTable.set_state_all."""
        write_rows(
            tx,
            f"UPDATE branch SET state = '{state.value}' FROM ({{rows}}) AS moved "
            "WHERE txn_id = column1 AND branch_id = column2",
            keys,
            "text, text",
        )

    def prepare_horizon(self, tx: Sql, log_id: str) -> str:
        """See BranchTable.prepare_horizon."""
        row = tx.execute(
            "SELECT txn_id FROM prepare_horizon WHERE log_id = ?", (log_id,)
        ).fetchone()
        return "" if row is None else row[0]

    def forget(self, tx: Sql, keys: Sequence[BranchKey], log_id: str, horizon: str) -> int:
        """See BranchTable.forget."""
        tx.execute(
            "INSERT INTO prepare_horizon (log_id, txn_id) VALUES (?, ?) ON CONFLICT (log_id) "
            "DO UPDATE SET txn_id = excluded.txn_id WHERE excluded.txn_id > prepare_horizon.txn_id",
            (log_id, horizon),
        )
        committed = write_rows(
            tx,
            "DELETE FROM branch WHERE (txn_id, branch_id) IN "
            "(SELECT column1, column2 FROM ({rows}) AS gone) AND state = 'COMMITTED'",
            [key for key in keys if key.txn_id < horizon],
            "text, text",
        )
        of_log, named = (_OF_LOG, (log_id, log_id)) if log_id else (_OF_NO_LOG, ())
        aborted = tx.execute(
            "DELETE FROM branch WHERE (txn_id, branch_id) IN ("
            "SELECT txn_id, branch_id FROM branch WHERE state = 'ABORTED' AND txn_id < ? "
            f"AND {of_log} ORDER BY txn_id LIMIT ?)",
            (horizon, *named, ABORTED_FORGOTTEN_MAX),
        )
        return committed + aborted.rowcount

    def list_rows(
        self,
        tx: Sql,
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
    txn_id, branch_id, state, coordinator, operation_type, operation, prepared_at_us, reason = row
    return BranchRow(
        BranchKey(txn_id, branch_id),
        _STATES[state],
        coordinator,
        None if operation_type is None else Operation(operation_type, operation),
        prepared_at_us,
        reason,
    )
