"""How coordinator and participants reach each other: the seam where gRPC is plugged in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from txn.model import Batch, BranchKey, Ended, Reply, TxnId
from txn.state import Outcome


class ParticipantTransport(Protocol):
    """The coordinator's way to participants."""

    async def exchange(self, participant: str, batch: Batch, timeout_s: float) -> Sequence[Reply]:
        """One attempt to deliver `batch`; a reply to each of its messages, in their order.

        Of Prepare: a vote, or Refused when the participant would not take the request, or
        Busy when another transaction is in the way. Of Commit and Abort: None when it is
        durable there, or an Alarm when it cannot be. Of Perform and Resolve: a vote, which is
        the outcome, or Busy, or an Alarm. Of each: Unreachable, or any other error, when no
        answer came or none that says anything; the message may have arrived all the same.
        Raises Unreachable when that is so of them all.
        """

    def offers_one_phase(self, participant: str) -> bool:
        """Whether it has said, on the way that is open to it now, that it knows Perform.

        What has begun in one phase ends so. While the way is open to a replica that does not
        know it, the reply to Perform and Resolve is Unreachable, and they are not sent.
        """


class CoordinatorTransport(Protocol):
    """A participant's way to the coordinator that a prepare named."""

    async def inquire(
        self, coordinator: str, keys: Sequence[BranchKey], timeout_s: float
    ) -> Sequence[Outcome]:
        """The outcome of each, PENDING while its transaction is active. Raises Unreachable."""


class EndedTransport(Protocol):
    """A participant's way to ask what it may forget."""

    async def ended(self, coordinator: str, txn_ids: Sequence[TxnId], timeout_s: float) -> Ended:
        """Which of these commits have ended, see `Coordinator.ended`. Raises Unreachable."""
