"""The coordinator's memory: write-once outcome rows. Append is durable on return.

An outcome row is inserted where none stands yet, under its txn_id and, where a caller
named it, under (caller, idempotency_key). Whatever stands afterwards is the outcome,
whoever wrote it: that makes a decision, an inquiry's abort and a retried request agree
without any lock between them.

A claim is such a row whose outcome is PENDING: it has its key as an outcome has, and is
closed once, by who wrote it (docs/adr/0005-one-phase-for-a-single-branch.md).

Several coordinators may share a log. Each decides under an epoch, which every group of its
writes holds: who has lost it to another writes nothing any more
(docs/adr/0007-several-coordinators.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from txn.audit import AuditRecord, Forced, Signature
from txn.errors import TxnError
from txn.model import Decision, Epoch, TxnId
from txn.state import Outcome
from txn.value import value


class Truncated(NamedTuple):
    """One step of a truncation: how many rows went, and where the next step begins.

    `next_after` is None when nothing is old from there on.
    """

    deleted: int
    next_after: str | None


def lowest_horizon(horizons: Iterable[TxnId | None]) -> TxnId | None:
    """The lowest of at least one; None when one of them is not known."""
    return min(each or TxnId("") for each in horizons) or None


@value
class Standing:
    """A coordinator that may decide: its epoch, what it is called, and what it has announced.

    Below `horizon` no transaction of this epoch is prepared or claimed, or ever will be; None
    when nothing is known of that yet.
    """

    epoch: Epoch
    instance: str
    horizon: TxnId | None


@value
class Epochs:
    """The coordinators of a log at one moment.

    `newest` is the greatest epoch that was ever begun: one up to there that does not stand is
    over for good. `newest_txn_id` as that of DecisionLog.
    """

    standing: tuple[Standing, ...]
    newest: Epoch
    newest_txn_id: TxnId | None


class Tenure(NamedTuple):
    """An epoch that was begun, and those that are over and whose work goes on in it."""

    epoch: Epoch
    inherited: frozenset[Epoch]


class DecisionLog(Protocol):
    """Every implementation passes `txn.testing.check_decision_log`."""

    async def identity(self, proposed: str) -> str:
        """The log's own name, the same for ever: the first that was proposed, durable."""

    async def begin_epoch(self, instance: str) -> Tenure:
        """Begins the next epoch, durably; whoever was called `instance` before is over.

        From then on each group that this log writes holds the epoch: once it is over, and what
        was to be written is not, the process ends as after a commit that failed. One without
        an epoch writes unfenced.
        """

    async def take_over(self, epoch: Epoch) -> frozenset[Epoch]:
        """Ends the epoch of another; returns what is inherited. Durable on return.

        That is nothing when it was over already. Until the next `announce` this coordinator's
        horizon is no higher than what that one had announced.
        """

    async def epochs(self) -> Epochs:
        """Who may decide."""

    async def announce(self, horizon: TxnId) -> None:
        """Tells the other coordinators this one's horizon, see Standing. Durable on return."""

    async def newest_txn_id(self) -> TxnId | None:
        """The greatest txn_id that has, or had, a row under a caller's key, claims too.

        Other rows are no measure: an inquiry may name what nobody was given.
        """

    async def decide_all(self, decisions: Sequence[Decision]) -> Sequence[Decision | TxnError]:
        """Inserts each row unless one stands under its txn_id or key; what stands, durable.

        A row of the same txn_id is returned before a row of the same key. Instead of a row
        that was not begun its error is returned, such as StoreFull. Of an abort
        without a key that is TooOld, unless a row stands, at and below the newest row with a
        key that was truncated: there may have been a commit. Raises when nothing is known of
        any of them.
        """

    def end_all(self, txn_ids: Sequence[TxnId], durable: Callable[[], None]) -> None:
        """Marks commits as acknowledged by all. Lazy: rides with the next force.

        `durable` is called after that force, and never when it fails. Marks of a group that
        the storage undid, or would not begin, ride with the next one. Raises Overloaded or
        StoreClosed when the marks are not even queued.
        """

    async def close_all(self, claims: Sequence[Decision]) -> Sequence[Decision | TxnError]:
        """Makes each claim, by its txn_id, the outcome that is given; what stands, durable.

        What is closed stays as it is. Instead of a row that was not begun its error is
        returned. Raises when nothing is known of any of them.
        """

    def close_lazily(
        self, claims: Sequence[Decision], durable: Callable[[], None], lost: Callable[[], None]
    ) -> None:
        """The same, riding with the next force; `durable` and errors as those of `end_all`.

        `lost` is called when one of them cannot be written: then none is.
        """

    async def ended(self, txn_ids: Sequence[TxnId]) -> frozenset[TxnId]:
        """Those that are committed and whose end is durable, whether their row is still there.

        Of an id that this log never had a row for the answer is worth nothing.
        """

    async def truncate(self, *, after: str, limit: int, before_us: int) -> Truncated:
        """Looks at `limit` rows above `after`; deletes what has ended and is from before then.

        Durable on return. Lazy: rides with a force that goes anyway, if one does soon.
        """

    async def by_txn_id(self, txn_id: TxnId) -> Decision | None:
        """The row of a transaction."""

    async def by_txn_ids(self, txn_ids: Sequence[TxnId]) -> dict[TxnId, Decision]:
        """The rows of transactions, where there are any."""

    async def by_keys(self, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Decision]:
        """The rows of callers' keys, by (caller, idempotency_key), where there are any."""

    async def list_decisions(
        self, *, after: str, limit: int, unfinished_only: bool = False
    ) -> Sequence[Decision]:
        """Rows with a txn_id above `after`, ascending; those without an end only, if asked.

        Without an end are commits that some participant has not acknowledged, and claims.
        """

    async def force(self, row: Decision, by: Signature, *, over: Outcome | None) -> Forced:
        """Writes `row` by an operator's word, and the record of that: both, or neither.

        Nothing unless `over` stands, None for nothing. What may be forced besides is the rule
        of `audit.may_take_the_place`; the record has the next
        number, and is there for as long as the log is. Durable on return. Raises TooOld as
        `decide_all` does, or what the store says when nothing was written.
        """

    async def list_audit(
        self, *, after: int, limit: int, txn_id: TxnId | None = None
    ) -> Sequence[AuditRecord]:
        """Records with a number above `after`, ascending; of one transaction only, if asked."""
