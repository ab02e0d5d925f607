"""How coordinator and participants reach each other: the seam where gRPC is plugged in."""

from __future__ import annotations

from typing import Protocol

from txn.model import BranchKey, Prepare, VoteReply
from txn.state import Outcome


class ParticipantTransport(Protocol):
    """The coordinator's way to participants. Each call is one attempt.

    All raise Unreachable when no answer came: the message may have arrived all the same.
    """

    async def prepare(self, participant: str, message: Prepare, timeout_s: float) -> VoteReply:
        """Asks for a vote. Raises Refused when the participant would not take the request.

        Raises Busy when another transaction is in the way: asking again may help.
        """

    async def commit(self, participant: str, key: BranchKey, timeout_s: float) -> None:
        """Returns when the commit is durable there. Raises Alarm when it cannot be."""

    async def abort(self, participant: str, key: BranchKey, timeout_s: float) -> None:
        """Returns when the abort is remembered there. Raises Alarm when it cannot be."""


class CoordinatorTransport(Protocol):
    """A participant's way to the coordinator that a prepare named."""

    async def inquire(self, coordinator: str, key: BranchKey, timeout_s: float) -> Outcome:
        """The outcome, or PENDING while the transaction is active. Raises Unreachable."""
