"""I9: what processes take of the machine, and how they have ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.findings import Findings

FDS_MORE_MAX = 24
THREADS_MORE_MAX = 12
# The page cache of a store fills as the books grow.
MEMORY_MORE_MAX_BYTES = 128 * 1024 * 1024
KILLED = -9
ALARM_MARK = "ALARM"
# Whether that may be is seen from how it ends.
FENCED_MARK = "another coordinator has taken over: ending"
ERROR_MARKS = (
    ALARM_MARK,
    '"level": "error"',
    '"level": "critical"',
    "Traceback (most recent call last)",
)


@dataclass(frozen=True, slots=True)
class Taken:
    """What one process takes."""

    fds: int
    threads: int
    memory_bytes: int


def taken(pid: int) -> Taken | None:
    """As the kernel says; None when the process is gone, or this is not Linux."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        fds = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines())
    memory_bytes = int(fields.get("VmRSS", "0 kB").split()[0]) * 1024
    return Taken(fds, int(fields["Threads"]), memory_bytes)


def too_much(before: Taken, now: Taken) -> str:
    """What a process takes more of than it may; empty when nothing."""
    more = [
        f"{name} {had} -> {has}"
        for name, had, has, allowed in (
            ("descriptors", before.fds, now.fds, FDS_MORE_MAX),
            ("threads", before.threads, now.threads, THREADS_MORE_MAX),
            ("bytes", before.memory_bytes, now.memory_bytes, MEMORY_MORE_MAX_BYTES),
        )
        if has > had + allowed
    ]
    return ", ".join(more)


def check_taken(
    found: Findings, before: Mapping[str, Taken], now: Mapping[str, Taken | None]
) -> None:
    """Each process by its name; one that is not there now does not live."""
    for name, had in before.items():
        has = now.get(name)
        found.check("I9", has is not None, f"{name} is not there")
        if has is not None:
            more = too_much(had, has)
            found.check("I9", not more, f"{name} takes more than before: {more}")


def check_ends(
    found: Findings,
    supervisor_log: Iterable[str],
    killed: Callable[[int], bool],
    may_be_fenced: Callable[[str, int], bool],
) -> None:
    """Nobody has ended but by our hand, or fenced by another coordinator: by name and code."""
    for line in supervisor_log:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("event") == "ended":
            ours = entry["code"] == KILLED and killed(entry["pid"])
            ours = ours or may_be_fenced(entry["process"], entry["code"])
            found.check("I9", ours, f"{entry['process']} ended by itself with {entry['code']}")


def check_logs(found: Findings, name: str, lines: Iterable[str]) -> None:
    """No alarm, and nothing that the code did not expect: what is expected is no error."""
    bad = [
        line
        for line in lines
        if any(mark in line for mark in ERROR_MARKS) and FENCED_MARK not in line
    ]
    alarms = [line for line in bad if ALARM_MARK in line]
    errors = [line for line in bad if ALARM_MARK not in line]
    found.check("I6", not alarms, f"{name} has {len(alarms)} alarms: {alarms[:1]}")
    found.check("I9", not errors, f"{name} has {len(errors)} errors: {errors[:1]}")
