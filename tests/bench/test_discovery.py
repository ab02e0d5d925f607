"""The measurement of discovery measures something: its size is tiny here, its figures unjudged."""

from __future__ import annotations

from bench import discovery

SMALL = discovery.Sizes(puts=5, endpoints=50, changes=3, idle_s=0.2)
KEYS = {
    "propagation_p50_vs_bare",
    "propagation_p99_vs_bare",
    "list_10k_s",
    "change_10k_cpu_ms",
    "idle_outage_core_share",
}


async def test_every_promised_key_is_measured() -> None:
    """The keys that other things read are there, as numbers, the times as positive ones."""
    result = await discovery.measure(SMALL)
    assert set() == KEYS - result.keys()
    assert {"propagation_p50_vs_bare", "list_10k_s"} <= {
        key for key in KEYS if float(result[key]) > 0
    }
