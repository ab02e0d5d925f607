"""I9: what processes take, how they end, and what they say."""

from __future__ import annotations

import json
import os

from tests.chaos.findings import Findings
from tests.chaos.resources import (
    FDS_MORE_MAX,
    MEMORY_MORE_MAX_BYTES,
    THREADS_MORE_MAX,
    Taken,
    check_ends,
    check_logs,
    check_taken,
    taken,
    too_much,
)

BEFORE = Taken(20, 10, 10**8)


def test_what_this_process_takes_is_known() -> None:
    """Descriptors, threads and memory, of a process that is there."""
    mine = taken(os.getpid())
    assert mine is not None
    assert min(mine.fds, mine.threads) >= 1
    assert mine.memory_bytes > 10**6
    assert taken(2**22 + 1) is None


def test_each_kind_has_its_allowance() -> None:
    """As much is nothing, one more is told."""
    allowed = Taken(20 + FDS_MORE_MAX, 10 + THREADS_MORE_MAX, 10**8 + MEMORY_MORE_MAX_BYTES)
    assert "" == too_much(BEFORE, allowed)
    for name, more in (
        ("descriptors", Taken(allowed.fds + 1, 0, 0)),
        ("threads", Taken(0, allowed.threads + 1, 0)),
        ("bytes", Taken(0, 0, allowed.memory_bytes + 1)),
    ):
        assert name in too_much(BEFORE, more)


def test_who_leaks_or_is_gone_is_found() -> None:
    """Every process that was there before."""
    found = Findings()
    leaks = Taken(500, 10, 10**8)
    check_taken(found, dict.fromkeys("abc", BEFORE), {"a": BEFORE, "b": leaks, "c": None})
    assert 2 == found.broken["I9"]


def test_who_ends_by_itself_is_found() -> None:
    """An end that we did not bring about, whatever its code."""
    ends = [("order-0", 1, -9), ("ledger-0", 2, -9), ("wallet-0", 1, 5), ("order-1", 3, 6)]
    lines = [
        json.dumps({"event": "ended", "process": process, "pid": pid, "code": code})
        for process, pid, code in ends
    ]
    found = Findings()
    check_ends(
        found,
        [*lines, "not json", '{"event": "state"}'],
        lambda pid: pid == 1,
        lambda process, code: (process, code) == ("order-1", 6),
    )
    assert (4, 2) == (found.looked["I9"], found.broken["I9"])


def test_alarms_and_what_nobody_expected_are_found() -> None:
    """In the log of each process."""
    found = Findings()
    check_logs(found, "order-0", ['{"event": "serving", "level": "info"}'])
    assert 0 == found.total
    check_logs(found, "order-0", ['{"event": "ALARM at order", "level": "critical"}'])
    check_logs(found, "order-0", ['{"event": "unexpected", "level": "error"}'])
    check_logs(found, "order-0", ["Traceback (most recent call last):", "  File"])
    assert (1, 2) == (found.broken["I6"], found.broken["I9"])
