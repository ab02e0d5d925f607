"""How many rows a page has."""

from __future__ import annotations

from txn.errors import FieldViolation, InvalidOperation

PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1_000
# Of a page_token that is a number: less than an int64 has room for.
PAGE_NUMBER_DIGITS_MAX = 18


def page_limit(page_size: int) -> int:
    """What a request's page_size means: 0 or less is the default, too much is the most."""
    return min(page_size, PAGE_SIZE_MAX) if page_size > 0 else PAGE_SIZE_DEFAULT


def page_number(page_token: str) -> int:
    """The number after which a page begins, in a token that is one. Raises InvalidOperation."""
    if not page_token:
        return 0
    if page_token.isascii() and page_token.isdigit() and len(page_token) <= PAGE_NUMBER_DIGITS_MAX:
        return int(page_token)
    rule = FieldViolation("page_token", "page_token.ours", "must be a next_page_token")
    raise InvalidOperation([rule])
