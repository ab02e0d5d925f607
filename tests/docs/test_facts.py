"""What the pages say of the code is so: links, targets, names of tests, states and limits."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import PAGES, ROOT, quoted, rows
from txn.state import BRANCH_MOVES, TRANSACTION_MOVES

TWO_PHASE_COMMIT = ROOT / "docs" / "two_phase_commit.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
DISCOVERY = ROOT / "docs" / "discovery.md"
BALANCER = ROOT / "docs" / "balancer.md"
METRICS = ROOT / "docs" / "metrics.md"
OPERATIONS = ROOT / "docs" / "operations.md"
OPERATORS = ROOT / "docs" / "operators.md"
WITH_LIMITS = [TWO_PHASE_COMMIT, ARCHITECTURE, DISCOVERY, BALANCER, METRICS, OPERATIONS, OPERATORS]
_LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")
_TARGET = re.compile(r"\bmake ([a-z][a-z-]*)")
_CODE = re.compile(r"`[^`\n]+`|^\$ .*$", re.MULTILINE)
# Names of limits, and names with a unit at their end.
_LIMIT = re.compile(r"[A-Z][A-Z0-9_]*_(MAX|MIN|LIMIT|TIMEOUT)(_[A-Z]+)?")
_MEASURE = re.compile(r"[A-Z][A-Z0-9_]*_(S|BYTES|PAGES|MAX|MIN|LIMIT)")
_TEST = re.compile(r"`(test_[a-z0-9_]+)`")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", each.lower()).replace(" ", "-") for each in headings}


@pages
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link names a file that is there, and its anchor a heading of it."""
    for path, anchor in _LINK.findall(page.read_text(encoding="utf-8")):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or anchor in _anchors(target), f"{path}#{anchor}"


@pages
def test_nothing_is_left_to_be_filled_in(page: Path) -> None:
    """No figure is a placeholder any more."""
    assert [] == re.findall(r"@[A-Z]+@", page.read_text(encoding="utf-8"))


@pages
def test_make_targets_exist(page: Path) -> None:
    """Whatever a page tells people to make can be made."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    code = _CODE.findall(page.read_text(encoding="utf-8"))
    assert set(_TARGET.findall(" ".join(code))) <= targets


def test_named_tests_exist() -> None:
    """A test that a page names as its witness is there."""
    written = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py"))
    existing = set(re.findall(r"def (test_\w+)\(", written))
    named = {name for page in PAGES for name in _TEST.findall(page.read_text(encoding="utf-8"))}
    assert len(named) > 10
    assert named <= existing


@pytest.mark.parametrize(
    ("heading", "moves"),
    [
        ("Of a transaction, at its coordinator", TRANSACTION_MOVES),
        ("Of a branch, at its participant", BRANCH_MOVES),
    ],
)
def test_states_are_those_of_the_code(heading: str, moves: Mapping[Any, frozenset[Enum]]) -> None:
    """The tables of states show every state and every move, and no other."""
    shown = {quoted(row[0])[0]: set(quoted(row[1])) for row in rows(TWO_PHASE_COMMIT, heading)}
    assert shown == {
        "None" if at is None else at.value: {state.value for state in to}
        for at, to in moves.items()
    }


def _value_of(name: str) -> object:
    """A module's constant, or the default of a configuration's field."""
    owner, _, last = name.rpartition(".")
    try:
        return getattr(importlib.import_module(owner), last)
    except ModuleNotFoundError:
        module, _, class_name = owner.rpartition(".")
        configuration = getattr(importlib.import_module(module), class_name)
        (field,) = [each for each in dataclasses.fields(configuration) if each.name == last]
        default: object = field.default
        return default


@pytest.mark.parametrize("page", WITH_LIMITS, ids=lambda page: page.name)
def test_limits_are_those_of_the_code(page: Path) -> None:
    """Each limit that a page lists has the name and the value of the code."""
    listed = {quoted(row[0])[0]: row[1] for row in rows(page, "Limits")}
    assert listed == {name: str(_value_of(name)) for name in listed}


def _constants(package: str, name: re.Pattern[str]) -> set[str]:
    """The numbers in a package, by their full names, whose own names are of that kind."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            target = node.target if isinstance(node, ast.AnnAssign) else target
            if isinstance(target, ast.Name) and name.fullmatch(target.id):
                found.add(f"{module}.{target.id}")
    return {each for each in found if isinstance(_value_of(each), int | float)}


def test_every_limit_is_listed() -> None:
    """Of transactions all constants that measure something, of the services all limits."""
    listed = {quoted(row[0])[0] for page in WITH_LIMITS for row in rows(page, "Limits")}
    # A unit, not a measure.
    measures = _constants("txn", _MEASURE) - {"txn.clock.US_PER_S"}
    # The launcher is a tool, whose limits are nobody's to meet.
    limits = {each for each in _constants("services", _LIMIT) if "launcher" not in each}
    assert len(measures) > 30
    assert len(limits) > 10
    assert set() == (measures | limits) - listed
