"""What the tests of the engine may rely on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.txn.helpers import stop_engines


@pytest.fixture(autouse=True)
def nothing_goes_on() -> Iterator[None]:
    """An engine whose transactions never end is stopped with its test."""
    yield
    stop_engines()
