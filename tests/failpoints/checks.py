"""What has to be true of the books of a mesh: at any moment, and against what its client heard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tallystick.txn.v1 import coordinator_service_pb2 as pb

from tests.failpoints.host import PARTICIPANTS
from tests.support.books import HasBooks, rows, truncated_to

COMMITTED = pb.OUTCOME_COMMITTED
ABORTED = pb.OUTCOME_ABORTED


@dataclass(frozen=True, slots=True)
class Heard:
    """A final answer to the request that pays `trade`."""

    trade: str
    outcome: pb.Outcome.ValueType
    txn_id: str


def at_any_moment(mesh: HasBooks) -> list[str]:
    """What is wrong with the books while transactions are under way.

    No branch is committed without a COMMITTED row, nor aborted beside one (I2, I6); a COMMITTED
    row has a durable promise of every branch under it, and an end only once all have
    committed. The log is read before the branches and after, since others write meanwhile.
    """
    before = _decisions(mesh)
    branches = {name: _branches(mesh, name) for name in PARTICIPANTS}
    after = _decisions(mesh)
    gone = truncated_to(mesh)
    wrong: list[str] = []
    for name, states in branches.items():
        for txn_id, state in states.items():
            committed = after.get(txn_id, ("", False))[0] == "COMMITTED"
            if state == "COMMITTED" and not committed and txn_id > gone:
                wrong.append(f"{name} has committed {txn_id} without a decision")
            if state == "ABORTED" and committed:
                wrong.append(f"{name} has aborted {txn_id}, which is committed")
        for txn_id, (outcome, ended) in before.items():
            state = states.get(txn_id, "FORGOTTEN")
            may_be = {"COMMITTED"} if ended else {"PREPARED", "COMMITTED"}
            if after.get(txn_id, ("", True))[1]:
                may_be.add("FORGOTTEN")
            if outcome == "COMMITTED" and state not in may_be:
                wrong.append(f"{txn_id} is committed, ended: {ended}, and {state} at {name}")
    return wrong


def against(mesh: HasBooks, heard: Iterable[Heard]) -> list[str]:
    """What the books say otherwise than the client was told (I3), or more than once (I4)."""
    wrong: list[str] = []
    told: dict[str, set[tuple[pb.Outcome.ValueType, str]]] = {}
    for each in heard:
        told.setdefault(each.trade, set()).add((each.outcome, each.txn_id))
    for trade, answers in told.items():
        if len(answers) > 1:
            wrong.append(f"{trade} has had several answers: {answers}")
        outcome, txn_id = min(answers)
        paid = rows(
            mesh.book("order"),
            f"SELECT txn_id FROM trade WHERE trade_no = '{trade}' AND state = 'TRADE_SUCCESS'",
        )
        posted = rows(
            mesh.book("ledger"), f"SELECT txn_id FROM journal_entry WHERE reference = '{trade}'"
        )
        expected = [(txn_id,)] if outcome == COMMITTED else []
        if not paid == posted == expected:
            wrong.append(
                f"{trade}: heard {pb.Outcome.Name(outcome)} {txn_id}, paid {paid}, posted {posted}"
            )
    return wrong


def unended(mesh: HasBooks) -> list[tuple[object, ...]]:
    """Commits without a durable end."""
    return rows(mesh.book("coordinator"), "SELECT txn_id FROM decision WHERE ended = 0")


def remembered(mesh: HasBooks, txn_id: str) -> bool:
    """Whether a transaction is still known anywhere."""
    return txn_id in _decisions(mesh) or any(txn_id in _branches(mesh, p) for p in PARTICIPANTS)


def _decisions(mesh: HasBooks) -> dict[str, tuple[str, bool]]:
    found = rows(mesh.book("coordinator"), "SELECT txn_id, outcome, ended FROM decision")
    return {str(txn_id): (str(outcome), bool(ended)) for txn_id, outcome, ended in found}


def _branches(mesh: HasBooks, name: str) -> dict[str, str]:
    found = rows(mesh.book(name), "SELECT txn_id, state FROM branch")
    return {str(txn_id): str(state) for txn_id, state in found}
