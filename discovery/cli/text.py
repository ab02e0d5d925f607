"""What is shown of what others wrote: no control characters, columns that line up. Pure.

Keys are any bytes and error texts come from afar. What is not printable is shown as
Python would write it in a string, so that no value can move a terminal's cursor, set its
title or turn the direction of the line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

MAX_SHOWN_CHARS: Final = 300
_NOTHING = "-"
_GAP = "  "


def printable(text: str) -> str:
    """`text` on one line, with everything that is not printable escaped."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def shown_key(key: bytes) -> str:
    """A key as text, whatever is in it."""
    return key.decode("utf-8", "backslashreplace")


def shortened(text: str) -> str:
    """At most MAX_SHOWN_CHARS of it, and a sign where that is not all."""
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "..."


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns at least two spaces apart; an empty cell is shown as `-`."""
    cells = [[printable(cell) or _NOTHING for cell in row] for row in (heading, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [_line(row, widths) for row in cells]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
    return _GAP.join(padded).rstrip()


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
