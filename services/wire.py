"""Money, times and pages between the wire and our own types."""

from __future__ import annotations

from google.protobuf import timestamp_pb2
from tallystick.type.v1 import money_pb2

from services.errors import InvalidArgument
from services.money import CurrencyCode, Money, UnknownCurrencyError, currency
from services.numbers import whole_number
from txn.errors import FieldViolation

ENTRY_ID_MAX = 10**18 - 1


def currency_from(code: str, field: str) -> CurrencyCode:
    """The currency that a request names. Raises InvalidArgument for one not known here."""
    try:
        return currency(code)
    except UnknownCurrencyError as error:
        raise InvalidArgument(FieldViolation(field, "currency.known", str(error))) from None


def money_from(money: money_pb2.Money, field: str) -> Money:
    """The amount that a request names. Raises InvalidArgument for an unknown currency."""
    return Money(currency_from(money.currency_code, f"{field}.currency_code"), money.amount_minor)


def money_out(currency_code: str, amount_minor: int) -> money_pb2.Money:
    """An amount for the wire."""
    return money_pb2.Money(currency_code=currency_code, amount_minor=amount_minor)


def time_out(utc_us: int | None) -> timestamp_pb2.Timestamp | None:
    """A time for the wire; None stays absent."""
    if utc_us is None:
        return None
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromMicroseconds(utc_us)
    return timestamp


def entry_id_from(page_token: str) -> int:
    """Where a page of numbered rows begins. Raises InvalidArgument for a token not ours."""
    if not page_token:
        return 0
    entry_id = whole_number(page_token, ENTRY_ID_MAX)
    if entry_id is None:
        raise InvalidArgument(
            FieldViolation("page_token", "page_token.ours", "is not a token of an earlier page")
        )
    return entry_id
