"""Writes configuration.md from the code: `python -m docs.configuration write`, or `check`.

What a field means stands in the code, in the sentence of its class's docstring that names it, in
the comment above it or in the docstring below it. A field with none of these is refused, and so
is a variable of the environment that the code reads and VARIABLES does not describe.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from services.housekeeping import INTERVAL, RETENTION
from services.launcher.settings import ETCD_PORT
from services.wallet.passwords import (
    MEMORY_COST,
    MEMORY_COST_DEFAULT_KIB,
    MEMORY_COST_MAX_KIB,
    MEMORY_COST_MIN_KIB,
)
from txn.forgetter import ForgetterConfig
from txn.log_keeper import RETENTION_MIN_S, LogKeeperConfig

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "configuration.md"
PACKAGES = ("services", "txn", "discovery", "balancer")
# What is configured, and what such a thing consists of.
NAMES = re.compile(r"[A-Z]\w*(Config|Policy|Ejection|Tls|Backoff)|Backoff")
UNITS = {
    "_us": "microseconds",
    "_ms": "milliseconds",
    "_s": "seconds",
    "_bytes": "bytes",
    "_percent": "percent",
    "_percentage": "percent",
    "_share": "of 1",
    "_share_max": "of 1",
}
_VARIABLE = re.compile(r"TALLYSTICK_[A-Z][A-Z_]*[A-Z]")


class Variable(NamedTuple):
    """A variable of the environment: what it is without, in which unit, and what it means."""

    default: str
    unit: str
    meaning: str


VARIABLES = {
    "TALLYSTICK_HOME": Variable(
        ".tallystick", "directory", "books, logs and what runs, of one mesh on one host"
    ),
    "TALLYSTICK_ETCD": Variable(
        f"for `make up` an etcd of its own at port {ETCD_PORT}; services demand it",
        "host:port, ...",
        "the etcd cluster that is the registry",
    ),
    "TALLYSTICK_ETCD_CA": Variable("those of gRPC", "PEM file", "whom to trust as etcd, with TLS"),
    "TALLYSTICK_ETCD_CERT": Variable("none", "PEM file", "the client certificate for etcd"),
    "TALLYSTICK_ETCD_KEY": Variable("none", "PEM file", "its key"),
    "TALLYSTICK_ETCD_USER": Variable("none", "name", "as whom to sign in at etcd"),
    "TALLYSTICK_ETCD_PASSWORD": Variable("none", "text", "its password; never in a command line"),
    "TALLYSTICK_POSTGRES": Variable(
        "SQLite files in the home",
        "connection string of libpq",
        "the database that keeps the books; a password in a `passfile` is safer than here",
    ),
    RETENTION: Variable(
        f"{LogKeeperConfig().idempotency_retention_s:g}",
        "seconds",
        "how long an outcome and its idempotency key are known at least; not below "
        f"{RETENTION_MIN_S:g}; read by coordinators",
    ),
    INTERVAL: Variable(
        f"{ForgetterConfig().interval_s:g}",
        "seconds",
        "from one look for what may be forgotten to the next; read by all but the wallet",
    ),
    MEMORY_COST: Variable(
        f"{MEMORY_COST_DEFAULT_KIB}",
        "KiB",
        f"memory cost of a password's hash, {MEMORY_COST_MIN_KIB} to {MEMORY_COST_MAX_KIB}; the "
        "time of a check goes with it; read by the wallet",
    ),
    "TALLYSTICK_ONE_PHASE": Variable(
        "1", "0 or 1", "whether a single branch takes one phase; read by coordinators"
    ),
    "TALLYSTICK_METRICS_PORT_OFFSET": Variable(
        "none: no metrics are served",
        "number",
        "how far above its own port each service serves its metrics",
    ),
    "TALLYSTICK_LOG": Variable("INFO", "DEBUG to CRITICAL", "the least that is logged"),
    "TALLYSTICK_REQUIRE": Variable(
        "none", "names, ...", "of tests: what must not be missing on the machine"
    ),
    "TALLYSTICK_FAILPOINT": Variable(
        "none", "crash point", "of tests: where a process kills itself; never in production"
    ),
    "TALLYSTICK_CHAOS_MUTANT": Variable("none", "mutant", "of tests: a bug planted on purpose"),
    "TALLYSTICK_BOOTSTRAP_HANDED_OVER": Variable(
        "none", "1", "of set-up: says to itself that another Python goes on"
    ),
}


class Field(NamedTuple):
    """One row of a table."""

    name: str
    default: str
    unit: str
    meaning: str


def rendered() -> str:
    """The page. Raises ValueError for what has no meaning."""
    parts = [
        "# Configuration",
        "Made from the code by `make docs`; a test fails when it is out of date. What to watch, and"
        " what to do, is in [operations.md](operations.md).",
        "## Variables of the environment",
        "Services, the launcher and the tools read them when they start.",
        _table(
            ("variable", "without it", "unit", "meaning"),
            [(f"`{name}`", *VARIABLES[name]) for name in sorted(_variables())],
        ),
        "## Configuration classes",
        "For programs that use the libraries. A service of this repository has the defaults, but"
        " for what a variable above says. Each refuses nonsense when it is made.",
    ]
    for configured in _classes():
        parts += [
            f"### {configured.__module__}.{configured.__name__}",
            _heading_of(configured),
            _table(
                ("field", "default", "unit", "meaning"),
                [(f"`{each.name}`", *each[1:]) for each in _fields(configured)],
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _variables() -> set[str]:
    """Those that the code names. Raises ValueError when one of them is not described here."""
    paths = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("bench/**/*.py")]
    paths += [path for package in PACKAGES for path in ROOT.glob(f"{package}/**/*.py")]
    paths += [ROOT / "Makefile", ROOT / ".ci" / "run"]
    found = {name for path in paths for name in _VARIABLE.findall(path.read_text("utf-8"))}
    if found != set(VARIABLES):
        raise ValueError(f"not described, or not there: {sorted(found ^ set(VARIABLES))}")
    return found


def _classes() -> Iterator[type[Any]]:
    """Every configuration of a package, in the order of their modules."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            names = re.findall(r"^class (\w+)", path.read_text("utf-8"), re.MULTILINE)
            for name in filter(NAMES.fullmatch, names):
                module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                found = getattr(importlib.import_module(module), name)
                if isinstance(found, type) and dataclasses.is_dataclass(found):
                    yield found


