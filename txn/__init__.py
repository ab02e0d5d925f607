"""All or nothing across services: two-phase commit with presumed abort.

A coordinator runs transactions over participants; a participant wraps the business code
of one kind of operation. See docs/two_phase_commit.md.
"""

from txn.clock import Backoff, Clock, SystemClock
from txn.coordinator import Coordinator
from txn.errors import Busy, Refused, TxnError
from txn.model import Branch, BranchId, BranchKey, Operation, TxnId
from txn.participant import Inquirer, InquiryConfig, Participant, Resource
from txn.phases import CoordinatorConfig
from txn.state import BranchState, Outcome, TransactionState, Vote
from txn.transaction import Result, View

__all__ = [
    "Backoff",
    "Branch",
    "BranchId",
    "BranchKey",
    "BranchState",
    "Busy",
    "Clock",
    "Coordinator",
    "CoordinatorConfig",
    "Inquirer",
    "InquiryConfig",
    "Operation",
    "Outcome",
    "Participant",
    "Refused",
    "Resource",
    "Result",
    "SystemClock",
    "TransactionState",
    "TxnError",
    "TxnId",
    "View",
    "Vote",
]
