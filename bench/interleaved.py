"""Two ways to do a thing, compared in slices that alternate.

On a shared machine the speed of everything changes from second to second, by more than
what is to be measured. So A and B take turns in short slices, A B B A, whose drift cancels
within each block of four; each block gives one ratio, and the median of these counts. What
a ratio of two equal things comes to is measured beside, by an A that runs against itself.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, NamedTuple

from bench.stats import percentile

_BLOCK: Final = "ABBA"
_SLICES_PER_BLOCK: Final = 2
_DIGITS: Final = 4


class Slice(NamedTuple):
    """`amount` of what one wants more of (calls), for a `cost` (seconds)."""

    amount: float
    cost: float


def turns(slices: int) -> Iterator[str]:
    """Whose turn it is: A and B, `slices` times each, rounded up to whole blocks."""
    for _ in range(-(-slices // _SLICES_PER_BLOCK)):
        yield from _BLOCK


async def b_over_a(
    a: Callable[[], Awaitable[Slice]], b: Callable[[], Awaitable[Slice]], slices: int
) -> dict[str, Any]:
    """How much more B gets for the same cost than A: the median over the blocks, and both."""
    sides = {"A": a, "B": b}
    # Whatever happens once only, happens before.
    await a()
    await b()
    taken = [(side, await sides[side]()) for side in turns(slices)]
    return compared(taken)


def compared(taken: list[tuple[str, Slice]]) -> dict[str, Any]:
    """The ratios of the blocks in `taken`, in the order of `turns`."""
    ratios = []
    for start in range(0, len(taken), len(_BLOCK)):
        block = taken[start : start + len(_BLOCK)]
        ratios.append(_rate("B", block) / _rate("A", block))
    return {
        "ratio": round(statistics.median(ratios), _DIGITS),
        "p10": round(percentile(ratios, 10), _DIGITS),
        "p90": round(percentile(ratios, 90), _DIGITS),
        "blocks": len(ratios),
        "a": round(_rate("A", taken), _DIGITS),
        "b": round(_rate("B", taken), _DIGITS),
    }


def _rate(side: str, taken: list[tuple[str, Slice]]) -> float:
    slices = [each for name, each in taken if name == side]
    return sum(each.amount for each in slices) / sum(each.cost for each in slices)
