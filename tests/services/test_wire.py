"""Between the wire and our own types."""

from __future__ import annotations

import pytest
from tallystick.type.v1 import money_pb2

from services import wire
from services.errors import InvalidArgument
from services.money import CurrencyCode, Money


def test_money_there_and_back() -> None:
    """An amount is the same on both sides."""
    sent = wire.money_out("EUR", 1230)
    assert Money(CurrencyCode("EUR"), 1230) == wire.money_from(sent, "amount")


def test_an_unknown_currency_names_its_field() -> None:
    """The caller is told which field it was."""
    with pytest.raises(InvalidArgument) as caught:
        wire.money_from(money_pb2.Money(currency_code="ZZZ"), "amount")
    [violation] = caught.value.violations
    assert ("amount.currency_code", "currency.known") == (violation.field, violation.rule)


def test_times() -> None:
    """Microseconds survive; what is absent stays absent."""
    assert None is wire.time_out(None)
    sent = wire.time_out(1_700_000_000_123_456)
    assert sent is not None
    assert 1_700_000_000_123_456 == sent.ToMicroseconds()


@pytest.mark.parametrize(("token", "entry_id"), [("", 0), ("1", 1), ("9" * 18, 10**18 - 1)])
def test_page_tokens(token: str, entry_id: int) -> None:
    """A token of ours is a number, and none means the beginning."""
    assert entry_id == wire.entry_id_from(token)


@pytest.mark.parametrize("token", ["x", "-1", "1.0", " 1", "٣", "9" * 19, "1\n"])
def test_foreign_page_tokens(token: str) -> None:
    """Anything else is refused with the field's name."""
    with pytest.raises(InvalidArgument) as caught:
        wire.entry_id_from(token)
    assert ["page_token"] == [violation.field for violation in caught.value.violations]
