"""Planted bugs of what operators force; see mutants.py."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from tests.sim import mutants
from tests.sim.mutants import mutant, simulated
from txn import audit, testing
from txn.audit import AuditRecord
from txn.coordinator import Coordinator
from txn.forcing import Resolution
from txn.model import TxnId
from txn.state import Outcome


@simulated
def claim_aborted_unseen(stack: ExitStack) -> None:
    """Who aborts by force what has no row aborts a claim that came first."""
    rule = audit.may_take_the_place

    def blind(row: Any, stands: Any, over: Any) -> bool:
        return rule(row, stands, None if stands is None else stands.outcome)

    mutants.swap(stack, testing, "may_take_the_place", blind)


@simulated
def forced_over_an_outcome(stack: ExitStack) -> None:
    """What is forced ends whatever outcome stands, acknowledged or not."""
    rule = audit.may_take_the_place

    def lax(row: Any, stands: Any, over: Any) -> bool:
        decided = stands is not None and stands.outcome is not Outcome.PENDING
        return decided or rule(row, stands, over)

    mutants.swap(stack, testing, "may_take_the_place", lax)


@simulated
def forced_without_a_record(stack: ExitStack) -> None:
    """The record of a force is not written with it."""
    force = testing._force

    def forgetful(tx: Any, row: Any, by: Any, over: Any) -> Any:
        forced = force(tx, row, by, over)
        if forced.record is not None:
            del tx["audit"][forced.record.number]
        return forced

    mutants.swap(stack, testing, "_force", forgetful)


@mutant
def forced_what_another_drives(stack: ExitStack) -> None:
    """A coordinator aborts by force what another one may still decide."""

    async def resolve(
        self: Coordinator, txn_id: TxnId, resolution: Resolution, *, operator: str, reason: str
    ) -> AuditRecord:
        self._refuse_unless_serving()
        return await self._forcer.force(txn_id, resolution, operator, reason)

    mutants.swap(stack, Coordinator, "resolve", resolve)
