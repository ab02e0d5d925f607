"""Whole numbers, and what only looks like one."""

from __future__ import annotations

import pytest

from services.numbers import whole_number


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("10", 10), ("007", 7)])
def test_digits_are_a_number(text: str, number: int) -> None:
    """Up to and with the most."""
    assert number == whole_number(text, 10)


@pytest.mark.parametrize(
    "text", ["", "11", "-1", "+1", " 1", "1_0", "1.0", "\u00b2", "\u0661", "x", "9" * 5000]
)
def test_all_else_is_none(text: str) -> None:
    """Also what `int`, or `str.isdigit`, would take, and what `int` takes too long for."""
    assert None is whole_number(text, 10)
