"""What clients were told, and when: of a run only what was heard under fire counts. Pure."""

from __future__ import annotations

from typing import NamedTuple

from tests.chaos.history import Heard, History, Kind


class Tally(NamedTuple):
    """Counts of payments, the funds aside."""

    payments: int
    refused: int
    attempts: int


def under_fire(history: History, from_s: float, to_s: float) -> Tally:
    """First final answers that were heard, and attempts that were begun, in between.

    Times as in the history. What was paid before the first fault says nothing of any fault.
    """
    committed, aborted = final_times(history)
    asked = [
        each.asked_s
        for attempts in history.attempts.values()
        for each in attempts
        if each.request.kind is not Kind.FUND
    ]
    return Tally(
        *(sum(from_s <= at_s <= to_s for at_s in times) for times in (committed, aborted, asked))
    )


def clashes_refused(history: History) -> int:
    """How often a key was refused for another body, which is what I4 says of it."""
    return sum(
        each.clash and each.heard is Heard.REFUSED
        for attempts in history.attempts.values()
        for each in attempts
    )


def final_times(history: History) -> tuple[list[float], list[float]]:
    """When payments were heard to be committed, and to be aborted."""
    times: dict[Heard, list[float]] = {Heard.COMMITTED: [], Heard.ABORTED: []}
    for attempt in history.final.values():
        if attempt.heard is not None and attempt.request.kind is not Kind.FUND:
            times[attempt.heard].append(attempt.heard_s)
    return times[Heard.COMMITTED], times[Heard.ABORTED]
