"""What a caller is told in words."""

from __future__ import annotations

import pytest

from services.errors import InvalidArgument, describe
from txn.errors import FieldViolation


def violations(count: int) -> list[FieldViolation]:
    """Some broken rules."""
    return [FieldViolation(f"f{n}", "rule", "is wrong") for n in range(count)]


@pytest.mark.parametrize(
    ("count", "sentence"),
    [
        (1, "f0: is wrong"),
        (3, "f0: is wrong; f1: is wrong; f2: is wrong"),
        (5, "f0: is wrong; f1: is wrong; f2: is wrong (and 2 more)"),
    ],
)
def test_a_sentence_has_a_limit(count: int, sentence: str) -> None:
    """However many rules a request breaks, the message stays short; the details have them all."""
    error = InvalidArgument(*violations(count))
    assert (sentence, count) == (error.message, len(error.violations))


def test_a_rule_of_the_whole_request() -> None:
    """A rule that belongs to no field is about the request."""
    assert "request: is wrong" == describe([FieldViolation("", "rule", "is wrong")])
