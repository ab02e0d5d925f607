"""Sets up `.venv` with whatever `python3` a machine has; `make` runs it before everything else.

    python3 services/launcher/bootstrap.py [--dev]     set up, or do nothing when all is there
    python3 services/launcher/bootstrap.py --clean     remove .venv and caches, not the books

This file only finds a Python that is new enough and hands over to `environment.py`.
It is written for Python 3.6, so that an old one can say what is wrong in one line.
"""

import os
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11)
CANDIDATES = ("python3.14", "python3.13", "python3.12", "python3.11")
PROBE_TIMEOUT_S = 20
HANDED_OVER = "TALLYSTICK_BOOTSTRAP_HANDED_OVER"
REPOSITORY = Path(__file__).resolve().parents[2]


def runs(command: str) -> bool:
    """Whether `command` is a Python that is new enough; a pyenv shim may exist and not run."""
    probe = "import sys; sys.exit(sys.version_info < {!r})".format(OLDEST)  # noqa: UP032
    try:
        with open(os.devnull, "r+b") as nothing:  # noqa: PTH123
            arguments = [command, "-c", probe]
            code = subprocess.call(
                arguments, stdin=nothing, stdout=nothing, stderr=nothing, timeout=PROBE_TIMEOUT_S
            )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return code == 0


def hand_over() -> None:
    """Starts again with a newer Python; returns when there is none."""
    if os.environ.get(HANDED_OVER):
        return
    for command in CANDIDATES:
        if runs(command):
            os.environ[HANDED_OVER] = "1"
            os.execvp(command, [command, os.path.abspath(__file__)] + sys.argv[1:])  # noqa: PTH100, RUF005, S606


def main() -> int:
    """Runs the set-up; returns the exit code."""
    if sys.version_info < OLDEST:
        hand_over()
        sys.stderr.write(
            "tallystick: Tallystick needs Python 3.11 or newer and this is %d.%d: install one"  # noqa: UP031
            " (python.org, pyenv, apt, brew) and run `make PYTHON=python3.11 ...`\n"
            % sys.version_info[:2]
        )
        return 1
    os.environ.pop(HANDED_OVER, None)
    sys.path[0] = str(REPOSITORY)
    from services.launcher import environment

    return environment.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
