"""House rules that no linter knows: what is pure stays pure, and every test says what it tests.

import-linter sees imports, not built-ins, and only those that it was told to forbid. Here
the pure files have an allow list instead.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import conftest

ROOT = Path(__file__).parents[1]


def _pure_files() -> list[str]:
    """The files of the contract that import-linter holds: one list, in pyproject.toml."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (pure,) = (c for c in contracts["contracts"] if c["name"] == "pure files import no I/O")
    return [f"{module.replace('.', '/')}.py" for module in pure["source_modules"]]


PURE = _pure_files()
ALLOWED_IMPORTS = {
    "__future__",
    "bisect",
    "collections",
    "collections.abc",
    "contextlib",
    "dataclasses",
    "enum",
    "hashlib",
    "ipaddress",
    "json",
    "math",
    "re",
    "types",
    "typing",
    "urllib.parse",
}
FORBIDDEN_CALLS = {
    "__import__",
    "breakpoint",
    "compile",
    "eval",
    "exec",
    "globals",
    "input",
    "open",
    "print",
}
FORBIDDEN_METHODS = {
    "now",
    "utcnow",
    "today",
    "read_text",
    "write_text",
    "read_bytes",
    "write_bytes",
}


def _module(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from txn import barrier` imports a module as well as `from txn.barrier import x`.
            assert node.module is not None, "relative imports are not used"
            whole = {_module(path) for path in PURE}
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from named & whole or {node.module}


def _names_called(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in FORBIDDEN_CALLS:
            yield node.id
        elif isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_METHODS:
            yield node.attr


def breaches(source: str) -> set[str]:
    """What a file does that a pure one may not."""
    tree = ast.parse(source)
    allowed = ALLOWED_IMPORTS | {_module(path) for path in PURE}
    return (set(_imports(tree)) - allowed) | set(_names_called(tree))


@pytest.mark.parametrize("path", PURE)
def test_pure_files_are_pure(path: str) -> None:
    """No clock, no files, no output, no imports but a few and each other."""
    assert set() == breaches((ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("source", "breach"),
    [
        ("open('x')", {"open"}),
        ("f = open", {"open"}),
        ("print(1)", {"print"}),
        ("eval('1')", {"eval"}),
        ("exec('1')", {"exec"}),
        ("input()", {"input"}),
        ("__import__('os')", {"__import__"}),
        ("import os", {"os"}),
        ("from os import path", {"os"}),
        ("import time as clock", {"time"}),
        ("def f():\n    import random", {"random"}),
        ("from txn import coordinator", {"txn"}),
        ("from txn.coordinator import Coordinator", {"txn.coordinator"}),
        ("from datetime import datetime\ndatetime.now()", {"datetime", "now"}),
        ("from txn import barrier\nfrom txn.state import move\nimport re", set()),
    ],
)
def test_breaches_are_found(source: str, breach: set[str]) -> None:
    """The law itself notices what it forbids, and nothing else."""
    assert breach == breaches(source)


def test_the_allow_list_is_the_standard_library() -> None:
    """Nothing third-party slips in through the list."""
    assert {name.partition(".")[0] for name in ALLOWED_IMPORTS} <= sys.stdlib_module_names


def _tests() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef() if node.name.startswith("test_"):
                    yield str(path.relative_to(ROOT)), node


def test_files_of_which_it_is_said_how_long_they_take_are_there() -> None:
    """A name that is wrong would put a long file to the end, where all others wait for it."""
    assert [] == [file for file in conftest._SECONDS if not (ROOT / "tests" / file).is_file()]


def test_every_test_says_what_it_tests() -> None:
    """A docstring each, which begins with a sentence."""
    silent = [
        f"{path}:{node.lineno} {node.name}"
        for path, node in _tests()
        if not (ast.get_docstring(node) or "").partition("\n")[0].strip().endswith(".")
    ]
    assert [] == silent
