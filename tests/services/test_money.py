"""Money and currencies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.money import (
    AMOUNT_MAX_MINOR,
    BALANCE_MAX_MINOR,
    MINOR_UNIT_PLACES,
    CurrencyCode,
    Money,
    UnknownCurrencyError,
    currency,
)

INT64_MAX = 2**63 - 1


@pytest.mark.parametrize(
    ("code", "amount_minor", "shown"),
    [
        ("EUR", 1230, "12.30 EUR"),
        ("EUR", 5, "0.05 EUR"),
        ("EUR", 0, "0.00 EUR"),
        ("EUR", -5, "-0.05 EUR"),
        ("EUR", -123456, "-1234.56 EUR"),
        ("JPY", 1230, "1230 JPY"),
        ("JPY", 0, "0 JPY"),
        ("KWD", 1, "0.001 KWD"),
        ("KWD", 1234567, "1234.567 KWD"),
        ("CNY", AMOUNT_MAX_MINOR, "1000000000000.00 CNY"),
    ],
)
def test_shown_to_people(code: str, amount_minor: int, shown: str) -> None:
    """Minor units stand where ISO 4217 puts them."""
    assert shown == str(Money(CurrencyCode(code), amount_minor))


@given(
    code=st.sampled_from(sorted(MINOR_UNIT_PLACES)),
    amount_minor=st.integers(-INT64_MAX, INT64_MAX),
)
def test_nothing_is_lost_when_shown(code: str, amount_minor: int) -> None:
    """The digits are the amount, for every currency and sign."""
    number, _, shown_code = str(Money(CurrencyCode(code), amount_minor)).partition(" ")
    assert (amount_minor, code) == (int(number.replace(".", "")), shown_code)


@pytest.mark.parametrize("code", ["", "EURO", "eur", "XXX", "ZZZ", "E€R"])
def test_unknown_currencies(code: str) -> None:
    """A code that is not known here is an error, never a guess."""
    with pytest.raises(UnknownCurrencyError):
        currency(code)


def test_known_currencies() -> None:
    """A known code is itself."""
    assert {code: code for code in MINOR_UNIT_PLACES} == {c: currency(c) for c in MINOR_UNIT_PLACES}


def test_limits_keep_away_from_64_bits() -> None:
    """As many credits as may be under way at once fit above the highest balance."""
    at_once = 10_000
    assert at_once * AMOUNT_MAX_MINOR + BALANCE_MAX_MINOR < INT64_MAX
