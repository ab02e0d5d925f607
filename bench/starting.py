"""What a start takes: with transactions in doubt, and with a long log.

The method stands in `bench.txn`.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc.aio
from tallystick.txn.v1 import coordinator_service_pb2, coordinator_service_pb2_grpc

from bench import stocking
from bench.paying import Figure, Run
from bench.payments import AMOUNT_MINOR, PARTICIPANTS, Series
from bench.rig import SERVICES, Rig
from tests.support.waiting import eventually
from txn.ids import new_id_after
from txn.model import BranchId, BranchKey, BranchRow, Operation, TxnId
from txn.state import BranchState
from txn.store.sql_branches import SqlBranchTable

LOG_ID: Final = "-0123456789abcdef"
RESOLVED_WITHIN_S: Final = 60.0
TIMEOUT_S: Final = 20.0
_CALLER: Final = "anonymous"


async def indoubt(run: Run) -> Figure:
    """Seconds from launch until nothing is in doubt: the longer of both kinds of doubt."""
    decided = await _resolved_s(run, run.scratch / "decided", decided=True)
    presumed = await _resolved_s(run, run.scratch / "presumed", decided=False)
    longest_s = max(decided["resolved_s"], presumed["resolved_s"])
    return longest_s, {"decided": decided, "presumed_aborted": presumed}


async def _resolved_s(run: Run, home: Path, *, decided: bool) -> dict[str, float]:
    count = run.sizes.doubtful
    series = run.sizes.uniform
    stocking.stock(home, {series: count})
    txn_ids = list(_txn_ids(count))
    with stocking.filling(home, "coordinator") as connection:
        connection.execute("INSERT INTO log_identity VALUES (1, ?)", (LOG_ID,))
        if decided:
            _add_decisions(connection, series, txn_ids)
    for service in PARTICIPANTS:
        with stocking.filling(home, service) as connection:
            _add_prepared(connection, service, series, txn_ids)
    assert stocking.in_doubt(home) == 2 * count
    async with Rig(home, ()) as rig:
        began_s = time.monotonic()
        await rig.start(SERVICES)
        serving_s = time.monotonic() - began_s
        await eventually(
            lambda: stocking.in_doubt(home) == 0, RESOLVED_WITHIN_S, what="nothing in doubt"
        )
        await eventually(lambda: _all_ended(rig.address), what="an end of each")
        resolved_s = time.monotonic() - began_s
    stocking.check(home, count if decided else 0)
    return {"resolved_s": round(resolved_s, 2), "serving_s": round(serving_s, 2)}


def _txn_ids(count: int) -> Iterator[str]:
    newest = ""
    for _ in range(count):
        newest = new_id_after(newest)
        yield newest + LOG_ID


def _add_decisions(connection: sqlite3.Connection, series: Series, txn_ids: list[str]) -> None:
    """Commits without an end."""
    branches = json.dumps([(f"{name}-0", name, "COMMIT") for name in PARTICIPANTS])
    now_us = time.time_ns() // 1_000
    connection.executemany(
        f"INSERT INTO decision VALUES (?, 'COMMITTED', '{_CALLER}', ?, x'00', ?, "
        "'', '', ?, 0, NULL)",
        (
            (txn_id, series.trade_no(number), branches, now_us)
            for number, txn_id in enumerate(txn_ids)
        ),
    )


def _add_prepared(
    connection: sqlite3.Connection, service: str, series: Series, txn_ids: list[str]
) -> None:
    """Prepared branches, and what they hold."""
    now_us = time.time_ns() // 1_000
    rows = []
    for number, txn_id in enumerate(txn_ids):
        branch = series.request(number).branches[PARTICIPANTS.index(service)]
        rows.append(
            BranchRow(
                BranchKey(TxnId(txn_id), BranchId(branch.branch_id)),
                BranchState.PREPARED,
                "coordinator",
                Operation(branch.operation.type_url, branch.operation.value),
                now_us,
            )
        )
    SqlBranchTable().insert_all(connection, rows)
    if service == "order":
        connection.executemany(
            "UPDATE trade SET state = 'PAYING', txn_id = ?, payer_account_id = ? "
            "WHERE trade_no = ?",
            (
                (txn_id, series.payer(number), series.trade_no(number))
                for number, txn_id in enumerate(txn_ids)
            ),
        )
        return
    connection.executemany(
        "INSERT INTO hold VALUES (?, 'ledger-0', ?, ?, ?)",
        (
            (txn_id, series.payer(number), series.payee(number), AMOUNT_MINOR)
            for number, txn_id in enumerate(txn_ids)
        ),
    )
    connection.executemany(
        "UPDATE account SET held_minor = held_minor + ? WHERE account_id = ?",
        ((AMOUNT_MINOR, series.payer(number)) for number in range(len(txn_ids))),
    )


async def _all_ended(address: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: coordinator_service_pb2_grpc.CoordinatorServiceAsyncStub = (
            coordinator_service_pb2_grpc.CoordinatorServiceStub(channel)
        )
        reply = await stub.ListTransactions(
            coordinator_service_pb2.ListTransactionsRequest(unfinished_only=True), timeout=TIMEOUT_S
        )
        return not reply.transactions


async def start(run: Run) -> Figure:
    """Seconds from launch until the coordinator serves, over a long log; and over an empty one."""
    finished = run.sizes.finished
    homes = {"finished": run.scratch / "finished", "empty": run.scratch / "empty"}
    taken: dict[str, list[float]] = {name: [] for name in homes}
    with stocking.filling(homes["empty"], "coordinator"):
        pass
    with stocking.filling(homes["finished"], "coordinator") as connection:
        connection.execute("INSERT INTO log_identity VALUES (1, ?)", (LOG_ID,))
        add_finished(connection, finished)
    async with Rig(run.scratch, ()) as rig:
        for _ in range(run.sizes.starts):
            for name, home in homes.items():
                rig.home = home
                began_s = time.monotonic()
                await rig.launch("coordinator")
                taken[name].append(round(time.monotonic() - began_s, 3))
                if name == "finished":
                    await _assert_finished(rig.address, finished - 1)
                await rig.stop()
    return statistics.median(taken["finished"]), taken


def add_finished(connection: sqlite3.Connection, count: int) -> None:
    """Commits that all participants have acknowledged."""
    branches = json.dumps([(f"{name}-0", name, "COMMIT") for name in PARTICIPANTS])
    connection.execute(
        f"{stocking.numbers(count)} "
        f"INSERT INTO decision SELECT printf('%032x', i) || '{LOG_ID}', 'COMMITTED', '{_CALLER}', "
        "'past-' || printf('%012d', i), randomblob(32), ?, '', '', ?, 1, NULL FROM n",
        (branches, time.time_ns() // 1_000),
    )


async def _assert_finished(address: str, number: int) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: coordinator_service_pb2_grpc.CoordinatorServiceAsyncStub = (
            coordinator_service_pb2_grpc.CoordinatorServiceStub(channel)
        )
        reply = await stub.GetTransaction(
            coordinator_service_pb2.GetTransactionRequest(idempotency_key=f"past-{number:012}"),
            timeout=TIMEOUT_S,
        )
    assert reply.transaction.outcome == coordinator_service_pb2.OUTCOME_COMMITTED
