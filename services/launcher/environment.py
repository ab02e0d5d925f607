"""Makes `.venv`: a virtual environment with exactly the locked packages, and nothing else.

Only the standard library is imported, for there is nothing else yet. `bootstrap.py`
has made sure of the Python version. A stamp written last says what is installed, so
that the usual case costs a few milliseconds and an interrupted set-up is simply
continued.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from services.launcher import cleaning, packages
from services.launcher.errors import LauncherError, SetupError
from services.launcher.etcd_binary import etcd_on_path
from services.launcher.postgres import on_machine

REPOSITORY = Path(__file__).resolve().parents[2]
RUN, DEV, ETCD = "requirements.txt", "requirements-dev.txt", "requirements-etcd.txt"
POSTGRES = "requirements-postgres.txt"
PTH = "tallystick.pth"


@dataclass(frozen=True, slots=True)
class Goal:
    """What has to be true of `.venv`: where it is, its Python and the files installed in it."""

    repository: Path
    python: str
    files: tuple[str, ...]

    @property
    def venv(self) -> Path:
        """The virtual environment."""
        return self.repository / ".venv"

    @property
    def stamp(self) -> Path:
        """Written last: says that the goal was reached."""
        return self.venv / "tallystick-stamp.json"

    def written(self) -> dict[str, object]:
        """What the stamp says when this goal is reached."""
        hashes = {name: _sha256(self.repository / name) for name in self.files}
        return {"path": str(self.repository), "python": self.python, "installed": hashes}

    def reached(self) -> bool:
        """Whether everything is there; a `.venv` made with --dev also serves without."""
        stamp, wanted = _read_stamp(self.stamp), self.written()
        installed, files = stamp.get("installed"), wanted["installed"]
        assert isinstance(files, dict)
        return (
            isinstance(installed, dict)
            and (stamp.get("path"), stamp.get("python")) == (wanted["path"], wanted["python"])
            and (self.venv / "bin" / "python").exists()
            and files.items() <= installed.items()
        )


def goal(*, dev: bool, postgres: bool = False, repository: Path = REPOSITORY) -> Goal:
    """What this machine needs: etcd comes from PyPI only where there is no other.

    And for the tests, some of which are run on its version besides that of the machine.
    PostgreSQL, too, for the tests and for those who want it.
    """
    files = [RUN, DEV] if dev else [RUN]
    if dev or not (os.environ.get("ETCD") or etcd_on_path(repository / ".venv" / "bin")):
        files.append(ETCD)
    if (dev or postgres) and not on_machine():
        files.append(POSTGRES)
    return Goal(repository, "{}.{}".format(*sys.version_info[:2]), tuple(files))


def reach(wanted: Goal) -> None:
    """Makes the environment what is wanted; raises SetupError in one line."""
    started = time.monotonic()
    with _one_at_a_time(wanted.repository):
        if wanted.reached():
            return
        if not _reusable(wanted):
            _make_venv(wanted)
        previous = _read_stamp(wanted.stamp).get("installed")
        wanted.stamp.unlink(missing_ok=True)
        packages.install(wanted.venv, [wanted.repository / name for name in wanted.files])
        _write_pth(wanted)
        stamp = wanted.written()
        if isinstance(previous, dict) and isinstance(stamp["installed"], dict):
            stamp["installed"] = {**_still_true(wanted, previous), **stamp["installed"]}
        wanted.stamp.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    print(f"set up in {time.monotonic() - started:.1f} s: {wanted.venv}", flush=True)


def main(arguments: list[str]) -> int:
    """Runs the command line of `bootstrap.py`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="bootstrap.py", description="Sets up .venv.")
    parser.add_argument("--dev", action="store_true", help="also what tests and checks need")
    parser.add_argument("--postgres", action="store_true", help="also a PostgreSQL, if need be")
    parser.add_argument("--clean", action="store_true", help="remove .venv and caches instead")
    options = parser.parse_args(arguments)
    try:
        with _explained():
            if options.clean:
                cleaning.clean(REPOSITORY)
            elif not (wanted := goal(dev=options.dev, postgres=options.postgres)).reached():
                reach(wanted)
    except LauncherError as error:
        print(f"tallystick: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tallystick: interrupted; run the same again to go on", file=sys.stderr)
        return 130
    return 0


def _reusable(wanted: Goal) -> bool:
    """Whether the `.venv` found there is of this path and Python, and complete enough."""
    try:
        text = (wanted.venv / "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return False
    made = dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)
    return (
        made.get("command", "").endswith(f" {wanted.venv}")  # scripts name their interpreter
        and made.get("version", "").startswith(f"{wanted.python}.")
        and packages.has_pip(wanted.venv)
    )


def _make_venv(wanted: Goal) -> None:
    if find_spec("venv") is None or find_spec("ensurepip") is None:
        version = wanted.python
        raise SetupError(
            f"this Python {version} cannot make virtual environments (no venv or ensurepip module):"
            f" install it (Debian, Ubuntu: `apt install python{version}-venv`) and run this again"
        )
    if wanted.venv.exists():
        cleaning.refuse_while_up(wanted.repository)
    base = getattr(sys, "_base_executable", sys.executable)
    with packages.step(f"making .venv with Python {wanted.python}"):
        packages.run([base, "-m", "venv", "--clear", str(wanted.venv)])


def _write_pth(wanted: Goal) -> None:
    for site in wanted.venv.glob("lib/python*/site-packages"):
        paths = f"{wanted.repository}\n{wanted.repository / 'generated'}\n"
        (site / PTH).write_text(paths, encoding="utf-8")


def _still_true(wanted: Goal, installed: dict[str, str]) -> dict[str, str]:
    """Of what was installed before, the files that have not changed since."""
    return {
        name: digest
        for name, digest in installed.items()
        if (path := wanted.repository / name).exists() and _sha256(path) == digest
    }


def _read_stamp(path: Path) -> dict[str, object]:
    try:
        stamp = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def _one_at_a_time(repository: Path) -> Iterator[None]:
    """Two `make` at once follow one another; the lock is on the directory itself."""
    descriptor = os.open(repository, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _explained() -> Iterator[None]:
    """Turns what the operating system refuses into one line that says what to do."""
    try:
        yield
    except OSError as error:
        where = error.filename or REPOSITORY
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SetupError("the disk is full: free some space and run this again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise SetupError(
                f"no permission to write {where}: use a checkout of your own"
            ) from error
        raise SetupError(f"{where}: {error.strerror}") from error
