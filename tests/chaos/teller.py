"""Who opens the accounts before the fire and pays once after it; in the history as everybody."""

from __future__ import annotations

from pathlib import Path

from tallystick.ledger.v1 import ledger_service_pb2
from tallystick.wallet.v1 import wallet_service_pb2

from tests.chaos.client import Journal
from tests.chaos.history import Attempt, Heard, History, Request
from tests.chaos.money import (
    ACCOUNTS_BY_CURRENCY,
    BANK_LIMIT_MINOR,
    HOLDERS,
    PASSWORD,
    bank,
    funding,
)
from tests.chaos.paying import Payer

TIMEOUT_S = 30.0


class Teller:
    """Asks for what is not a client's payment."""

    def __init__(self, home: Path, etcd: str, history: History) -> None:
        """What is asked and heard goes into `history`; etcd is reached at its own address."""
        home.mkdir(parents=True, exist_ok=True)
        self._home = home
        self._etcd = etcd
        self._journal = Journal(home / "teller.jsonl", history)

    async def open_accounts(self) -> None:
        """Users, accounts and what they have to begin with. Raises RuntimeError, AioRpcError."""
        payer = Payer(self._home, self._etcd)
        for currency in ACCOUNTS_BY_CURRENCY:
            account = ledger_service_pb2.CreateAccountRequest(
                account_id=bank(currency), currency_code=currency, limit_minor=BANK_LIMIT_MINOR
            )
            await payer.mesh.ledger.CreateAccount(account, timeout=TIMEOUT_S, wait_for_ready=True)
        for holder in HOLDERS:
            user = wallet_service_pb2.CreateUserRequest(
                user_id=holder.user_id,
                payment_password=PASSWORD,
                currency_code=holder.currency,
                idempotency_key="open",
            )
            await payer.mesh.wallet.CreateUser(user, timeout=TIMEOUT_S, wait_for_ready=True)
            funded = await self._ask(payer, funding(holder))
            if funded.heard is not Heard.COMMITTED:
                raise RuntimeError(f"{holder} could not be given anything: {funded}")
        await payer.close()

    async def pay_once_more(self) -> Attempt:
        """The next payment after everything. Of two phases, so that the log is forced for it."""
        payer = Payer(self._home, self._etcd)
        attempt = await self._ask(payer, funding(*HOLDERS[:2]))
        await payer.close()
        return attempt

    async def _ask(self, payer: Payer, request: Request) -> Attempt:
        attempt = self._journal.attempt(request)
        attempt.heard, attempt.txn_id, attempt.why = await payer.ask(request, TIMEOUT_S)
        self._journal.heard(attempt)
        return attempt
