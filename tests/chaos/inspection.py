"""What is looked at when the fire is out: processes, logs, books, and the calls that were made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from tests.chaos.checker import check
from tests.chaos.crowd import Crowd
from tests.chaos.findings import Findings
from tests.chaos.history import Attempt, Heard
from tests.chaos.monitor import Monitor
from tests.chaos.nemesis import Record
from tests.chaos.probes import SETTLE_S, Span, judge
from tests.chaos.resources import Taken, check_ends, check_logs, check_taken, too_much
from tests.chaos.rig import Rig
from tests.chaos.verdict import LATE_MAX
from tests.chaos.waiting import LOOK_S

CALM_DOWN_TIMEOUT_S = 15.0
ENDS_TIMEOUT_S = 10.0


async def next_payment(found: Findings, monitor: Monitor, last: Attempt) -> None:
    """I5: it went through, and brought every END that waited for a group to be written with."""
    found.check("I5", last.heard is Heard.COMMITTED, f"the next payment was {last.heard}")
    until_s = time.monotonic() + ENDS_TIMEOUT_S
    while left := set((await monitor.books()).endless()) - {last.txn_id}:
        if time.monotonic() > until_s:
            break
        await asyncio.sleep(LOOK_S)
    found.check("I5", not left, f"commits without an end: {left}")


async def processes(
    found: Findings, rig: Rig, crowd: Crowd, monitor: Monitor, before: Mapping[str, Taken]
) -> None:
    """I9, and the alarms of I6, after everything had the time to be given back."""
    until_s = time.monotonic() + CALM_DOWN_TIMEOUT_S
    while True:
        now = monitor.taken()
        late = [name for name, had in before.items() if _takes_more(had, now.get(name))]
        if not late or time.monotonic() > until_s:
            break
        await asyncio.sleep(LOOK_S)
    check_taken(found, before, now)
    home = rig.settings.home
    said = home.log("supervisor").read_text(errors="replace").splitlines()
    check_ends(found, said, rig.killed, rig.may_be_fenced)
    for failure in crowd.failures:
        found.check("I9", False, failure)
    for process in rig.processes():
        lines = home.log(process.name).read_text(errors="replace").splitlines()
        check_logs(found, process.name, lines)


async def books(
    found: Findings, rig: Rig, monitor: Monitor, spans: list[Span], started_s: float
) -> None:
    """Everything else."""
    monitor.read_journals()
    found.add(await asyncio.to_thread(check, monitor.history, await monitor.books()))
    found.add(monitor.watch.found)
    # Who gets no turn for long loses leases and connections: that is not what I7 is about.
    fair = [
        each.since(started_s)
        for each in monitor.probes
        if each.began_s >= started_s
        and monitor.worst_late(each.began_s - SETTLE_S, each.ended_s) <= LATE_MAX
    ]
    judge(found, fair, spans, rig.cast)


def spans_since(record: Record, started_s: float) -> list[Span]:
    """The faults, with times counted from the beginning."""
    return [
        Span(
            done.fault,
            done.began_s - started_s,
            None if done.ended_s is None else done.ended_s - started_s,
        )
        for done in record.done
    ]


def _takes_more(had: Taken, has: Taken | None) -> bool:
    return has is None or bool(too_much(had, has))
