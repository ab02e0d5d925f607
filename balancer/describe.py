"""A channel in words: who could get a call, who does not, and why.

    ledger: READY, 2 of 3 endpoints take calls, policy round_robin
      ADDRESS     ZONE  WEIGHT  STATE  HEALTH       IN FLIGHT  CALLS  NOTE
      10.0.0.1:1  a          1  READY  SERVING              2  1,204
      10.0.0.2:1  a          1  READY  SERVING              0  1,201
      10.0.0.3:1  b          1  READY  NOT_SERVING          0     17  it says NOT_SERVING

Facts in, text or a dict out; the facts are gathered by `channel.describe()`. What servers
and registries say is shown with everything unprintable escaped and cut at
MAX_NOTE_CHARS, since a status message must not drive the terminal it is read on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

MAX_NOTE_CHARS: Final = 120
MAX_ENDPOINTS_SHOWN: Final = 50

_INDENT = "  "
_GAP = "  "


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointFacts:
    """One endpoint at one moment.

    `state` is the connectivity state by name; `health` what a health watch says, "" if
    nobody asks. `ejected_for_s` are the seconds until an outlier is let in again, None if
    it is not out. `calls` have been started there, attempts each. `not_picked` says why no
    call goes there, "" if calls do.
    """

    address: str
    state: str
    zone: str = ""
    weight: int = 1
    health: str = ""
    ejected_for_s: float | None = None
    in_flight: int = 0
    calls: int = 0
    last_error: str = ""
    not_picked: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelFacts:
    """A channel at one moment. `error` is what its resolver complains of, "" if nothing."""

    target: str
    policy: str
    state: str
    waiting: int = 0
    error: str = ""
    endpoints: tuple[EndpointFacts, ...] = ()


def as_dict(facts: ChannelFacts) -> dict[str, Any]:
    """The facts for `json.dumps`: complete and as they are, since JSON escapes by itself."""
    return asdict(facts)


def as_text(facts: ChannelFacts) -> str:
    """The facts as lines to read; of very many endpoints first those that get no calls."""
    lines = [_headline(facts)]
    if facts.error:
        lines.append(f"{_INDENT}resolver: {_plain(facts.error)}")
    if not facts.endpoints:
        return "\n".join(lines)
    shown = _shown(facts.endpoints)
    lines += [_INDENT + row for row in _aligned([_HEADINGS, *map(_cells, shown)])]
    if left := len(facts.endpoints) - len(shown):
        lines.append(f"{_INDENT}and {left:,} more")
    return "\n".join(lines)


def _headline(facts: ChannelFacts) -> str:
    usable = sum(not each.not_picked for each in facts.endpoints)
    parts = [
        facts.state,
        f"{usable:,} of {len(facts.endpoints):,} endpoints take calls",
        f"policy {_plain(facts.policy)}",
    ]
    if facts.waiting:
        parts.append(f"{facts.waiting:,} calls wait")
    return f"{_plain(facts.target)}: {', '.join(parts)}"


def _shown(endpoints: Sequence[EndpointFacts]) -> list[EndpointFacts]:
    if len(endpoints) <= MAX_ENDPOINTS_SHOWN:
        return list(endpoints)
    # Who reads this wants to know what is wrong; the sort keeps the order otherwise.
    return sorted(endpoints, key=lambda each: not each.not_picked)[:MAX_ENDPOINTS_SHOWN]


_HEADINGS = ("ADDRESS", "ZONE", "WEIGHT", "STATE", "HEALTH", "IN FLIGHT", "CALLS", "NOTE")
_NUMBERS = frozenset({"WEIGHT", "IN FLIGHT", "CALLS"})


def _cells(facts: EndpointFacts) -> tuple[str, ...]:
    return (
        _plain(facts.address),
        _plain(facts.zone),
        f"{facts.weight:,}",
        facts.state,
        facts.health,
        f"{facts.in_flight:,}",
        f"{facts.calls:,}",
        _plain(_note(facts)),
    )


def _note(facts: EndpointFacts) -> str:
    """Why it is not picked, until when, and its last error unless that is the reason."""
    parts = [facts.not_picked] if facts.not_picked else []
    if facts.ejected_for_s is not None:
        parts.append(f"ejected for {facts.ejected_for_s:.1f} s more")
    if facts.last_error and facts.last_error not in facts.not_picked:
        parts.append(f"last error: {facts.last_error}")
    return "; ".join(parts)


def _plain(text: str) -> str:
    """`text` on one line, without control characters, of bounded length."""
    cut = text if len(text) <= MAX_NOTE_CHARS else text[: MAX_NOTE_CHARS - 3] + "..."
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in cut)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their widest cell; those that are empty for everyone are left out."""
    columns = [
        _padded(column) for column in zip(*rows, strict=True) if any(each for each in column[1:])
    ]
    return [_GAP.join(row).rstrip() for row in zip(*columns, strict=True)]


def _padded(column: tuple[str, ...]) -> list[str]:
    width = max(map(len, column))
    if column[0] in _NUMBERS:
        return [each.rjust(width) for each in column]
    return [each.ljust(width) for each in column]
