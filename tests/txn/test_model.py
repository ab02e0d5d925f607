"""Digests of requests."""

from __future__ import annotations

import pytest

from tests.txn.helpers import branch
from txn.model import Branch, body_hash

ONE = branch("a", "ledger", b"xy")


def test_the_same_request_has_the_same_digest() -> None:
    """A retry is recognised."""
    assert body_hash([ONE]) == body_hash([branch("a", "ledger", b"xy")])


@pytest.mark.parametrize(
    "other",
    [
        [branch("b", "ledger", b"xy")],
        [branch("a", "order", b"xy")],
        [branch("a", "ledger", b"xz")],
        [branch("al", "edger", b"xy")],
        [ONE, ONE],
        [],
    ],
)
def test_another_request_has_another_digest(other: list[Branch]) -> None:
    """Every field counts, and so does where one ends and the next begins."""
    assert body_hash([ONE]) != body_hash(other)


def test_the_order_of_branches_counts() -> None:
    """Branches in another order are another request."""
    two = branch("b", "order")
    assert body_hash([ONE, two]) != body_hash([two, ONE])
