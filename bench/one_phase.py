"""A single branch in one phase, against the same in two.

The method stands in `bench.txn`.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from bench import stocking
from bench.interleaved import b_over_a
from bench.paying import Figure, Run, Side, latency, slices_of
from bench.rig import Rig
from services.coordinator.__main__ import ONE_PHASE

_PHASES = {"one": {}, "two": {ONE_PHASE: "0"}}


async def one_phase_vs_two(run: Run) -> Figure:
    """Latency of a lone transaction with a single branch, over that of one in two phases."""
    sizes = run.sizes
    stocked = {sizes.single: slices_of(sizes.slices) * sizes.alone}
    sides = {
        phases: Side(client=run.client, home=run.scratch / f"{phases}-phase", stocked=stocked)
        for phases in _PHASES
    }
    async with AsyncExitStack() as stack:
        for phases, side in sides.items():
            stocking.stock(side.home, stocked)
            rig = await stack.enter_async_context(Rig(side.home, variables=_PHASES[phases]))
            side.address = rig.address
        send = {
            phases: partial(side.send, "unary", sizes.single, sizes.alone, 1)
            for phases, side in sides.items()
        }
        measured = await b_over_a(
            lambda: latency(send["one"]), lambda: latency(send["two"]), sizes.slices
        )
    for side in sides.values():
        side.check()
    return measured["ratio"], {
        "ratio": measured,
        "one_ms": round(1 / measured["a"], 3),
        "two_ms": round(1 / measured["b"], 3),
    }
