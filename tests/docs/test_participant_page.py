"""What docs/your_own_participant.md shows and says is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import txn
import txn.errors
from tests.docs.pages import ROOT, blocks, quoted, rows
from txn.testing import BrokenRules, Rule

PAGE = ROOT / "docs" / "your_own_participant.md"
LINES_MAX = 59


def _program() -> str:
    (block,) = blocks(PAGE)
    return block.code


def _definitions() -> dict[str, Any]:
    """The names of the program, without running its last line."""
    names: dict[str, Any] = {}
    exec(_program().rpartition("asyncio.run(")[0], names)
    return names


def _check() -> str:
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(
        r"<!-- with the program, in a test -->\n```python\n(.*?)^```$",
        text,
        re.MULTILINE | re.DOTALL,
    )
    return str(code)


def test_the_program_is_short() -> None:
    """Fewer than 60 lines, none of them longer than the project's own."""
    lines = _program().splitlines()
    assert len(lines) <= LINES_MAX
    assert max(map(len, lines)) <= 100


def test_the_program_prints_what_is_on_the_page(tmp_path: Path) -> None:
    """Line by line, run as a user would."""
    text = PAGE.read_text(encoding="utf-8")
    program = tmp_path / "program.py"
    program.write_text(_program(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == text.partition("It prints\n\n```\n")[2].partition("```")[0]


async def test_the_check_of_the_page_passes() -> None:
    """Vouchers as shown, checked as shown."""
    names = _definitions()
    exec(_check(), names)
    await names["test_vouchers_are_a_right_participant"]()


async def test_the_seats_of_the_page_are_right() -> None:
    """The other participant of the program."""
    names = _definitions()
    text = names["StringValue"]
    await txn.testing.check_participant(
        names["Seats"],
        setup=lambda tx: tx.execute("INSERT INTO seat VALUES ('1A', 1)"),
        accepted=[text(value="7C"), text(value="8A")],
        refused=[text(value="1A")],
        rivals=[(text(value="7C"), text(value="7C"))],
    )


async def test_the_check_of_the_page_can_fail() -> None:
    """Vouchers that are not given back are found out by it."""
    names = _definitions()
    exec(_check(), names)
    names["Vouchers"].abort = lambda self, tx, key, voucher: None
    with pytest.raises(BrokenRules) as caught:
        await names["test_vouchers_are_a_right_participant"]()
    assert Rule.ABORT_GIVES_BACK in caught.value.broken


def test_the_rules_are_those_of_the_code() -> None:
    """All of them, in order, each with what to do."""
    listed = [(quoted(row[0])[0], row[1]) for row in rows(PAGE, "Is it right?")]
    assert [(rule.name, rule.value) for rule in Rule] == listed


def test_the_errors_of_a_call_are_there() -> None:
    """Each name is an error of this package."""
    listed = [quoted(row[0])[0] for row in rows(PAGE, "The one call")]
    assert len(listed) == 6
    assert all(issubclass(getattr(txn.errors, name), txn.TxnError) for name in listed)
