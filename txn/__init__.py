"""All or nothing across services: two-phase commit with presumed abort.

A coordinator runs transactions over participants; a participant wraps the business code
of one kind of operation. See docs/two_phase_commit.md.
"""

from txn.clock import Backoff, Clock, SystemClock
from txn.config import CoordinatorConfig
from txn.coordinator import Coordinator
from txn.errors import Busy, OutcomeUnknown, Refused, TransactionAborted, TxnError
from txn.forgetter import Forgetter, ForgetterConfig
from txn.inquirer import Inquirer, InquiryConfig
from txn.log_keeper import LogKeeper, LogKeeperConfig
from txn.model import Branch, BranchId, BranchKey, Operation, TxnId
from txn.participant import Participant
from txn.resource import BatchResource, Item, Resource
from txn.state import BranchState, Outcome, TransactionState, Vote
from txn.transaction import Request, Result, View

__all__ = [
    "Backoff",
    "BatchResource",
    "Branch",
    "BranchId",
    "BranchKey",
    "BranchState",
    "Busy",
    "Clock",
    "Coordinator",
    "CoordinatorConfig",
    "Forgetter",
    "ForgetterConfig",
    "Inquirer",
    "InquiryConfig",
    "Item",
    "LogKeeper",
    "LogKeeperConfig",
    "Operation",
    "Outcome",
    "OutcomeUnknown",
    "Participant",
    "Refused",
    "Request",
    "Resource",
    "Result",
    "SystemClock",
    "TransactionAborted",
    "TransactionState",
    "TxnError",
    "TxnId",
    "View",
    "Vote",
]
