"""The coordinator's way to participants over gRPC: a stream of batches, or unary calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence

import grpc
from tallystick.txn.v1 import participant_service_pb2, participant_service_pb2_grpc

from txn.errors import TxnError, Unreachable
from txn.model import (
    ONE_PHASE,
    TO_DO,
    Abort,
    Batch,
    Commit,
    Message,
    Perform,
    Prepare,
    Reply,
    Resolve,
)
from txn.rpc.attempt import attempt
from txn.rpc.exchange_stream import ExchangeStream
from txn.rpc.numbered_stream import STREAM_MAX_AGE_S, NotOffered, Retiring
from txn.rpc.operation import any_from
from txn.rpc.replies import error_in, replies_in, vote_in

# How long a participant that knows no batches is not asked again whether it does.
UNARY_ONLY_S = 60.0
# Of the calls to one participant without batches.
UNARY_CONCURRENCY_MAX = 64
_VERBS: dict[type[Message], participant_service_pb2.Verb.ValueType] = {
    Prepare: participant_service_pb2.VERB_PREPARE,
    Commit: participant_service_pb2.VERB_COMMIT,
    Abort: participant_service_pb2.VERB_ABORT,
    Perform: participant_service_pb2.VERB_PERFORM,
    Resolve: participant_service_pb2.VERB_RESOLVE,
}


_NOT_OFFERED = Unreachable("ONE_PHASE_NOT_OFFERED")


class GrpcParticipantTransport:
    """ParticipantTransport over channels by participant name. Use from one event loop."""

    def __init__(self, channel_for: Callable[[str], grpc.aio.Channel], coordinator: str) -> None:
        """`coordinator` is the service name under which participants ask back."""
        self._channel_for = channel_for
        self._coordinator = coordinator
        self._streams: dict[str, ExchangeStream] = {}
        self._unary_until_s: dict[str, float] = {}
        self._places: dict[str, asyncio.Semaphore] = {}
        self._retiring = Retiring()

    async def exchange(self, participant: str, batch: Batch, timeout_s: float) -> Sequence[Reply]:
        """See ParticipantTransport.exchange."""
        if asyncio.get_running_loop().time() >= self._unary_until_s.get(participant, 0.0):
            try:
                return await self._ask_stream(participant, batch, timeout_s)
            except NotOffered:
                until_s = asyncio.get_running_loop().time() + UNARY_ONLY_S
                self._unary_until_s[participant] = until_s
        places = self._places.setdefault(participant, asyncio.Semaphore(UNARY_CONCURRENCY_MAX))
        return await asyncio.gather(
            *(self._ask_alone(participant, each, timeout_s, places) for each in batch.messages)
        )

    def offers_one_phase(self, participant: str) -> bool:
        """See ParticipantTransport.offers_one_phase."""
        stream = self._streams.get(participant)
        return stream is not None and stream.usable and stream.one_phase

    async def close(self) -> None:
        """Ends all streams."""
        streams, self._streams = self._streams, {}
        await asyncio.gather(*(stream.close() for stream in streams.values()))
        await self._retiring.ended()

    async def _ask_stream(self, participant: str, batch: Batch, timeout_s: float) -> list[Reply]:
        stream = self._stream(participant)
        if not stream.one_phase and any(isinstance(each, ONE_PHASE) for each in batch.messages):
            # What it knows it says with any answer.
            await stream.ask(_request(Batch([]), self._coordinator), timeout_s)
            if not stream.one_phase:
                return await self._ask_without(participant, stream, batch, timeout_s)
        response = await stream.ask(_request(batch, self._coordinator), timeout_s)
        return replies_in(batch.messages, response)

    async def _ask_without(
        self, participant: str, stream: ExchangeStream, batch: Batch, timeout_s: float
    ) -> list[Reply]:
        """What the replica knows; the rest waits for another one."""
        known = [each for each in batch.messages if not isinstance(each, ONE_PHASE)]
        rest = Batch(known, batch.forgettable, batch.prepare_horizon)
        response = await stream.ask(_request(rest, self._coordinator), timeout_s)
        replies = iter(replies_in(known, response))
        if self._streams.get(participant) is stream:
            # The next one may be to another replica: who asks waits longer from time to time.
            del self._streams[participant]
            self._retiring.add(stream)
        return [
            _NOT_OFFERED if isinstance(each, ONE_PHASE) else next(replies)
            for each in batch.messages
        ]

    def _stream(self, participant: str) -> ExchangeStream:
        stream = self._streams.get(participant)
        if stream is not None:
            if stream.usable:
                return stream
            self._retiring.add(stream)
        try:
            call = self._stub(participant).Exchange(timeout=STREAM_MAX_AGE_S)
        except grpc.aio.UsageError as error:
            raise Unreachable("CHANNEL_CLOSED") from error
        stream = self._streams[participant] = ExchangeStream(call)
        return stream

    async def _ask_alone(
        self, participant: str, message: Message, timeout_s: float, places: asyncio.Semaphore
    ) -> Reply:
        stub = self._stub(participant)
        async with places:
            try:
                match message:
                    case Prepare():
                        vote = await _prepare(stub, message, timeout_s)
                        return vote_in(vote.vote, vote.reason)
                    case Commit():
                        await _commit(stub, message, timeout_s)
                    case Abort():
                        await _abort(stub, message, timeout_s)
                    case _:
                        return _NOT_OFFERED
            except grpc.aio.AioRpcError as error:
                return error_in(message, error)
            except TxnError as error:
                return error
        return None

    def _stub(self, participant: str) -> participant_service_pb2_grpc.ParticipantServiceAsyncStub:
        return participant_service_pb2_grpc.ParticipantServiceStub(self._channel_for(participant))


def _prepare(
    stub: participant_service_pb2_grpc.ParticipantServiceAsyncStub,
    message: Prepare,
    timeout_s: float,
) -> Coroutine[object, object, participant_service_pb2.PrepareResponse]:
    request = participant_service_pb2.PrepareRequest(
        txn_id=message.key.txn_id,
        branch_id=message.key.branch_id,
        coordinator=message.coordinator,
        operation=any_from(message.operation),
    )
    return attempt(lambda: stub.Prepare(request, timeout=timeout_s))


def _commit(
    stub: participant_service_pb2_grpc.ParticipantServiceAsyncStub,
    message: Commit,
    timeout_s: float,
) -> Coroutine[object, object, participant_service_pb2.CommitResponse]:
    txn_id, branch_id = message.key
    request = participant_service_pb2.CommitRequest(txn_id=txn_id, branch_id=branch_id)
    return attempt(lambda: stub.Commit(request, timeout=timeout_s))


def _abort(
    stub: participant_service_pb2_grpc.ParticipantServiceAsyncStub,
    message: Abort,
    timeout_s: float,
) -> Coroutine[object, object, participant_service_pb2.AbortResponse]:
    txn_id, branch_id = message.key
    request = participant_service_pb2.AbortRequest(txn_id=txn_id, branch_id=branch_id)
    return attempt(lambda: stub.Abort(request, timeout=timeout_s))


def _request(batch: Batch, coordinator: str) -> participant_service_pb2.ExchangeRequest:
    to_do = [each for each in batch.messages if isinstance(each, TO_DO)]
    types = dict.fromkeys(each.operation.type_url for each in to_do)
    places = {url: place for place, url in enumerate(types)}
    return participant_service_pb2.ExchangeRequest(
        coordinator=coordinator,
        verbs=[_VERBS[type(each)] for each in batch.messages],
        txn_ids=[each.key.txn_id for each in batch.messages],
        branch_ids=[each.key.branch_id for each in batch.messages],
        operation_type_urls=list(types),
        operation_types=[places[each.operation.type_url] for each in to_do],
        operations=[each.operation.value for each in to_do],
        forgettable_txn_ids=[key.txn_id for key in batch.forgettable],
        forgettable_branch_ids=[key.branch_id for key in batch.forgettable],
        prepare_horizon=batch.prepare_horizon or "",
    )
