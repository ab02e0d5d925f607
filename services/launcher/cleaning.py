"""Removes what set-up and tools leave behind; never the books (standard library only)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from services.launcher import status
from services.launcher.errors import SetupError
from services.launcher.home import Home

LEFTOVERS = (
    ".venv",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".fuzz",
    ".hypothesis",
    ".coverage",
    "mutants",
    ".import_linter_cache",
    "dist",
    "chaos.svg",
    "chaos.json",
)
KEPT = frozenset({".git", ".tallystick", ".venv"})


def home_of(repository: Path) -> Home:
    """The state directory: TALLYSTICK_HOME, or `.tallystick` in the repository."""
    named = os.environ.get("TALLYSTICK_HOME")
    return Home(Path(named).absolute() if named else repository / ".tallystick")


def refuse_while_up(repository: Path) -> None:
    """Raises SetupError while processes run out of the `.venv` that is about to go."""
    if status.read(home_of(repository)).processes:
        raise SetupError("the mesh is up and runs from .venv: run `make down` first")


def clean(repository: Path) -> None:
    """Removes `.venv` and caches; raises SetupError while the mesh is up, OSError otherwise."""
    refuse_while_up(repository)
    for name in LEFTOVERS:
        path = repository / name
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
    for folder, names, _ in os.walk(repository):
        names[:] = [name for name in names if name not in KEPT]
        if "__pycache__" in names:
            names.remove("__pycache__")
            shutil.rmtree(Path(folder) / "__pycache__")
