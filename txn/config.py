"""The coordinator's limits and intervals."""

from __future__ import annotations

from dataclasses import dataclass, field

from txn.clock import Backoff

# Of one ExchangeRequest, by its proto.
BATCH_ITEMS_MAX = 1024
# Of one FilterEndedRequest, and of one BatchInquireRequest, by their proto.
QUESTION_ITEMS_MAX = 1000


@dataclass(frozen=True, slots=True)
class CoordinatorConfig:
    """Limits and intervals. `name` is the service name under which participants ask back.

    Branches may be at `participants` only. One message waits `attempt_timeout_s` for its answer and
    is then sent again after `retry`: an Abort `abort_attempts` times, after which its participant
    asks, a Commit without end. After an alarm the next attempt waits `alarm_retry_s`. When
    `max_active` transactions run, the next one is turned away. A batch has at most
    `batch_size_max` messages.
    """

    name: str
    participants: frozenset[str]
    # For a vote, or an answer to Perform, all attempts together; longer than a participant needs
    # to learn what became of a transaction in the way.
    prepare_timeout_s: float = 8.0
    attempt_timeout_s: float = 2.0
    abort_attempts: int = 5
    max_active: int = 10_000
    alarm_retry_s: float = 30.0
    retry: Backoff = field(default_factory=lambda: Backoff(initial_s=0.05, max_s=2.0))
    batch_size_max: int = 256
    # How long messages to a participant gather: in proportion to the transactions that are
    # active; those of a lone transaction not at all.
    gather_per_transaction_s: float = 0.0002
    # How long they gather at most.
    gather_max_s: float = 0.012
    # Whether a transaction with a single branch takes one phase where its participant can.
    one_phase: bool = True
    # What this one is called among several that share a log: its address, as a rule. Who starts
    # under the same name goes on with what its predecessor has begun.
    instance: str = ""

    def __post_init__(self) -> None:
        if not self.participants:
            raise ValueError("participants must not be empty")
        if min(self.prepare_timeout_s, self.attempt_timeout_s) <= 0:
            raise ValueError("timeouts must be positive")
        if min(self.gather_per_transaction_s, self.gather_max_s) < 0:
            raise ValueError("gathering times must not be negative")
        if min(self.abort_attempts, self.max_active, self.batch_size_max) < 1:
            raise ValueError("abort_attempts, max_active and batch_size_max must be at least 1")
        if self.batch_size_max > BATCH_ITEMS_MAX:
            raise ValueError(f"batch_size_max must be at most {BATCH_ITEMS_MAX}")
