"""What operators ask of a CoordinatorService: timelines, what to force, and what was forced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import grpc
from google.protobuf import timestamp_pb2
from tallystick.txn.v1 import (
    coordinator_service_pb2,
    participant_service_pb2,
    participant_service_pb2_grpc,
)

from txn.audit import AuditRecord
from txn.clock import US_PER_S
from txn.coordinator import Coordinator
from txn.errors import Unreachable
from txn.explaining import Explanation
from txn.forcing import Resolution
from txn.model import TxnId
from txn.rpc.attempt import attempt
from txn.rpc.page import page_limit, page_number
from txn.timeline import Entry, Happening, in_order
from txn.transaction import BranchView

# One participant's answer to what it remembers.
LOOK_TIMEOUT_S = 2.0

_RESOLUTIONS_IN: Final = {
    coordinator_service_pb2.RESOLUTION_COMMIT: Resolution.COMMIT,
    coordinator_service_pb2.RESOLUTION_ABORT: Resolution.ABORT,
    coordinator_service_pb2.RESOLUTION_ENDED: Resolution.ENDED,
}
_STATE_PREFIX = "BRANCH_STATE_"


class OperatorDesk:
    """See the proto for every method."""

    def __init__(
        self, coordinator: Coordinator, channel_for: Callable[[str], grpc.aio.Channel] | None
    ) -> None:
        """Without `channel_for` no participant is asked what it remembers."""
        self._coordinator = coordinator
        self._channel_for = channel_for

    async def explain(self, txn_id: TxnId) -> Explanation:
        """What the coordinator knows, and what its participants remember.

        Raises NotFound or StoreError.
        """
        known = await self._coordinator.explain(txn_id)
        if known.view is None or self._channel_for is None:
            return known
        looks = await asyncio.gather(*(self._look(txn_id, each) for each in known.view.branches))
        entries = [each for each in looks if isinstance(each, Entry)]
        gaps = [each for each in looks if isinstance(each, str)]
        return replace(
            known, entries=in_order([*known.entries, *entries]), gaps=[*known.gaps, *gaps]
        )

    async def _look(self, txn_id: TxnId, branch: BranchView) -> Entry | str:
        """What a participant remembers of a branch, or why that is not known."""
        branch_id, participant = branch.branch_id, branch.participant
        if self._channel_for is None or participant not in self._coordinator.participants:
            return f"{participant} is not a participant of this coordinator any more"
        stub: participant_service_pb2_grpc.ParticipantServiceAsyncStub = (
            participant_service_pb2_grpc.ParticipantServiceStub(self._channel_for(participant))
        )
        request = participant_service_pb2.GetBranchRequest(txn_id=txn_id, branch_id=branch_id)
        try:
            reply = await attempt(lambda: stub.GetBranch(request, timeout=LOOK_TIMEOUT_S))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return f"{participant} remembers nothing of {branch_id}: never prepared, or over"
            return f"{participant} does not say what it remembers: {error.code().name}"
        except Unreachable as error:
            return f"{participant} does not say what it remembers: {error}"
        found = reply.branch
        state = participant_service_pb2.BranchState.Name(found.state).removeprefix(_STATE_PREFIX)
        at_us = found.prepare_time.ToMicroseconds() if found.HasField("prepare_time") else None
        return Entry(at_us, Happening.REMEMBERED, branch_id, participant, detail=state)

    async def resolve(
        self, request: coordinator_service_pb2.ResolveTransactionRequest
    ) -> coordinator_service_pb2.ResolveTransactionResponse:
        """Does by force what is asked. Raises what Coordinator.resolve raises."""
        record = await self._coordinator.resolve(
            TxnId(request.txn_id),
            _RESOLUTIONS_IN[request.resolution],
            operator=request.operator,
            reason=request.reason,
        )
        return coordinator_service_pb2.ResolveTransactionResponse(record=_record_out(record))

    async def list_audit(
        self, request: coordinator_service_pb2.ListAuditRecordsRequest
    ) -> coordinator_service_pb2.ListAuditRecordsResponse:
        """One page of what was forced."""
        limit = page_limit(request.page_size)
        after = page_number(request.page_token)
        records = await self._coordinator.list_audit(after=after, limit=limit)
        return coordinator_service_pb2.ListAuditRecordsResponse(
            records=[_record_out(record) for record in records],
            next_page_token=str(records[-1].number) if len(records) == limit else "",
        )


def entries_out(entries: Sequence[Entry]) -> list[coordinator_service_pb2.TimelineEntry]:
    """A timeline on the wire."""
    return [
        coordinator_service_pb2.TimelineEntry(
            time=None if entry.at_us is None else _time_out(entry.at_us),
            happening=coordinator_service_pb2.Happening.Value(f"HAPPENING_{entry.happening.value}"),
            branch_id=entry.branch_id,
            participant=entry.participant,
            attempt=entry.attempt,
            detail=entry.detail,
        )
        for entry in entries
    ]


def _record_out(record: AuditRecord) -> coordinator_service_pb2.AuditRecord:
    return coordinator_service_pb2.AuditRecord(
        number=record.number,
        txn_id=record.txn_id,
        operator=record.signature.operator,
        reason=record.signature.reason,
        before=record.before,
        after=record.after,
        sign_time=_time_out(record.signature.signed_at_us),
    )


def _time_out(at_us: int) -> timestamp_pb2.Timestamp:
    seconds, rest_us = divmod(at_us, US_PER_S)
    return timestamp_pb2.Timestamp(seconds=seconds, nanos=rest_us * 1_000)
