"""One ExecuteStream: requests come in batches, answers leave as they become final."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

import grpc
from tallystick.txn.v1 import coordinator_service_pb2

from txn.coordinator import Begun, Coordinator, conclude
from txn.errors import InvalidOperation, TxnError
from txn.rpc.quick import surely_valid_execute
from txn.rpc.status import status_of, violations_of
from txn.transaction import Request, Result, Transaction

# Execute answers PENDING this long before the caller stops listening.
EXECUTE_MARGIN_S = 0.25
EXECUTE_WAIT_MAX_S = 30.0
# Messages of one stream whose requests are not all answered; then it is not read any further.
EXECUTE_MESSAGES_MAX = 256

StreamContext: TypeAlias = (
    "grpc.aio.ServicerContext[coordinator_service_pb2.ExecuteStreamRequest, "
    "coordinator_service_pb2.ExecuteStreamResponse]"
)


class _Asked:
    """One request of the stream until it is answered."""

    __slots__ = ("_answered", "begun", "number", "open", "request")

    def __init__(
        self, answered: Callable[[_Asked], None], number: int, request: Request, begun: Begun
    ) -> None:
        self._answered = answered
        self.number = number
        self.request = request
        self.begun = begun
        self.open = True

    def __call__(self) -> None:
        """Something has become of the transaction."""
        begun = self.begun
        if not isinstance(begun, Transaction) or begun.final(
            wait_for_applied=self.request.wait_for_applied
        ):
            self.answer()

    def answer(self) -> None:
        """Whatever has become of it is the answer."""
        if self.open:
            self.leave()
            self._answered(self)

    def leave(self) -> None:
        """Nobody waits for it any more."""
        self.open = False
        if isinstance(self.begun, Transaction):
            self.begun.unwatch(self)


class ExecuteDoor:
    """See the module's docstring."""

    def __init__(
        self,
        coordinator: Coordinator,
        request_in: Callable[[coordinator_service_pb2.ExecuteRequest], Request],
        context: StreamContext,
        write_response: Callable[[Result, coordinator_service_pb2.ExecuteResponse], None],
    ) -> None:
        self._coordinator = coordinator
        self._request_in = request_in
        self._context = context
        self._write_response = write_response
        self._finished: deque[_Asked] = deque()
        self._refused: deque[tuple[int, TxnError]] = deque()
        self._something = asyncio.Event()
        self._closing = False
        self._writing = asyncio.ensure_future(self._write())

    async def answer(self, message: coordinator_service_pb2.ExecuteStreamRequest) -> None:
        """Begins the requests of one message; returns when all are answered or time is up."""
        numbers, requests = self._taken(message)
        left = len(requests)
        all_answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(one: _Asked) -> None:
            nonlocal left
            left -= 1
            if not left and not all_answered.done():
                all_answered.set_result(None)
            # It leaves with the others of this turn.
            self._finished.append(one)
            self._something.set()

        begun = await self._begin(requests)
        asked = [_Asked(answered, *each) for each in zip(numbers, requests, begun, strict=True)]
        for one in asked:
            if isinstance(one.begun, Transaction):
                one.begun.watch(one)
            one()
        try:
            if left:
                await asyncio.wait({all_answered}, timeout=self._wait_s())
        except asyncio.CancelledError:
            # The caller is gone; the transactions are not, and may take long.
            for one in asked:
                one.leave()
            raise
        for one in asked:
            # PENDING: it goes on, and the same key finds it.
            one.answer()

    def _taken(
        self, message: coordinator_service_pb2.ExecuteStreamRequest
    ) -> tuple[list[int], list[Request]]:
        """The requests of a message, by their numbers; those that break a rule are refused."""
        numbers: list[int] = []
        requests: list[Request] = []
        for each in message.requests:
            try:
                requests.append(self._checked(each.request))
                numbers.append(each.number)
            except InvalidOperation as error:
                self._refused.append((each.number, error))
        if self._refused:
            self._something.set()
        return numbers, requests

    async def _begin(self, requests: Sequence[Request]) -> Sequence[Begun]:
        try:
            return await self._coordinator.begin(requests)
        except TxnError as error:
            return [error] * len(requests)

    async def close(self) -> None:
        """Writes what is final, and stops."""
        self._closing = True
        self._something.set()
        # Should the caller be gone, writing fails at once.
        await asyncio.gather(self._writing, return_exceptions=True)

    def _checked(self, request: coordinator_service_pb2.ExecuteRequest) -> Request:
        if not surely_valid_execute(request) and (violations := violations_of(request)):
            raise InvalidOperation(violations)
        return self._request_in(request)

    def _wait_s(self) -> float:
        left_s: float | None = self._context.time_remaining()
        wait_s = EXECUTE_WAIT_MAX_S if left_s is None else left_s - EXECUTE_MARGIN_S
        return max(0.0, min(wait_s, EXECUTE_WAIT_MAX_S))

    async def _write(self) -> None:
        while not (self._closing and not self._finished and not self._refused):
            await self._something.wait()
            self._something.clear()
            finished, self._finished = self._finished, deque()
            refused, self._refused = self._refused, deque()
            response = coordinator_service_pb2.ExecuteStreamResponse()
            for asked in finished:
                self._add(response, asked)
            for number, error in refused:
                response.responses.add(number=number, error=status_of(error))
            if response.responses:
                await self._context.write(response)

    def _add(self, response: coordinator_service_pb2.ExecuteStreamResponse, asked: _Asked) -> None:
        try:
            result = conclude(asked.request, asked.begun)
        except TxnError as error:
            response.responses.add(number=asked.number, error=status_of(error))
        else:
            self._write_response(result, response.responses.add(number=asked.number).response)
