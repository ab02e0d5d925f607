"""What every RPC passes on its way in and out, over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from tallystick.ledger.v1 import ledger_service_pb2 as pb
from tallystick.ledger.v1 import ledger_service_pb2_grpc

from services import edge, errors, wire
from services.edge import Edge
from tests.txn.rpc.rig import Answers, details, failed, served
from txn.errors import FieldViolation, Overloaded, ShuttingDown, StoreFull

TIMEOUT_S = 5.0
Code = grpc.StatusCode
Behaviour = Callable[[pb.GetAccountRequest], Awaitable[pb.GetAccountResponse]]


class Ledger(ledger_service_pb2_grpc.LedgerServiceServicer):
    """A service whose GetAccount does as the test says."""

    def __init__(self, behave: Behaviour) -> None:
        self._behave = behave
        self.calls = 0

    async def _unused(self, request: Any, context: Any) -> Any:
        raise AssertionError

    CreateAccount = ListEntries = GetTrialBalance = _unused

    async def GetAccount(  # noqa: N802
        self, request: pb.GetAccountRequest, context: Any
    ) -> pb.GetAccountResponse:
        """See the class."""
        self.calls += 1
        return await self._behave(request)


def raising(error: BaseException) -> Behaviour:
    """Behaviour that fails."""

    async def behave(request: pb.GetAccountRequest) -> pb.GetAccountResponse:
        raise error

    return behave


async def ask(
    behave: Behaviour, account_id: str = "a", timeout_s: float | None = TIMEOUT_S
) -> tuple[grpc.aio.AioRpcError, int]:
    """How the call fails, and how often the service was reached."""
    servicer = Ledger(behave)

    def add(server: grpc.aio.Server) -> None:
        ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server(servicer, server)

    async with served(add, interceptors=[Edge()]) as channel:
        stub: ledger_service_pb2_grpc.LedgerServiceAsyncStub = (
            ledger_service_pb2_grpc.LedgerServiceStub(channel)
        )
        request = pb.GetAccountRequest(account_id=account_id)
        return await failed(stub.GetAccount(request, timeout=timeout_s)), servicer.calls


@pytest.mark.parametrize(
    ("account_id", "rule"),
    [("", "string.pattern"), ("x" * 65, "string.max_len"), ("a b", "string.pattern")],
)
async def test_rules_of_the_proto_are_checked_first(account_id: str, rule: str) -> None:
    """A malformed request never reaches the service."""
    error, calls = await ask(raising(AssertionError()), account_id)
    assert (Code.INVALID_ARGUMENT, 0) == (error.code(), calls)
    assert ("INVALID_REQUEST", {"account_id": rule}) == details(error)


async def test_bytes_that_are_no_message() -> None:
    """Answered like any other error, without a word of how they were read."""
    servicer = Ledger(raising(AssertionError()))

    def add(server: grpc.aio.Server) -> None:
        ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server(servicer, server)

    async with served(add, interceptors=[Edge()]) as channel:
        method: Any = cast("Any", channel).unary_unary(
            "/tallystick.ledger.v1.LedgerService/GetAccount"
        )
        error = await failed(method(b"\xff\xff", timeout=TIMEOUT_S))
    assert (Code.INTERNAL, "MALFORMED", 0) == (error.code(), details(error)[0], servicer.calls)


async def test_an_unknown_currency_is_a_broken_rule() -> None:
    """What the proto cannot say is answered in the same form."""

    async def behave(request: pb.GetAccountRequest) -> pb.GetAccountResponse:
        wire.currency_from("ZZZ", "currency_code")
        raise AssertionError

    error, _ = await ask(behave)
    assert Code.INVALID_ARGUMENT is error.code()
    assert ("INVALID_REQUEST", {"currency_code": "currency.known"}) == details(error)


@pytest.mark.parametrize(
    ("raised", "code", "reason"),
    [
        (errors.NotFound("A", "m"), Code.NOT_FOUND, "A"),
        (errors.AlreadyExists("B", "m"), Code.ALREADY_EXISTS, "B"),
        (errors.FailedPrecondition("C", "m"), Code.FAILED_PRECONDITION, "C"),
        (errors.Aborted("D", "m"), Code.ABORTED, "D"),
        (errors.Unauthenticated("E", "m"), Code.UNAUTHENTICATED, "E"),
        (errors.Overloaded("F", "m"), Code.RESOURCE_EXHAUSTED, "F"),
        (errors.Unavailable("G", "m"), Code.UNAVAILABLE, "G"),
        (
            errors.InvalidArgument(FieldViolation("f", "r", "d")),
            Code.INVALID_ARGUMENT,
            "INVALID_REQUEST",
        ),
        (StoreFull("m"), Code.RESOURCE_EXHAUSTED, "STORE_FULL"),
        (Overloaded("m"), Code.RESOURCE_EXHAUSTED, "OVERLOADED"),
        (ShuttingDown("m"), Code.UNAVAILABLE, "SHUTTING_DOWN"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_errors_become_statuses(
    raised: Exception, code: grpc.StatusCode, reason: str
) -> None:
    """Each error of ours has one status and one reason."""
    error, _ = await ask(raising(raised))
    assert (code, reason) == (error.code(), details(error)[0])


async def test_nothing_of_the_inside_leaves() -> None:
    """An error that nobody foresaw is INTERNAL and says nothing else."""
    error, _ = await ask(raising(RuntimeError("secret at /var/lib/books.db")))
    assert (Code.INTERNAL, "internal error") == (error.code(), error.details())
    assert ("INTERNAL", {}) == details(error)


async def test_a_service_behind_is_unavailable() -> None:
    """What a service behind this one said is not for this one's caller."""

    async def refuse(context: Any) -> bytes:
        await context.abort(Code.PERMISSION_DENIED, "secret")
        return b""

    async with served(Answers(refuse).add) as behind:
        stub: ledger_service_pb2_grpc.LedgerServiceAsyncStub = (
            ledger_service_pb2_grpc.LedgerServiceStub(behind)
        )

        async def behave(request: pb.GetAccountRequest) -> pb.GetAccountResponse:
            return await stub.GetAccount(request, timeout=TIMEOUT_S)

        error, _ = await ask(behave)
    assert (Code.UNAVAILABLE, "DOWNSTREAM_UNAVAILABLE") == (error.code(), details(error)[0])
    assert "secret" not in (error.details() or "")


@pytest.mark.parametrize("timeout_s", [None, 365 * 86_400.0])
async def test_the_deadline_is_clamped(
    timeout_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller without a deadline, or with one of a year, is not waited for longer than ours."""
    monkeypatch.setattr(edge, "DEADLINE_MAX_S", 0.05)
    ended = asyncio.Event()

    async def behave(request: pb.GetAccountRequest) -> pb.GetAccountResponse:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    error, _ = await ask(behave, timeout_s=timeout_s)
    assert (Code.DEADLINE_EXCEEDED, "DEADLINE") == (error.code(), details(error)[0])
    assert ended.is_set()


async def test_strangers_are_left_alone() -> None:
    """Methods that are not of this project's protos pass as they are."""
    async with served(Answers(b"as it is").add, interceptors=[Edge()]) as channel:
        method: Any = cast("Any", channel).unary_unary("/other.Service/Method")
        assert b"as it is" == await method(b"", timeout=TIMEOUT_S)
