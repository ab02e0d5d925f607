"""An operator at a mesh of real processes: sees what is stuck, asks why, forces it, by name."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from tallystick.txn.v1 import coordinator_service_pb2

from services.coordinator.cli import DONE, FAILED, USAGE
from tests.support.books import books_agree
from tests.support.children import ROOT
from tests.support.faults import stopped
from tests.support.mesh import CALL_TIMEOUT_S, Mesh, Shop
from tests.support.waiting import eventually
from txn.crash_point import AFTER_DECISION
from txn.forcing import FORCED_BY_OPERATOR
from txn.rpc import reason_of

SEEN_WITHIN_S = 60.0
SIGNED = ("--operator", "ann", "--reason", "the ledger hangs")


async def command(mesh: Mesh, *arguments: str, typed: str = "") -> tuple[int, str, str]:
    """Runs a command of the operator against the mesh's coordinator."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.coordinator", *arguments,
        "--address", mesh.processes["coordinator-0"].address,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(typed.encode()), SEEN_WITHIN_S)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def shown(mesh: Mesh, *arguments: str) -> dict[str, Any]:
    """What a command says in JSON."""
    code, out, err = await command(mesh, *arguments, "--json")
    assert code == DONE, err
    found: dict[str, Any] = json.loads(out)
    return found


async def stuck(mesh: Mesh, state: str) -> dict[str, Any]:
    """The one transaction that is not over, once it waits for the ledger after an error."""
    found: dict[str, Any] = {}

    async def seen() -> bool:
        listed = await mesh.coordinator.ListTransactions(
            coordinator_service_pb2.ListTransactionsRequest(unfinished_only=True),
            timeout=CALL_TIMEOUT_S,
        )
        for each in listed.transactions:
            found.update(MessageToDict(each, preserving_proto_field_name=True))
        branches = {branch["branch_id"]: branch for branch in found.get("branches", [])}
        found["branches"] = list(branches.values())
        found["by_id"] = branches
        return "last_error" in branches.get("ledger", {})

    await eventually(seen, timeout_s=SEEN_WITHIN_S, what="a stuck transaction")
    assert found["state"] == f"TRANSACTION_STATE_{state}"
    return found


async def force(mesh: Mesh, txn_id: str, to: coordinator_service_pb2.Resolution.ValueType) -> str:
    """What stood before and after."""
    reply = await mesh.coordinator.ResolveTransaction(
        coordinator_service_pb2.ResolveTransactionRequest(
            txn_id=txn_id, resolution=to, operator="ann", reason="the ledger hangs"
        ),
        timeout=CALL_TIMEOUT_S,
    )
    return f"{reply.record.before} {reply.record.after}"


def happenings(explained: dict[str, Any]) -> list[str]:
    """What a timeline is about, one after the other."""
    return [each["happening"].removeprefix("HAPPENING_") for each in explained["entries"]]


async def test_a_payment_that_waits_for_a_stopped_ledger_is_forced_to_abort(
    hurt_mesh: Mesh,
) -> None:
    """It is seen while it waits, not committed, aborted at once; the record survives a restart."""
    shop = await Shop(hurt_mesh).open()
    trade = await shop.trade()
    with stopped(hurt_mesh.processes["ledger-0"]):
        payment = asyncio.ensure_future(shop.execute(trade))
        waiting = await stuck(hurt_mesh, "PREPARING")
        txn_id = waiting["txn_id"]
        assert "acknowledged" not in waiting["by_id"]["ledger"]
        assert waiting["by_id"]["order"]["vote"] == "VOTE_COMMIT"
        with pytest.raises(grpc.aio.AioRpcError, match="it stands as PREPARING") as refused:
            await force(hurt_mesh, txn_id, coordinator_service_pb2.RESOLUTION_COMMIT)
        assert reason_of(refused.value) == "FORCE_REFUSED"
        abort = coordinator_service_pb2.RESOLUTION_ABORT
        assert await force(hurt_mesh, txn_id, abort) == "NONE ABORTED_ENDED"
        reply = await payment
    assert (coordinator_service_pb2.OUTCOME_ABORTED, FORCED_BY_OPERATOR) == (
        reply.outcome,
        reply.reason,
    )
    await books_agree(hurt_mesh)
    (record,) = (await shown(hurt_mesh, "list", "--audit"))["records"]
    await hurt_mesh.restart("coordinator-0")
    assert [record] == (await shown(hurt_mesh, "list", "--audit"))["records"]
    assert (txn_id, "ann", "the ledger hangs") == (
        record["txn_id"],
        record["operator"],
        record["reason"],
    )
    explained = await shown(hurt_mesh, "explain", "--key", f"direct:{trade.trade_no}")
    assert txn_id == explained["txn_id"]
    assert {"OUTCOME_DURABLE", "FORCED"} <= set(happenings(explained))
    assert any("not remembered" in gap for gap in explained["gaps"])


async def test_a_commit_that_a_stopped_ledger_does_not_acknowledge_is_ended(
    hurt_mesh: Mesh,
) -> None:
    """Listed, explained, not to be aborted, ended by hand; then the ledger asks, and has it."""
    shop = await Shop(hurt_mesh).open()
    trade = await shop.trade()
    coordinator = hurt_mesh.processes["coordinator-0"]
    await hurt_mesh.restart("coordinator-0", failpoint=AFTER_DECISION)
    payment = asyncio.ensure_future(shop.execute(trade))
    assert await coordinator.ended() == -9
    payment.cancel()
    await asyncio.gather(payment, return_exceptions=True)
    with stopped(hurt_mesh.processes["ledger-0"]):
        coordinator.launch()
        await coordinator.serving()
        txn_id = (await stuck(hurt_mesh, "COMMITTING"))["txn_id"]
        code, out, _ = await command(hurt_mesh, "list")
        (row,) = [line.split() for line in out.splitlines() if line.startswith(txn_id)]
        assert (DONE, ["COMMITTING", "ledger", "COMMIT"]) == (code, row[2:5])
        code, out, _ = await command(hurt_mesh, "explain", txn_id)
        for said in ("RESUMED", "COMMIT_SENT", "FAILED", "ACKNOWLEDGED", "REMEMBERED"):
            assert f"  {said}  " in out
        assert "not known: what was before it was taken up again" in out
        assert "not known: ledger does not say what it remembers: " in out

        resolve = ("resolve", txn_id, *SIGNED, "--outcome")
        code, _, err = await command(hurt_mesh, *resolve, "abort", "--yes")
        assert (FAILED, True) == (code, "FORCE_REFUSED: it stands as COMMITTING" in err)
        code, _, err = await command(hurt_mesh, *resolve, "ended", typed="no\n")
        assert (USAGE, True) == (code, "nothing was changed" in err)
        code, out, _ = await command(hurt_mesh, *resolve, "ended", typed="yes\n")
        assert (DONE, True) == (code, "the ledger hangs" in out)
        assert {} == await shown(hurt_mesh, "list")
    # It was in doubt, and asks: what was settled by hand has to be so there, too.
    await books_agree(hurt_mesh)
    assert "FORCED" in happenings(await shown(hurt_mesh, "explain", txn_id))
    assert await shop.state_of(trade) == "TRADE_SUCCESS"
    code, _, err = await command(hurt_mesh, *resolve, "ended", "--yes")
    assert (FAILED, True) == (code, "it stands as COMMITTED_ENDED: it is final" in err)
