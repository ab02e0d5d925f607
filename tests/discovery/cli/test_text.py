"""What is shown of what others wrote."""

import pytest

from discovery.cli.text import MAX_SHOWN_CHARS, printable, shortened, shown_key, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 漢", "plain ä 漢"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x1b[31m\x07\x9b", "\\x1b[31m\\x07\\x9b"),
        ("\u202eright to left", "\\u202eright to left"),
        ("\udc80", "\\udc80"),
        ("", ""),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    """Control characters, line ends, direction marks and lone surrogates; letters stay."""
    assert shown == printable(text)


def test_any_key_can_be_shown() -> None:
    """A key that is not UTF-8 shows its bytes."""
    assert "a/\\xff\\xfeb" == shown_key(b"a/\xff\xfeb")


def test_what_is_long_is_cut_visibly() -> None:
    """What fits stays whole."""
    assert "x" * MAX_SHOWN_CHARS == shortened("x" * MAX_SHOWN_CHARS)
    assert "x" * (MAX_SHOWN_CHARS - 3) + "..." == shortened("x" * (MAX_SHOWN_CHARS + 1))


def test_columns_line_up() -> None:
    """Each is as wide as its widest cell, no line ends in spaces, nothing is left empty."""
    assert [
        "A     LONG  Z",
        "wide  -     z",
        "b     \\n    -",
    ] == table(("A", "LONG", "Z"), [("wide", "", "z"), ("b", "\n", "")])