def _fields(configured: type[Any]) -> Iterator[Field]:
    comments = {}
    for owner in reversed(configured.__mro__[:-1]):
        comments.update(_comments(owner))
    for field in dataclasses.fields(configured):
        meaning = comments.get(field.name) or _sentence(configured, field.name)
        if not meaning:
            raise ValueError(f"{configured.__name__}.{field.name}: what it means stands nowhere")
        default = _default(field)
        # What stands for a configuration of its own has no unit.
        unit = "" if default.endswith(")`") else _unit(field.name)
        yield Field(field.name, default, unit, meaning)


def _comments(owner: type[Any]) -> dict[str, str]:
    """What stands above or below the fields of one class, by field."""
    source = textwrap.dedent(inspect.getsource(owner))
    lines = source.splitlines()
    (node,) = (each for each in ast.parse(source).body if isinstance(each, ast.ClassDef))
    found = {}
    for at, each in enumerate(node.body):
        if not (isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)):
            continue
        above: list[str] = []
        for line in reversed(lines[: each.lineno - 1]):
            if not line.strip().startswith("# "):
                break
            above.insert(0, line.strip()[2:])
        below = node.body[at + 1] if at + 1 < len(node.body) else None
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            above = [str(below.value.value)]
        if above:
            found[each.target.id] = _joined(" ".join(above))
    return found


def _sentence(configured: type[Any], name: str) -> str:
    """The sentence of a docstring that names a field first, its own or that of a base."""
    for owner in configured.__mro__[:-1]:
        text = _joined(inspect.cleandoc(owner.__doc__ or "").replace("\n\n", "\n"))
        for sentence in re.split(r"(?<=\.)\s+(?=[A-Z`])", text):
            if re.search(rf"`[^`]*\b{name}\b[^`]*`", sentence):
                return sentence
    return ""


def _heading_of(configured: type[Any]) -> str:
    return inspect.cleandoc(configured.__doc__ or "").splitlines()[0]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return _shown(field.default_factory())
    return "required" if field.default is dataclasses.MISSING else _shown(field.default)


def _shown(value: Any) -> str:
    if value is None or value == () or value == "" or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, frozenset):
        return ", ".join(sorted(getattr(each, "name", str(each)) for each in value))
    if dataclasses.is_dataclass(value):
        name = type(value).__name__
        required = [
            each.name
            for each in dataclasses.fields(value)
            if each.default is each.default_factory is dataclasses.MISSING
        ]
        return f"`{name}({', '.join(f'{each}={getattr(value, each)}' for each in required)})`"
    return str(value)


def _unit(name: str) -> str:
    endings = [ending for ending in UNITS if name.endswith(ending)]
    return UNITS[max(endings, key=len)] if endings else ""


def _joined(text: str) -> str:
    return " ".join(text.split())


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    cells = [head, ("---",) * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells
    )


def main(what: str) -> int:
    """Writes the page, or says whether it is as it would be written."""
    page = rendered()
    if what == "write":
        PAGE.write_text(page, encoding="utf-8")
        return 0
    if PAGE.read_text(encoding="utf-8") == page:
        return 0
    print("docs/configuration.md is out of date: run `make docs`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2] or ["check"]))
