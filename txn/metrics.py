"""What the engine tells about its work, to whoever counts it.

Coordinator, participant and store call these Protocols at fixed moments; `NO_METRICS` is
the default and costs an empty method. They are told of whole batches and groups, since a
transaction costs a few tens of microseconds and must not be counted piece by piece; how
long its phases took is told of one transaction of each group. They are told of counts,
durations and names of participants, never of ids, keys or operations.

Implementations must not raise or block. All calls come from the event loop of who calls.
`txn.metrics_prometheus` has one for each.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple, Protocol


class Phase(Enum):
    """A part of a transaction's life, at its coordinator."""

    PREPARE = "prepare"
    """From its begin until all votes are in, or the first refusal."""
    DECIDE = "decide"
    """Until the outcome row is durable."""
    APPLY = "apply"
    """Of a commit: until every participant has acknowledged it."""
    CLAIM = "claim"
    """In one phase: from its begin until its key is durable."""
    PERFORM = "perform"
    """In one phase: until the participant has said what came of it."""


class Activity(NamedTuple):
    """What a coordinator drives now: how many, and how long ago the oldest was begun.

    And how many coordinators of its log it knows of, itself among them.
    """

    total: int
    oldest_age_s: float
    coordinators: int


class CoordinatorMetrics(Protocol):
    """One coordinator."""

    def watch(self, activity: Callable[[], Activity]) -> None:
        """Hands over whom to ask, at any time, what is active. Called once, first."""

    def sent(self, participant: str, messages: int) -> None:
        """One batch goes to a participant."""

    def retried(self, participant: str, messages: int) -> None:
        """Messages were not answered, or with nothing that says anything: they go again."""

    def alarmed(self, participant: str, messages: int) -> None:
        """A participant answered that a promise is broken."""

    def decided(self, committed: int, aborted: int) -> None:
        """The outcomes of a group are durable."""

    def took(self, phase: Phase, latency_s: float) -> None:
        """How long a phase of one transaction of a group took."""

    def truncated(self, rows: int) -> None:
        """Outcomes were deleted."""

    def took_over(self, transactions: int) -> None:
        """Another coordinator's right to decide was ended; so much of it goes on here."""


class ParticipantMetrics(Protocol):
    """One participant."""

    def answered(self, messages: int, latency_s: float) -> None:
        """A batch, or a message that came alone, is durable and is answered."""

    def alarmed(self, messages: int) -> None:
        """Messages were answered with an alarm."""

    def in_doubt(self, branches: int, oldest_age_s: float) -> None:
        """What a look at the prepared branches has found; by UTC, 0 where there are none."""

    def forgotten(self, branches: int) -> None:
        """Branches were deleted of which word had been lost."""


class StoreMetrics(Protocol):
    """One store."""

    def forced(self, size: int, latency_s: float) -> None:
        """A group of `size` inputs is durable; its COMMIT took that long."""


class NoMetrics:
    """Counts nothing: all of them in one."""

    __slots__ = ()

    def watch(self, activity: Callable[[], Activity]) -> None:
        """Nothing."""

    def sent(self, participant: str, messages: int) -> None:
        """Nothing."""

    def retried(self, participant: str, messages: int) -> None:
        """Nothing."""

    def decided(self, committed: int, aborted: int) -> None:
        """Nothing."""

    def took(self, phase: Phase, latency_s: float) -> None:
        """Nothing."""

    def truncated(self, rows: int) -> None:
        """Nothing."""

    def took_over(self, transactions: int) -> None:
        """Nothing."""

    def answered(self, messages: int, latency_s: float) -> None:
        """Nothing."""

    def alarmed(self, *told: object) -> None:
        """Nothing."""

    def in_doubt(self, branches: int, oldest_age_s: float) -> None:
        """Nothing."""

    def forgotten(self, branches: int) -> None:
        """Nothing."""

    def forced(self, size: int, latency_s: float) -> None:
        """Nothing."""


NO_METRICS: Final = NoMetrics()
