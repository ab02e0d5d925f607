"""Who plays in a run of the demo, and what the books say of them."""

from __future__ import annotations

from dataclasses import dataclass

from tallystick.ledger.v1 import ledger_service_pb2 as ledger
from tallystick.type.v1 import money_pb2

from services.money import Money, currency

CURRENCY = "EUR"


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays in one run, under names of its own."""

    run: str
    password: str

    @property
    def user(self) -> str:
        """The payer."""
        return f"alice-{self.run}"

    @property
    def payer(self) -> str:
        """The payer's account, which wallet opens."""
        return f"user:{self.user}"

    @property
    def shop(self) -> str:
        """The merchant, and the merchant's account."""
        return f"shop-{self.run}"

    @property
    def bank(self) -> str:
        """The account that funds the payer, and may be overdrawn."""
        return f"bank-{self.run}"


@dataclass(frozen=True, slots=True)
class Position:
    """What both books say of a trade at one moment."""

    trade_state: str
    payer: ledger.Account
    payee: ledger.Account

    def row(self, when: str) -> tuple[str, ...]:
        """As a line of a table."""
        return (
            when,
            self.trade_state,
            shown(self.payer.available_minor),
            shown(self.payer.held_minor),
            shown(self.payee.available_minor),
        )


def money(amount_minor: int) -> money_pb2.Money:
    """An amount of the demo's currency, for the wire."""
    return money_pb2.Money(currency_code=CURRENCY, amount_minor=amount_minor)


def shown(amount_minor: int, code: str = CURRENCY) -> str:
    """An amount for people."""
    return str(Money(currency(code), amount_minor))
