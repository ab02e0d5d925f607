"""One question to one coordinator, whatever its name: what became of a branch."""

from __future__ import annotations

import grpc
from tallystick.txn.v1 import coordinator_service_pb2, coordinator_service_pb2_grpc

from txn.errors import OtherLog, TooOld, Unreachable
from txn.model import BranchKey
from txn.rpc.attempt import attempt
from txn.rpc.coordinator import OUTCOMES_IN
from txn.rpc.status import reason_of
from txn.state import Outcome

ASK_TIMEOUT_S = 5.0
_REFUSALS = {"OTHER_LOG": OtherLog, "TOO_OLD": TooOld}


class GrpcInquiry:
    """`txn.orphans.Inquiry` over a channel to a coordinator."""

    def __init__(self, channel: grpc.aio.Channel, timeout_s: float = ASK_TIMEOUT_S) -> None:
        self._stub: coordinator_service_pb2_grpc.CoordinatorServiceAsyncStub = (
            coordinator_service_pb2_grpc.CoordinatorServiceStub(channel)
        )
        self._timeout_s = timeout_s

    async def ask(self, key: BranchKey) -> Outcome:
        """See Inquiry.ask."""
        request = coordinator_service_pb2.InquireRequest(txn_id=key.txn_id, branch_id=key.branch_id)
        try:
            reply = await attempt(lambda: self._stub.Inquire(request, timeout=self._timeout_s))
        except grpc.aio.AioRpcError as error:
            refusal = _REFUSALS.get(reason_of(error), Unreachable)
            raise refusal(error.code().name) from error
        if reply.txn_id != key.txn_id:
            raise Unreachable("ANSWERS_MISPLACED")
        return OUTCOMES_IN.get(reply.outcome, Outcome.PENDING)
