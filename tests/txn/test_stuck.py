"""A participant that is stuck: whom it holds up, and who sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from tests.support.waiting import eventually
from tests.txn.helpers import (
    CALLER,
    WAIT_S,
    Gate,
    ManualClock,
    Scripted,
    ScriptedTransport,
    branch,
    coordinator,
    start,
)
from txn.errors import UnknownBranch
from txn.metrics_prometheus import PrometheusCoordinatorMetrics
from txn.state import Outcome
from txn.testing import MemoryDecisionLog, MemoryStore

OTHERS = 100


@pytest.mark.parametrize(
    ("verb", "answer"),
    [("prepare", Gate), ("commit", Gate), ("commit", lambda: UnknownBranch("never heard of it"))],
    ids=["hangs before its vote", "hangs after it", "alarms"],
)
async def test_a_participant_that_is_stuck_is_seen_and_slows_nobody_else(
    verb: str, answer: Callable[[], Scripted]
) -> None:
    """While no time passes at all, a hundred payments at others are through, it alone is not."""
    transport, clock, registry = ScriptedTransport(), ManualClock(), CollectorRegistry()
    transport.always[verb, "ledger"] = answer()
    engine = coordinator(
        transport,
        MemoryDecisionLog(MemoryStore()),
        clock=clock,
        metrics=PrometheusCoordinatorMetrics(registry),
        gather_max_s=0.0,
    )
    await start(engine)

    async def pay(key: str, *names: str) -> Outcome:
        result = await engine.execute(
            caller=CALLER,
            idempotency_key=key,
            branches=[branch(name) for name in names],
            wait_s=WAIT_S,
        )
        return result.outcome

    stuck = asyncio.ensure_future(pay("stuck", "order", "ledger"))
    await eventually(lambda: transport.count(verb, "ledger") == 1)
    others = await asyncio.gather(*(pay(f"k{at}", "order", "audit") for at in range(OTHERS)))
    assert [Outcome.COMMITTED] * OTHERS == others
    # Nobody's clock has moved: whoever had waited for one would not be back.
    assert (0.0, 1, False) == (clock.now_s, transport.count(verb, "ledger"), stuck.done())

    listed = await engine.list_transactions(after="", limit=2 * OTHERS, unfinished_only=True)
    # Of the others some ends wait for the next force.
    (view,) = [each for each in listed if each.active]
    assert ["ledger"] == [each.participant for each in view.branches if not each.acknowledged][-1:]
    assert 1.0 == registry.get_sample_value("tallystick_txn_active")
    alarms = registry.get_sample_value("tallystick_txn_alarms_total", {"participant": "ledger"})
    assert (alarms == 1.0) is isinstance(transport.always[verb, "ledger"], UnknownBranch)
    await clock.advance(12.0)
    assert 12.0 == registry.get_sample_value("tallystick_txn_oldest_age_seconds")
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)
    await engine.close(grace_s=0)
