"""Who has money, and what is asked to be done with it next: drawn from a seed. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from tests.chaos.history import Kind, Leg, Request

PASSWORD = "correct horse"
MERCHANT = "market"
FUNDS_MINOR = 100_000
BANK_LIMIT_MINOR = -(10**15)
ACCOUNTS_BY_CURRENCY = {"EUR": 7, "USD": 5}
SHARES = {Kind.PAYMENT: 60, Kind.TRANSFER: 20, Kind.SPLIT: 20}
# Of those clients who may: a password costs a while of a core, and after an
# outage everybody's would be checked at once.
WALLET_SHARE = 0.4
LARGE_SHARE = 0.04
SMALL_MINOR, LARGE_MINOR = (1, 2_000), (60_000, 150_000)


@dataclass(frozen=True, slots=True)
class Holder:
    """A user of the wallet and the user's account."""

    user_id: str
    currency: str

    @property
    def account_id(self) -> str:
        """As the wallet calls it."""
        return f"user:{self.user_id}"


HOLDERS = tuple(
    Holder(f"{currency.lower()}{number}", currency)
    for currency, count in ACCOUNTS_BY_CURRENCY.items()
    for number in range(count)
)


def bank(currency: str) -> str:
    """Where the money comes from."""
    return f"bank-{currency}"


def funding(*holders: Holder) -> Request:
    """What gives one or two holders something to begin with: a branch for each."""
    currency = holders[0].currency
    legs = tuple(Leg(bank(currency), holder.account_id, FUNDS_MINOR) for holder in holders)
    names = "-".join(holder.user_id for holder in holders)
    return Request(f"fund-{names}", Kind.FUND, currency, legs)


def draw(rng: random.Random, key: str, *, wallet: bool) -> Request:
    """The next thing that a client asks for, without the number of its trade.

    With `wallet` some of it is asked of the wallet, with a password.
    """
    kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
    if wallet and rng.random() < WALLET_SHARE:
        kind = Kind.WALLET
    currency = rng.choice(HOLDERS).currency
    debit, *credits_to = rng.sample([h for h in HOLDERS if h.currency == currency], 3)
    legs = tuple(
        Leg(debit.account_id, credit.account_id, _amount_minor(rng))
        for credit in credits_to[: 2 if kind is Kind.SPLIT else 1]
    )
    user_id = debit.user_id if kind is Kind.WALLET else ""
    return Request(key, kind, currency, legs, user_id)


def other_body(request: Request) -> Request:
    """The same key for something else, which must never be done."""
    first, *rest = request.legs
    legs = (replace(first, amount_minor=first.amount_minor + 1), *rest)
    return replace(request, legs=legs)


def _amount_minor(rng: random.Random) -> int:
    return rng.randint(*(LARGE_MINOR if rng.random() < LARGE_SHARE else SMALL_MINOR))
