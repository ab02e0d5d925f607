"""How many rows a page has."""

from __future__ import annotations

PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1_000


def page_limit(page_size: int) -> int:
    """What a request's page_size means: 0 or less is the default, too much is the most."""
    return min(page_size, PAGE_SIZE_MAX) if page_size > 0 else PAGE_SIZE_DEFAULT
