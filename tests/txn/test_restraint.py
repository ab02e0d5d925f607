"""How housekeeping gives way."""

from __future__ import annotations

import asyncio

import pytest

from tests.txn.helpers import ManualClock, turns
from txn.forgetter import ForgetterConfig
from txn.log_keeper import LogKeeperConfig
from txn.restraint import Restraint


@pytest.mark.parametrize(
    ("took_s", "rest_s"), [(0.0, 0.5), (0.1, 0.5), (0.125, 0.5), (0.25, 1.0), (10.0, 40.0)]
)
async def test_a_rest_is_in_proportion_to_the_step_before(took_s: float, rest_s: float) -> None:
    """A fifth of the time at most is for steps, and a rest is never shorter than the pause."""
    clock = ManualClock()
    restraint = Restraint(clock, pause_s=0.5, busy_share_max=0.2)
    for _ in range(2):
        await clock.advance(took_s)
        resting = asyncio.ensure_future(restraint.rest())
        await turns()
        assert [pytest.approx(rest_s)] == clock.sleeps
        await clock.advance(rest_s)
        await resting


@pytest.mark.parametrize("kind", [LogKeeperConfig, ForgetterConfig])
@pytest.mark.parametrize(
    "wrong",
    [
        {"busy_share_max": 0.0},
        {"busy_share_max": 1.1},
        {"rows_per_step": 0},
        {"pause_s": 0.0},
        {"interval_s": -1.0},
    ],
    ids=str,
)
def test_nonsense_is_refused(
    kind: type[LogKeeperConfig | ForgetterConfig], wrong: dict[str, float]
) -> None:
    """Limits that would stop it, or let it take everything."""
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
        kind(**wrong)  # type: ignore[arg-type]
