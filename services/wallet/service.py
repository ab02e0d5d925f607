"""WalletService: users and payments."""

from __future__ import annotations

import contextlib
from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from tallystick.ledger.v1 import ledger_service_pb2, ledger_service_pb2_grpc
from tallystick.order.v1 import order_service_pb2, order_service_pb2_grpc
from tallystick.txn.v1 import coordinator_service_pb2, coordinator_service_pb2_grpc
from tallystick.wallet.v1 import wallet_service_pb2 as pb
from tallystick.wallet.v1 import wallet_service_pb2_grpc

from services import wire
from services.deadline import timeout_within
from services.errors import (
    AlreadyExists,
    FailedPrecondition,
    NotFound,
    Overloaded,
    Unauthenticated,
)
from services.wallet import users
from services.wallet.passwords import Passwords
from txn.clock import Clock
from txn.errors import TxnError
from txn.rpc import Context
from txn.store.group_commit import Store
from txn.store.sql import Sql

READ_TIMEOUT_S = 5.0
EXECUTE_TIMEOUT_S = 15.0
ACCOUNT_PREFIX = "user:"


class WalletServicer(wallet_service_pb2_grpc.WalletServiceServicer):
    """See the proto for every method. Holds no state of a payment: the coordinator does."""

    def __init__(
        self,
        store: Store[Sql],
        clock: Clock,
        passwords: Passwords,
        *,
        order: grpc.aio.Channel,
        ledger: grpc.aio.Channel,
        coordinator: grpc.aio.Channel,
    ) -> None:
        self._store = store
        self._clock = clock
        self._passwords = passwords
        self._order = order_service_pb2_grpc.OrderServiceStub(order)
        self._ledger = ledger_service_pb2_grpc.LedgerServiceStub(ledger)
        self._coordinator = coordinator_service_pb2_grpc.CoordinatorServiceStub(coordinator)

    async def CreateUser(  # noqa: N802
        self, request: pb.CreateUserRequest, context: Context
    ) -> pb.CreateUserResponse:
        """Opens the account first: a user without one could not be seen through."""
        code = wire.currency_from(request.currency_code, "currency_code")
        user = await self._store.read(lambda tx: users.find(tx, request.user_id))
        if user is None:
            user = await self._create(request, code)
        if (user.idempotency_key, user.currency_code) != (request.idempotency_key, code):
            raise AlreadyExists("USER_EXISTS", "user_id is taken")
        return pb.CreateUserResponse(
            user=pb.User(
                user_id=user.user_id,
                account_id=user.account_id,
                currency_code=user.currency_code,
                create_time=wire.time_out(user.created_at_us),
            )
        )

    async def ConfirmPayment(  # noqa: N802
        self, request: pb.ConfirmPaymentRequest, context: Context
    ) -> pb.ConfirmPaymentResponse:
        """Pays a trade by one transaction over order and ledger.

        The trade's state is left to its participant: a repeated request must find the
        first one's outcome, also when the trade has moved on because of it.
        """
        user = await self._authenticated(request)
        trade = await self._trade(request.trade_no)
        if trade.payee_account_id == user.account_id:
            raise FailedPrecondition("PAYER_IS_PAYEE", "payer and payee are the same account")
        execute = coordinator_service_pb2.ExecuteRequest(
            idempotency_key=f"pay:{user.user_id}:{request.idempotency_key}",
            branches=_branches(trade, user),
        )
        try:
            result = await self._coordinator.Execute(
                execute, timeout=timeout_within(context, EXECUTE_TIMEOUT_S)
            )
        except grpc.aio.AioRpcError as error:
            _raise_refused(error)
        if result.outcome == coordinator_service_pb2.OUTCOME_ABORTED:
            raise FailedPrecondition(
                result.reason,
                f"the payment was refused ({result.reason}); nothing was charged",
            )
        committed = result.outcome == coordinator_service_pb2.OUTCOME_COMMITTED
        return pb.ConfirmPaymentResponse(
            txn_id=result.txn_id,
            trade_no=trade.trade_no,
            amount=trade.amount,
            state=pb.PAYMENT_STATE_SUCCEEDED if committed else pb.PAYMENT_STATE_PENDING,
        )

    async def _create(self, request: pb.CreateUserRequest, code: str) -> users.User:
        password_hash = await self._passwords.hash(request.payment_password)
        account = ledger_service_pb2.CreateAccountRequest(
            account_id=ACCOUNT_PREFIX + request.user_id, currency_code=code
        )
        try:
            await self._ledger.CreateAccount(account, timeout=READ_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                raise AlreadyExists("USER_EXISTS", "user_id is taken") from error
            raise
        user = users.User(
            user_id=request.user_id,
            account_id=account.account_id,
            currency_code=code,
            password_hash=password_hash,
            idempotency_key=request.idempotency_key,
            created_at_us=self._clock.utc_us(),
        )
        return await self._store.write(lambda tx: users.create(tx, user))

    async def _authenticated(self, request: pb.ConfirmPaymentRequest) -> users.User:
        user = await self._store.read(lambda tx: users.find(tx, request.user_id))
        kept = None if user is None else user.password_hash
        matches = await self._passwords.matches(kept, request.payment_password)
        if user is None or not matches:
            raise Unauthenticated(
                "WRONG_CREDENTIALS", "user_id and payment_password do not belong together"
            )
        if self._passwords.outdated(user.password_hash) and not self._passwords.busy:
            await self._renew(user, request.payment_password)
        return user

    async def _renew(self, user: users.User, password: str) -> None:
        """Makes a hash of today's cost. This payment takes that much longer, and does not fail."""
        with contextlib.suppress(Overloaded, TxnError):
            renewed = await self._passwords.hash(password)
            await self._store.write(
                lambda tx: users.renew(tx, user.user_id, user.password_hash, renewed)
            )

    async def _trade(self, trade_no: str) -> order_service_pb2.Trade:
        request = order_service_pb2.GetTradeRequest(trade_no=trade_no)
        try:
            reply = await self._order.GetTrade(request, timeout=READ_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise NotFound("TRADE_NOT_FOUND", "there is no such trade") from error
            raise
        return reply.trade


def _branches(
    trade: order_service_pb2.Trade, user: users.User
) -> list[coordinator_service_pb2.Branch]:
    pay = order_service_pb2.PayTradeOperation(
        trade_no=trade.trade_no,
        amount=trade.amount,
        payee_account_id=trade.payee_account_id,
        payer_account_id=user.account_id,
    )
    transfer = ledger_service_pb2.TransferOperation(
        debit_account_id=user.account_id,
        credit_account_id=trade.payee_account_id,
        amount=trade.amount,
        reference=trade.trade_no,
    )
    return [
        coordinator_service_pb2.Branch(
            branch_id="order", participant="order", operation=_packed(pay)
        ),
        coordinator_service_pb2.Branch(
            branch_id="ledger", participant="ledger", operation=_packed(transfer)
        ),
    ]


def _packed(operation: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(operation)
    return packed


def _raise_refused(error: grpc.aio.AioRpcError) -> NoReturn:
    """What the coordinator refused before it began; all else says nothing about the outcome."""
    if error.code() is grpc.StatusCode.ALREADY_EXISTS:
        raise AlreadyExists(
            "IDEMPOTENCY_CONFLICT", "idempotency_key was used for another payment"
        ) from error
    raise error
