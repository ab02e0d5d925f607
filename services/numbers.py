"""Whole numbers in what people and environments write."""

from __future__ import annotations

_DIGITS_MAX = 18


def whole_number(text: str, most: int) -> int | None:
    """The number that `text` is, from 0 to `most`, in ASCII digits alone; else None.

    What `int` takes besides (a sign, blanks, underscores, the digits of other scripts) others
    read otherwise, and `str.isdigit` is true of some that `int` does not take.
    """
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS_MAX:
        return None
    number = int(text)
    return number if number <= most else None
