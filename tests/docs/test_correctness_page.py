"""The page on correctness names the bugs that are planted."""

from __future__ import annotations

from tests.docs.pages import ROOT, rows
from tests.sim import mutants

PAGE = ROOT / "docs" / "correctness.md"


def test_each_planted_bug_is_in_the_table() -> None:
    """In the order in which they are looked for, and with what each is."""
    planted = [(name, mutants.says(name)) for name in mutants.names()]
    assert planted == [(name, what) for name, what, *_ in rows(PAGE, "Planted bugs")]
