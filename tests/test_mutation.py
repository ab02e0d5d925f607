"""What `make mutation` makes of what mutmut says."""

from __future__ import annotations

import pytest

from tests.mutation import ROOT, by_file, changed, killed, results, verdict

LISTING = """
    txn.state.x_allowed__mutmut_1: killed
    txn.state.x_allowed__mutmut_2: survived
    txn.protocol.x_resume__mutmut_1: timeout
    txn.protocol.x_resume__mutmut_2: no tests
"""
STATE = {"txn.state.x_allowed__mutmut_1": "killed", "txn.state.x_allowed__mutmut_2": "survived"}
PROTOCOL = {
    "txn.protocol.x_resume__mutmut_1": "timeout",
    "txn.protocol.x_resume__mutmut_2": "no tests",
}


def test_what_became_of_each_is_read_by_file() -> None:
    """A line is a mutant and what became of it; its name says the module."""
    assert {**STATE, **PROTOCOL} == results(LISTING)
    assert {"txn/state.py": STATE, "txn/protocol.py": PROTOCOL} == by_file(results(LISTING))


def test_only_what_a_test_noticed_is_killed() -> None:
    """A test that failed or did not end has noticed; nothing else is a notice."""
    assert {"txn.state.x_allowed__mutmut_1"} == killed(STATE)
    assert {"txn.protocol.x_resume__mutmut_1"} == killed(PROTOCOL)
    assert set() == killed({"a": "suspicious", "b": "skipped", "c": "segfault"})


def test_the_files_that_are_changed_are_there() -> None:
    """Four of them, as the settings of mutmut say."""
    assert ["txn/state.py", "txn/protocol.py", "txn/barrier.py", "txn/recovery.py"] == changed()
    assert all((ROOT / path).is_file() for path in changed())


@pytest.mark.parametrize(
    ("survive", "status"), [(0, 0), (1, 0), (2, 1)], ids=["all", "just enough", "too few"]
)
def test_nine_tenths_of_each_file_have_to_be_noticed(survive: int, status: int) -> None:
    """A file below fails the run, however good the others are."""
    good = {f"g{number}": "killed" for number in range(100)}
    file = {f"f{number}": "survived" if number < survive else "killed" for number in range(10)}
    assert status == verdict({"good.py": good, "file.py": file}, ["good.py", "file.py"])


def test_a_file_without_mutants_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """What was not changed at all was not tested."""
    assert 1 == verdict({"a.py": {"a": "killed"}}, ["a.py", "b.py"])
    assert "b.py               mutants=0 killed=0 score=0.00" in capsys.readouterr().out
    assert 1 == verdict({}, [])
