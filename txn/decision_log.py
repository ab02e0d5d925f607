"""The coordinator's memory: write-once outcome rows. Append is durable on return.

An outcome row is inserted where none stands yet, under its txn_id and, where a caller
named it, under (caller, idempotency_key). Whatever stands afterwards is the outcome,
whoever wrote it: that makes a decision, an inquiry's abort and a retried request agree
without any lock between them.

A claim is such a row whose outcome is PENDING: it has its key as an outcome has, and is
closed once, by who wrote it (docs/adr/0005-one-phase-for-a-single-branch.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from txn.errors import TxnError
from txn.model import Decision, TxnId


class Truncated(NamedTuple):
    """One step of a truncation: how many rows went, and where the next step begins.

    `next_after` is None when nothing is old from there on.
    """

    deleted: int
    next_after: str | None


class DecisionLog(Protocol):
    """Every implementation passes `txn.testing.check_decision_log`."""

    async def identity(self, proposed: str) -> str:
        """The log's own name, the same for ever: the first that was proposed, durable."""

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

    async def by_keys(self, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Decision]:
        """The rows of callers' keys, by (caller, idempotency_key), where there are any."""

    async def list_decisions(
        self, *, after: str, limit: int, unfinished_only: bool = False
    ) -> Sequence[Decision]:
        """Rows with a txn_id above `after`, ascending; those without an end only, if asked.

        Without an end are commits that some participant has not acknowledged, and claims.
        """
