"""What a check has found: how often each invariant was looked at, and where it did not hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

INVARIANTS = {
    "I1": "balances sum to zero, no account below its limit",
    "I2": "never committed in one book and not in the other",
    "I3": "what was answered is final, and everything is answered",
    "I4": "one effect for each idempotency key",
    "I5": "30 s after the faults nothing is in doubt or held",
    "I6": "a prepared participant never decides alone",
    "I7": "calls to endpoints that are up go on",
    "I8": "merchants are notified of every payment",
    "I9": "processes live, and take no more than before",
}
# There are no notifications to look at.
NOT_YET = frozenset({"I8"})
KEPT_MAX = 200


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant does not hold."""

    invariant: str
    what: str


@dataclass(slots=True)
class Findings:
    """See the module's docstring. Counts go on when KEPT_MAX violations are kept."""

    looked: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)

    def check(self, invariant: str, holds: object, what: str) -> None:
        """Looks once."""
        self.looked[invariant] += 1
        if not holds:
            self.broken[invariant] += 1
            if len(self.violations) < KEPT_MAX:
                self.violations.append(Violation(invariant, what))

    @property
    def total(self) -> int:
        """How many violations there are."""
        return self.broken.total()

    def add(self, other: Findings) -> None:
        """Takes in what another check has found."""
        self.looked += other.looked
        self.broken += other.broken
        self.violations += other.violations
