"""The measurement of the balancer measures: its size is tiny here, its figures unjudged."""

from __future__ import annotations

from bench import balancer, picks

SMALL = balancer.Sizes(
    slices=2,
    slice_s=0.02,
    p99_slice_s=0.05,
    cpu_calls=20,
    repeats=1,
    ring_endpoints=20,
    ring_repeats=1,
    spread_keys=1_000,
    failing_calls=16,
)


async def test_every_promised_key_is_measured() -> None:
    """Each key is a figure above 0; picks have one for each policy."""
    result = await balancer.measure(SMALL)
    assert set(balancer.TARGETS) == set(balancer.MEASUREMENTS)
    assert balancer.MEASUREMENTS.keys() <= result.keys()
    assert set(picks.POLICIES) == result.pop("pick_us").keys()
    # CPU time of a few calls may come to nothing.
    figures = [
        result[key] for key in balancer.MEASUREMENTS if not key.startswith(("added", "pick"))
    ]
    assert all(figure > 0 for figure in figures)
