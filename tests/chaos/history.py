"""What clients asked for and what they heard, as lines of JSON that outlive a kill -9.

A client writes that it asks before it does, and what it heard before it goes on. Whoever
reads the file therefore knows every key that may have had an effect. Times are seconds of
the machine's monotonic clock, which all its processes share.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """How money is asked to move."""

    WALLET = "wallet"
    """A trade, paid by its user with a password."""
    PAYMENT = "payment"
    """The same transaction over order and ledger, asked of the coordinator itself."""
    TRANSFER = "transfer"
    """One branch, at the ledger."""
    SPLIT = "split"
    """Two branches at the ledger: one account pays two."""
    FUND = "fund"
    """From the bank, before the clients begin and after they have ended."""


class Heard(StrEnum):
    """What an attempt came to. COMMITTED and ABORTED are final."""

    COMMITTED = "COMMITTED"
    ABORTED = "ABORTED"
    PENDING = "PENDING"
    REFUSED = "REFUSED"
    """The key stands for another request."""
    ERROR = "ERROR"
    """Says nothing about the outcome."""


FINAL = frozenset({Heard.COMMITTED, Heard.ABORTED})


@dataclass(frozen=True, slots=True)
class Leg:
    """One movement of money, one entry of the journal."""

    debit: str
    credit: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Request:
    """One transaction under one key. The same key is asked again until it is final."""

    key: str
    kind: Kind
    currency: str
    legs: tuple[Leg, ...]
    user_id: str = ""
    trade_no: str = ""

    @property
    def log_key(self) -> str:
        """The key as the decision log has it."""
        return f"pay:{self.user_id}:{self.key}" if self.kind is Kind.WALLET else self.key

    @property
    def reference(self) -> str:
        """What the journal's entries of it refer to."""
        return self.trade_no or self.key


@dataclass(slots=True)
class Attempt:
    """One time that a key was asked for; without an answer if its client died."""

    number: int
    request: Request
    asked_s: float
    clash: bool = False
    """Whether it asks for something else under a key that is taken, on purpose."""
    heard: Heard | None = None
    heard_s: float = 0.0
    txn_id: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """A trade as its client saw it after the answer."""

    key: str
    trade_no: str
    state: str


@dataclass(slots=True)
class History:
    """Everything that was asked and heard, by key."""

    requests: dict[str, Request] = field(default_factory=dict)
    attempts: dict[str, list[Attempt]] = field(default_factory=dict)
    reads: list[Read] = field(default_factory=list)
    final: dict[str, Attempt] = field(default_factory=dict)
    """The first final answer of each key."""
    paid: int = 0
    """Payments that are committed, the funds aside."""
    torn: int = 0
    """Lines that a kill cut off."""

    def add(self, line: str) -> None:
        """Takes in one line. Raises KeyError for an answer to what was never asked."""
        try:
            raw = json.loads(line)
        except ValueError:
            self.torn += 1
            return
        match raw.pop("event"):
            case "asks":
                self._asks(raw)
            case "hears":
                self._hears(raw)
            case "reads":
                self.reads.append(Read(**raw))

    def open_keys(self) -> Iterator[str]:
        """Those that nobody has heard a final answer for."""
        return (key for key in self.requests if key not in self.final)

    def committed(self) -> Iterator[Request]:
        """What has taken effect, as far as clients know."""
        return (
            self.requests[key]
            for key, attempt in self.final.items()
            if attempt.heard is Heard.COMMITTED
        )

    def _asks(self, raw: dict[str, Any]) -> None:
        request = request_from(raw["request"])
        attempt = Attempt(raw["number"], request, raw["asked_s"], raw["clash"])
        if not attempt.clash:
            self.requests.setdefault(request.key, request)
        self.attempts.setdefault(request.key, []).append(attempt)

    def _hears(self, raw: dict[str, Any]) -> None:
        attempt = self.attempts[raw["key"]][raw["number"]]
        attempt.heard, attempt.heard_s = Heard(raw["heard"]), raw["heard_s"]
        attempt.txn_id, attempt.why = raw["txn_id"], raw["why"]
        if attempt.heard in FINAL and not attempt.clash and raw["key"] not in self.final:
            self.final[raw["key"]] = attempt
            committed = attempt.heard is Heard.COMMITTED
            self.paid += committed and attempt.request.kind is not Kind.FUND


def asks(attempt: Attempt) -> str:
    """The line that says that a client is about to ask."""
    return _line(
        event="asks",
        number=attempt.number,
        request=asdict(attempt.request),
        asked_s=attempt.asked_s,
        clash=attempt.clash,
    )


def hears(attempt: Attempt) -> str:
    """The line that says what it heard."""
    return _line(
        event="hears",
        key=attempt.request.key,
        number=attempt.number,
        heard=attempt.heard,
        heard_s=attempt.heard_s,
        txn_id=attempt.txn_id,
        why=attempt.why,
    )


def reads(read: Read) -> str:
    """The line that says what it saw."""
    return _line(event="reads", **asdict(read))


def request_from(raw: dict[str, Any]) -> Request:
    """The inverse of `asdict`."""
    legs = tuple(Leg(**leg) for leg in raw["legs"])
    return Request(**{**raw, "kind": Kind(raw["kind"]), "legs": legs})


def _line(**fields: object) -> str:
    return json.dumps(fields, separators=(",", ":")) + "\n"
