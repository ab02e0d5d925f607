"""Operators who force what does not get on, as far as they may, and never against the truth."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from tests.sim.hosts import CoordinatorHost, Host
from tests.sim.oracle import Oracle
from txn.coordinator import Coordinator
from txn.errors import ForceRefused, TxnError
from txn.forcing import Resolution
from txn.model import BranchKey, TxnId
from txn.state import TransactionState

# How often one looks for something that is not over, and how long in between.
LOOKS = 20
LOOK_S = 0.05
_ASKED = (TransactionState.PERFORMING, TransactionState.RESOLVING)


class Workplace(Protocol):
    """What of a world an operator sees."""

    hosts: dict[str, Host]
    oracle: Oracle
    # Whether the faults are over.
    healed: bool

    def see(self, what: str) -> None:
        """Counts."""


async def force_something(world: Workplace, at: CoordinatorHost, luck: int) -> None:
    """Tells one coordinator to force one of the transactions that are under way anywhere.

    What another coordinator drives, a commit of what has no votes and another outcome than the
    one that stands are refused, which is for the oracle to see.
    """
    for _ in range(LOOKS):
        if at.engine is None or world.healed:
            return
        found = _under_way(world)
        if found:
            txn_id, driver = found[luck % len(found)]
            resolution = _wanted(world.oracle, txn_id, driver, at.engine, commit=luck % 5 == 0)
            if resolution is not None:
                await _force(world, at.engine, txn_id, resolution)
                return
        await asyncio.sleep(LOOK_S)


def _under_way(world: Workplace) -> Sequence[tuple[TxnId, Coordinator]]:
    engines = [
        host.engine
        for _, host in sorted(world.hosts.items())
        if isinstance(host, CoordinatorHost) and host.engine is not None
    ]
    return [(txn_id, engine) for engine in engines for txn_id in engine._active]


def _wanted(
    oracle: Oracle, txn_id: TxnId, driver: Coordinator, asked: Coordinator, *, commit: bool
) -> Resolution | None:
    """Of a single branch that may have been asked, what has become of it, if that is known."""
    transaction = driver._active[txn_id]
    if transaction.lost_to() is not None:
        # Whoever has its key is not meant.
        return Resolution.ENDED
    state = transaction.progress.state
    if state not in (*_ASKED, TransactionState.CLAIMING):
        return Resolution.COMMIT if commit else Resolution.ABORT
    if state is TransactionState.CLAIMING and asked is driver:
        return Resolution.ABORT
    ((branch_id, participant),) = transaction.participants.items()
    return oracle.truth((participant, BranchKey(txn_id, branch_id)))


async def _force(
    world: Workplace, engine: Coordinator, txn_id: TxnId, resolution: Resolution
) -> None:
    try:
        record = await engine.resolve(txn_id, resolution, operator="ann", reason="it is stuck")
    except ForceRefused:
        world.see("force refused")
    except TxnError as error:
        world.see(f"force failed: {type(error).__name__}")
    else:
        world.see(f"forced {record.after}")
        world.oracle.forced(record)
