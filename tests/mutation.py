"""`python -m tests.mutation`: changes the rules of txn a little, and sees whether a test notices.

mutmut makes the changes (which files, which tests: pyproject.toml). One that no test notices
is printed, and stands in `mutants/` for `mutmut show` and `mutmut browse`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
MUTMUT = Path(sys.executable).with_name("mutmut")
MUTANTS = ROOT / "mutants"
CHILDREN = 2
SCORE_MIN = 0.9
# A change after which the tests do not come to an end has been noticed as well.
NOTICED = frozenset({"killed", "timeout"})


def main() -> int:
    """Returns the exit status: 0 when enough is noticed in every file."""
    # What it remembers of an earlier run would make this one another.
    shutil.rmtree(MUTANTS, ignore_errors=True)
    _mutmut("run", "--max-children", str(CHILDREN))
    files = by_file(results(_mutmut("results", "--all", "true")))
    for statuses in files.values():
        for name in sorted(set(statuses) - killed(statuses)):
            print(_mutmut("show", name))
    return verdict(files, changed())


def changed() -> list[str]:
    """The files that mutmut is told to change."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    paths: list[str] = settings["tool"]["mutmut"]["only_mutate"]
    return paths


def by_file(statuses: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]:
    """The same, by the path of the file that each mutant is in."""
    files: dict[str, dict[str, str]] = defaultdict(dict)
    for name, status in statuses.items():
        module, _, _ = name.rpartition(".")
        files[f"{module.replace('.', '/')}.py"][name] = status
    return files


def verdict(files: Mapping[str, Mapping[str, str]], wanted: Sequence[str]) -> int:
    """Says the scores; the exit status, which is 0 when each file that is wanted has enough."""
    scores = {path: _told(path, files.get(path, {})) for path in sorted({*wanted, *files})}
    total = {name: status for statuses in files.values() for name, status in statuses.items()}
    _told("", total)
    return 0 if scores and min(scores.values()) >= SCORE_MIN else 1


def results(listing: str) -> Mapping[str, str]:
    """Of each mutant what became of it, from the lines of `mutmut results`."""
    lines = [line.strip().rpartition(": ") for line in listing.splitlines() if line.strip()]
    return {name: status for name, _, status in lines}


def killed(statuses: Mapping[str, str]) -> set[str]:
    """Those that the tests have noticed."""
    return {name for name, status in statuses.items() if status in NOTICED}


def _told(path: str, statuses: Mapping[str, str]) -> float:
    found = len(killed(statuses))
    # Of a file that has none nothing is known.
    score = found / len(statuses) if statuses else 0.0
    print(f"{path:18} mutants={len(statuses)} killed={found} score={score:.2f}".strip())
    return score


def _mutmut(*arguments: str) -> str:
    done = subprocess.run(
        [MUTMUT, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
