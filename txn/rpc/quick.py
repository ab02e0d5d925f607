"""Quick looks at messages that come in large numbers: True only if no rule is broken.

What they do not recognize is left to protovalidate, which says what is wrong with it.
"""

from __future__ import annotations

import re

from google.protobuf.message import Message
from tallystick.txn.v1 import coordinator_service_pb2, participant_service_pb2

from txn.config import BATCH_ITEMS_MAX
from txn.rpc.operation import TYPE_URL_LENGTH_MAX

_name = re.compile(r"[A-Za-z0-9._:-]{1,64}").fullmatch
_service = re.compile(r"[a-z0-9][a-z0-9._/-]{0,127}").fullmatch
_key = re.compile(r"[!-~]{1,200}").fullmatch
_BRANCHES_MAX = 16
_PREPARE = participant_service_pb2.VERB_PREPARE
_PERFORM = participant_service_pb2.VERB_PERFORM
_VERBS = frozenset(participant_service_pb2.Verb.values()) - {
    participant_service_pb2.VERB_UNSPECIFIED
}
_WAIT_FOR = tuple(coordinator_service_pb2.WaitFor.values())


def surely_valid(message: Message) -> bool:
    """Of a request of a kind that comes in large numbers; False for any other one."""
    return isinstance(message, coordinator_service_pb2.ExecuteRequest) and surely_valid_execute(
        message
    )


def surely_valid_execute(request: coordinator_service_pb2.ExecuteRequest) -> bool:
    """Of one request for a transaction."""
    branches = request.branches
    names = set()
    for branch in branches:
        branch_id = branch.branch_id
        names.add(branch_id)
        if not (_name(branch_id) and _service(branch.participant) and branch.HasField("operation")):
            return False
    return (
        0 < len(branches) <= _BRANCHES_MAX
        and len(names) == len(branches)
        and _key(request.idempotency_key) is not None
        and request.wait_for in _WAIT_FOR
    )


def surely_valid_exchange(request: participant_service_pb2.ExchangeRequest) -> bool:
    """Of one batch from a coordinator."""
    verbs = list(request.verbs)
    txn_ids, branch_ids = request.txn_ids, request.branch_ids
    types, urls = request.operation_types, request.operation_type_urls
    forgettable = (request.forgettable_txn_ids, request.forgettable_branch_ids)
    return (
        len(verbs) == len(txn_ids) == len(branch_ids)
        and len(types) == len(request.operations)
        and len(types) == verbs.count(_PREPARE) + verbs.count(_PERFORM)
        and len(forgettable[0]) == len(forgettable[1])
        and max(len(verbs), len(forgettable[0]), len(urls)) <= BATCH_ITEMS_MAX
        and max(types, default=-1) < len(urls)
        and max(map(len, urls), default=0) <= TYPE_URL_LENGTH_MAX
        and _VERBS.issuperset(verbs)
        and all(map(_name, txn_ids))
        and all(map(_name, set(branch_ids)))
        and all(map(_name, forgettable[0]))
        and all(map(_name, set(forgettable[1])))
        and _service(request.coordinator) is not None
        and (not request.prepare_horizon or _name(request.prepare_horizon) is not None)
    )


def surely_valid_execute_stream(message: coordinator_service_pb2.ExecuteStreamRequest) -> bool:
    """Of the frame alone: a request that breaks a rule is answered alone."""
    return len(message.requests) <= BATCH_ITEMS_MAX
