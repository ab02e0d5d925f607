"""LedgerService over the books."""

from __future__ import annotations

from tallystick.ledger.v1 import ledger_service_pb2 as pb
from tallystick.ledger.v1 import ledger_service_pb2_grpc

from services import wire
from services.errors import AlreadyExists, NotFound
from services.ledger import books
from txn.clock import Clock
from txn.rpc import Context
from txn.rpc.page import page_limit
from txn.store.group_commit import Store
from txn.store.sql import Sql


class LedgerServicer(ledger_service_pb2_grpc.LedgerServiceServicer):
    """See the proto for every method."""

    def __init__(self, store: Store[Sql], clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def CreateAccount(  # noqa: N802
        self, request: pb.CreateAccountRequest, context: Context
    ) -> pb.CreateAccountResponse:
        """Opens an account, or returns the one that is open already."""
        wanted = books.Account(
            account_id=request.account_id,
            currency_code=wire.currency_from(request.currency_code, "currency_code"),
            limit_minor=request.limit_minor,
            posted_minor=0,
            held_minor=0,
            created_at_us=self._clock.utc_us(),
        )
        account = await self._store.write(lambda tx: books.open_account(tx, wanted))
        if (account.currency_code, account.limit_minor) != (
            wanted.currency_code,
            wanted.limit_minor,
        ):
            raise AlreadyExists(
                "ACCOUNT_EXISTS", "account_id is open with another currency or limit"
            )
        return pb.CreateAccountResponse(account=_account_out(account))

    async def GetAccount(  # noqa: N802
        self, request: pb.GetAccountRequest, context: Context
    ) -> pb.GetAccountResponse:
        """One account with its balances."""
        account = await self._store.read(lambda tx: books.find_account(tx, request.account_id))
        if account is None:
            raise NotFound("ACCOUNT_NOT_FOUND", "there is no such account")
        return pb.GetAccountResponse(account=_account_out(account))

    async def ListEntries(  # noqa: N802
        self, request: pb.ListEntriesRequest, context: Context
    ) -> pb.ListEntriesResponse:
        """Journal entries, page by page."""
        limit = page_limit(request.page_size)
        after = wire.entry_id_from(request.page_token)
        entries = await self._store.read(
            lambda tx: books.list_entries(
                tx,
                account_id=request.account_id,
                txn_id=request.txn_id,
                after=after,
                limit=limit,
            )
        )
        return pb.ListEntriesResponse(
            entries=[_entry_out(entry) for entry in entries],
            next_page_token=str(entries[-1].entry_id) if len(entries) == limit else "",
        )

    async def GetTrialBalance(  # noqa: N802
        self, request: pb.GetTrialBalanceRequest, context: Context
    ) -> pb.GetTrialBalanceResponse:
        """Sums over everything, in one snapshot."""
        lines = await self._store.read(books.trial_balance)
        return pb.GetTrialBalanceResponse(
            lines=[_line_out(line) for line in lines],
            balanced=all(line.balanced for line in lines),
        )


def _account_out(account: books.Account) -> pb.Account:
    return pb.Account(
        account_id=account.account_id,
        currency_code=account.currency_code,
        limit_minor=account.limit_minor,
        posted_minor=account.posted_minor,
        held_minor=account.held_minor,
        available_minor=account.available_minor,
        create_time=wire.time_out(account.created_at_us),
    )


def _entry_out(entry: books.Entry) -> pb.JournalEntry:
    return pb.JournalEntry(
        entry_id=entry.entry_id,
        txn_id=entry.txn_id,
        reference=entry.reference,
        postings=[_posting_out(posting) for posting in entry.postings],
        post_time=wire.time_out(entry.posted_at_us),
    )


def _posting_out(posting: books.Posting) -> pb.Posting:
    credit = posting.amount_minor > 0
    return pb.Posting(
        account_id=posting.account_id,
        direction=pb.DIRECTION_CREDIT if credit else pb.DIRECTION_DEBIT,
        amount=wire.money_out(posting.currency_code, abs(posting.amount_minor)),
    )


def _line_out(line: books.TrialBalanceLine) -> pb.TrialBalanceLine:
    return pb.TrialBalanceLine(
        currency_code=line.currency_code,
        debit_minor=line.debit_minor,
        credit_minor=line.credit_minor,
        difference_minor=line.credit_minor - line.debit_minor,
        posted_minor=line.posted_minor,
        held_minor=line.held_minor,
        mismatched_accounts=line.mismatched_accounts,
    )
