"""LedgerService over a real server and a real file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeAlias

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from tallystick.ledger.v1 import ledger_service_pb2 as pb
from tallystick.ledger.v1 import ledger_service_pb2_grpc

from services.edge import Edge
from services.ledger.service import LedgerServicer
from tests.services.ledger.test_books import Ledger, transfer
from tests.services.rig import open_store
from tests.support.postgres import PostgresServer
from tests.txn.helpers import FastClock
from tests.txn.rpc.rig import details, failed, served

Code = grpc.StatusCode
Stub: TypeAlias = "ledger_service_pb2_grpc.LedgerServiceAsyncStub"


class Rig:
    """The service, and the books behind it."""

    def __init__(self, stub: Stub, ledger: Ledger) -> None:
        self.stub = stub
        self.ledger = ledger

    async def create(self, account_id: str, code: str = "EUR", limit_minor: int = 0) -> pb.Account:
        """An account."""
        request = pb.CreateAccountRequest(
            account_id=account_id, currency_code=code, limit_minor=limit_minor
        )
        return (await self.stub.CreateAccount(request)).account


@pytest_asyncio.fixture
async def rig(tmp_path: Path, database: PostgresServer | None) -> AsyncIterator[Rig]:
    """A ledger service."""
    async with open_store("ledger", tmp_path, database) as store:

        def add(server: grpc.aio.Server) -> None:
            ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server(
                LedgerServicer(store, FastClock()), server
            )

        async with served(add, interceptors=[Edge()]) as channel:
            yield Rig(ledger_service_pb2_grpc.LedgerServiceStub(channel), Ledger(store))


async def test_accounts_are_created_once(rig: Rig) -> None:
    """A repeated request returns the account; one that differs is told so."""
    first = await rig.create("a", limit_minor=-5)
    assert first == await rig.create("a", limit_minor=-5)
    shown = (await rig.stub.GetAccount(pb.GetAccountRequest(account_id="a"))).account
    assert first == shown
    assert FastClock().utc == shown.create_time.ToMicroseconds()
    for code, limit_minor in (("USD", -5), ("EUR", 0)):
        error = await failed(rig.create("a", code, limit_minor))
        assert (Code.ALREADY_EXISTS, "ACCOUNT_EXISTS") == (error.code(), details(error)[0])


@pytest.mark.parametrize(
    ("code", "limit_minor", "field"),
    [
        ("ZZZ", 0, "currency_code"),
        ("eur", 0, "currency_code"),
        ("EUR", 1, "limit_minor"),
        ("EUR", -(10**18) - 1, "limit_minor"),
    ],
)
async def test_malformed_accounts(rig: Rig, code: str, limit_minor: int, field: str) -> None:
    """Refused with the field's name, and nothing is written."""
    error = await failed(rig.create("a", code, limit_minor))
    assert (Code.INVALID_ARGUMENT, {field}) == (error.code(), set(details(error)[1]))
    error = await failed(rig.stub.GetAccount(pb.GetAccountRequest(account_id="a")))
    assert (Code.NOT_FOUND, "ACCOUNT_NOT_FOUND") == (error.code(), details(error)[0])


async def test_entries_and_trial_balance(rig: Rig) -> None:
    """What was posted can be read page by page, and proved."""
    await rig.create("payer", limit_minor=-1_000)
    await rig.create("payee")
    for number in range(3):
        await rig.ledger.pay(f"t{number}", transfer(7))
    seen, token = [], ""
    while True:
        page = await rig.stub.ListEntries(pb.ListEntriesRequest(page_size=2, page_token=token))
        seen += [entry.txn_id for entry in page.entries]
        if not (token := page.next_page_token):
            break
    assert ["t0", "t1", "t2"] == seen
    lines = [(p.account_id, p.direction, p.amount.amount_minor) for p in page.entries[0].postings]
    assert [("payer", pb.DIRECTION_DEBIT, 7), ("payee", pb.DIRECTION_CREDIT, 7)] == lines
    proof = await rig.stub.GetTrialBalance(pb.GetTrialBalanceRequest())
    [line] = proof.lines
    assert (True, 21, 21, 0) == (
        proof.balanced,
        line.debit_minor,
        line.credit_minor,
        line.difference_minor,
    )
    await rig.ledger.corrupt("UPDATE account SET posted_minor = 99 WHERE account_id = 'payee'")
    proof = await rig.stub.GetTrialBalance(pb.GetTrialBalanceRequest())
    assert (False, 1) == (proof.balanced, proof.lines[0].mismatched_accounts)


async def test_foreign_page_tokens(rig: Rig) -> None:
    """A token that is not ours is the caller's mistake."""
    error = await failed(rig.stub.ListEntries(pb.ListEntriesRequest(page_token="x")))
    assert (Code.INVALID_ARGUMENT, {"page_token"}) == (error.code(), set(details(error)[1]))
