"""A history as text, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.sim.plan import Fault, Plan, Wish
from tests.sim.world import Report
from txn.model import Batch, BranchKey

# What fills a trace and seldom explains it.
_LOUD = frozenset({"comes", "twice", "lost"})


def lines(report: Report, *, network: bool) -> Iterator[str]:
    """What happened, in order; with every message when `network`."""
    for at_s, what, *rest in report.events:
        if network or what not in _LOUD:
            yield f"{at_s:10.6f}  {what:<10} {'  '.join(_text(each) for each in rest)}"


def plan_lines(plan: Plan) -> Iterator[str]:
    """What was planned."""
    yield (
        f"replicas={plan.replicas} coordinators={len(plan.coordinators)} safety_s={plan.safety_s}"
    )
    yield str(plan.limits)
    yield str(plan.weather)
    for wish in plan.wishes:
        yield f"wish  {wish.at_s:8.4f}  {_text(wish)}"
    for fault in plan.faults:
        yield f"fault {fault.at_s:8.4f}  {_text(fault)}"


def _text(what: Any) -> str:
    match what:
        case BranchKey():
            return f"{what.txn_id[8:20]}/{what.branch_id}"
        case Batch():
            names = (f"{type(each).__name__} {_text(each.key)}" for each in what.messages)
            return f"[{', '.join(names)}]"
        case Wish():
            steps = "; ".join(
                f"{p.branch_id}: {' '.join(map(str, p.step[:3]))}" for p in what.parts
            )
            return f"{what.client} {what.caller}/{what.key} ({steps})"
        case Fault():
            return f"{what.kind} {what.target} for {what.for_s:.3f} s ({what.number} {what.other})"
        case list() | tuple():
            return ", ".join(map(_text, what))
        case _:
            return str(what)
