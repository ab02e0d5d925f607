"""How PostgreSQL goes about look-ups: by all of a key, however small it takes a table for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.support.postgres import PostgresServer
from tests.txn.helpers import commit_row
from tests.txn.support import open_postgres
from txn.model import BranchId, BranchKey, BranchRow, TxnId
from txn.state import BranchState, Vote
from txn.store.postgres import PostgresTx
from txn.store.sql import Rows
from txn.store.sql_branches import SqlBranchTable
from txn.store.sql_log import SqlDecisionLog

MANY = 300


class _Explained:
    """A transaction that also says how each of its statements is executed."""

    def __init__(self, tx: PostgresTx, plans: list[str]) -> None:
        self._tx = tx
        self._plans = plans

    def execute(self, query: str, parameters: Sequence[Any] = (), /) -> Rows:
        """See Sql.execute."""
        explain = f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {query}"
        lines = self._tx.execute(explain, parameters).fetchall()
        self._plans.append("\n".join(line for (line,) in lines))
        return self._tx.execute(query, parameters)


def _reads_nothing_in_vain(plans: list[str]) -> bool:
    return not any("Seq Scan" in plan or "Rows Removed" in plan for plan in plans)


async def test_decisions_are_looked_up_by_all_of_their_key(
    postgres_server: PostgresServer,
) -> None:
    """Among many rows of one caller only those that are asked for are read."""
    names = [("tester", f"k{at}") for at in range(MANY)]
    rows = [
        commit_row(f"d{at:04}", ("ledger", Vote.COMMIT), idempotency_key=key)
        for at, (_, key) in enumerate(names)
    ]
    plans: list[str] = []
    async with open_postgres(postgres_server) as store:
        assert rows == await SqlDecisionLog(store).decide_all(rows)

        class _Store:
            async def look_up(self, work: Any) -> Any:
                return await store.look_up(lambda tx: work(_Explained(tx, plans)))

        log = SqlDecisionLog(_Store())  # type: ignore[arg-type]
        assert dict(zip(names[:3], rows[:3], strict=True)) == await log.by_keys(names[:3])
        assert rows[0] == await log.by_txn_id(rows[0].txn_id)
    assert len(plans) == 2
    assert _reads_nothing_in_vain(plans), plans


async def test_branches_are_looked_up_by_their_key(postgres_server: PostgresServer) -> None:
    """Among many rows only those that are asked for are read."""
    table = SqlBranchTable()
    keys = [BranchKey(TxnId(f"t{at:04}"), BranchId("b")) for at in range(MANY)]
    rows = [BranchRow(key, BranchState.PREPARED, "c", None, 1) for key in keys]
    plans: list[str] = []
    async with open_postgres(postgres_server) as store:
        await store.write(lambda tx: table.insert_all(tx, rows))
        for look in (store.write, store.look_up):
            found = await look(lambda tx: table.get_all(_Explained(tx, plans), keys[:3]))
            assert dict(zip(keys[:3], rows[:3], strict=True)) == found
    assert len(plans) == 2
    assert _reads_nothing_in_vain(plans), plans
