"""What has to be true of the books of a mesh: at any moment, and against what its client heard."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from tallystick.txn.v1 import coordinator_service_pb2 as pb

from tests.failpoints.host import PARTICIPANTS
from tests.support.books import HasBooks, truncated_to

COMMITTED = pb.OUTCOME_COMMITTED
ABORTED = pb.OUTCOME_ABORTED


# The keys of payments that the ledger alone makes, followed by their amounts: each has its own.
ALONE = "alone-"


@dataclass(frozen=True, slots=True)
class Heard:
    """A final answer to the request of that key, which is that of a trade, or begins with ALONE."""

    key: str
    outcome: pb.Outcome.ValueType
    txn_id: str


def at_any_moment(mesh: HasBooks) -> list[str]:
    """What is wrong with the books while transactions are under way.

    No branch is committed without a COMMITTED row, or, in one phase, a claim, nor aborted beside
    one (I2, I6); a COMMITTED row has a durable promise of every branch under it, and an end only
    once all have committed. The log is read before the branches and after, since others write
    meanwhile.
    """
    before = _decisions(mesh)
    branches = {name: _branches(mesh, name) for name in PARTICIPANTS}
    after = _decisions(mesh)
    gone = truncated_to(mesh)
    wrong: list[str] = []
    for name, states in branches.items():
        for txn_id, state in states.items():
            outcome = after[txn_id].outcome if txn_id in after else "ABORTED"
            if state == "COMMITTED" and outcome == "ABORTED" and txn_id > gone:
                wrong.append(f"{name} has committed {txn_id} without a decision")
            if state == "ABORTED" and outcome == "COMMITTED":
                wrong.append(f"{name} has aborted {txn_id}, which is committed")
        for txn_id, row in before.items():
            state = states.get(txn_id, "FORGOTTEN")
            may_be = {"COMMITTED"} if row.ended else {"PREPARED", "COMMITTED"}
            if txn_id not in after or after[txn_id].ended:
                may_be.add("FORGOTTEN")
            if row.outcome == "COMMITTED" and name in row.participants and state not in may_be:
                wrong.append(f"{txn_id} is committed, ended: {row.ended}, and {state} at {name}")
    return wrong


def against(mesh: HasBooks, heard: Iterable[Heard]) -> list[str]:
    """What the books say otherwise than the client was told (I3), or more than once (I4)."""
    wrong: list[str] = []
    told: dict[str, set[tuple[pb.Outcome.ValueType, str]]] = {}
    for each in heard:
        told.setdefault(each.key, set()).add((each.outcome, each.txn_id))
    for key, answers in told.items():
        if len(answers) > 1:
            wrong.append(f"{key} has had several answers: {answers}")
        outcome, txn_id = min(answers)
        expected = [(txn_id,)] if outcome == COMMITTED else []
        for what, effects in _effects(mesh, key).items():
            if effects != expected:
                heard_that = f"{pb.Outcome.Name(outcome)} {txn_id}"
                wrong.append(f"{key}: heard {heard_that}, {what} {effects}")
    return wrong


def _effects(mesh: HasBooks, key: str) -> dict[str, list[tuple[object, ...]]]:
    """By whom each effect of a request was made, in each book that it should be in."""
    if key.startswith(ALONE):
        amount = f"amount_minor = {key.removeprefix(ALONE)} AND reference = ''"
        query = f"SELECT txn_id FROM journal_entry JOIN posting USING (entry_id) WHERE {amount}"
        return {"posted": mesh.rows("ledger", query)}
    trade = f"SELECT txn_id FROM trade WHERE trade_no = '{key}' AND state = 'TRADE_SUCCESS'"
    entry = f"SELECT txn_id FROM journal_entry WHERE reference = '{key}'"
    return {"paid": mesh.rows("order", trade), "posted": mesh.rows("ledger", entry)}


def unended(mesh: HasBooks) -> list[tuple[object, ...]]:
    """Commits and claims without a durable end."""
    return mesh.rows("coordinator", "SELECT txn_id FROM decision WHERE ended = 0")


def remembered(mesh: HasBooks, txn_id: str) -> bool:
    """Whether a transaction is still known anywhere."""
    return txn_id in _decisions(mesh) or any(txn_id in _branches(mesh, p) for p in PARTICIPANTS)


class _Decision(NamedTuple):
    outcome: str
    ended: bool
    participants: frozenset[str]


def _decisions(mesh: HasBooks) -> dict[str, _Decision]:
    found = mesh.rows("coordinator", "SELECT txn_id, outcome, ended, branches FROM decision")
    return {
        str(txn_id): _Decision(
            str(outcome),
            bool(ended),
            frozenset(participant for _, participant, _ in json.loads(str(branches))),
        )
        for txn_id, outcome, ended, branches in found
    }


def _branches(mesh: HasBooks, name: str) -> dict[str, str]:
    found = mesh.rows(name, "SELECT txn_id, state FROM branch")
    return {str(txn_id): str(state) for txn_id, state in found}
