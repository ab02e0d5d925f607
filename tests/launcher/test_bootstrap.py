from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BOOTSTRAP = "services/launcher/bootstrap.py"
NOWHERE = "http://127.0.0.1:1/simple"  # port 1: refused at once
OLD_PYTHONS = sorted(Path("~/.pyenv/versions").expanduser().glob("3.[6-9].*/bin/python3"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What set-up needs of the repository, in a path with a space."""
    copy = tmp_path / "a checkout"
    shutil.copytree(
        REPOSITORY / "services" / "launcher",
        copy / "services" / "launcher",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copy(REPOSITORY / "services" / "__init__.py", copy / "services")
    for path in REPOSITORY.glob("requirements*.txt"):
        shutil.copy(path, copy)
    return copy


def bootstrap(
    checkout: Path, *options: str, python: Path | str = sys.executable, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Runs set-up there without the network and outside of any virtual environment."""
    base = {name: text for name, text in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    return subprocess.run(
        [str(python), BOOTSTRAP, *options],
        cwd=checkout,
        env={**base, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": NOWHERE, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def pretend_reached(checkout: Path) -> None:
    """Makes `.venv` look set up, by the stamp that a run would write."""
    program = (
        "from services.launcher import environment as e; import json; g = e.goal(dev=True);"
        "g.stamp.parent.joinpath('bin').mkdir(parents=True);"
        "g.stamp.parent.joinpath('bin', 'python').touch();"
        "g.stamp.write_text(json.dumps(g.written()))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=checkout, check=True)


def reusable(checkout: Path) -> bool:
    """Whether set-up would go on with the `.venv` it finds there."""
    program = "from services.launcher import environment as e; print(e._reusable(e.goal(dev=True)))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True)
    return done.stdout.strip() == "True"


@pytest.mark.parametrize("python", OLD_PYTHONS or [None], ids=lambda p: p and p.parts[-3])
def test_old_python_is_told_in_one_line(checkout: Path, python: Path | None) -> None:
    """A Python older than 3.11, with no newer one on PATH, says which is needed and exits 1."""
    if python is None:
        pytest.skip("no Python older than 3.10 in ~/.pyenv/versions")
    done = bootstrap(checkout, python=python, PATH="/nonexistent")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "Tallystick needs Python 3.11 or newer" in done.stderr


def test_old_python_hands_over_to_a_newer_one(checkout: Path, tmp_path: Path) -> None:
    """An old Python looks for python3.14 to 3.11 on PATH, skips what does not run, and goes on."""
    if not OLD_PYTHONS:
        pytest.skip("no Python older than 3.10 in ~/.pyenv/versions")
    pretend_reached(checkout)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3.14").write_text("#!/bin/sh\nexit 127\n")
    (programs / "python3.14").chmod(0o755)
    (programs / "python3.12").symlink_to(sys.executable)
    environ = {"PATH": f"{programs}:/usr/bin:/bin", "ETCD": "etcd"}
    done = bootstrap(checkout, python=OLD_PYTHONS[0], **environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_is_done_when_the_stamp_matches(checkout: Path) -> None:
    """With a stamp for these files, this Python and this path, set-up is silent."""
    pretend_reached(checkout)
    for options in ((), ("--dev",)):
        done = bootstrap(checkout, *options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_missing_venv_module_is_told_in_one_line(checkout: Path, tmp_path: Path) -> None:
    """A Python without ensurepip (Debian without python3-venv) names the package to install."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import sys; sys.modules['ensurepip'] = None"
    )
    done = bootstrap(checkout, PYTHONPATH=str(tmp_path / "site"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "apt install python3." in done.stderr


def test_absent_index_is_told_in_one_line_and_work_goes_on_later(checkout: Path) -> None:
    """Without a package index set-up says so, leaves no stamp, and keeps what it has made."""
    done = bootstrap(checkout)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no package index can be reached" in done.stderr
    assert not (checkout / ".venv" / "tallystick-stamp.json").exists()
    again = bootstrap(checkout)
    assert again.returncode == 1
    assert "making .venv" in done.stdout
    assert "making .venv" not in again.stdout
    assert (reusable(checkout), reusable(checkout.rename(checkout.with_name("moved")))) == (
        True,
        False,
    )


def test_clean_keeps_the_books(checkout: Path) -> None:
    """`--clean` removes .venv, caches and reports, and leaves the state directory."""
    pretend_reached(checkout)
    (checkout / ".tallystick").mkdir()
    for report in ("chaos.svg", "chaos.json"):
        (checkout / report).touch()
    assert bootstrap(checkout, "--clean", PYTHONDONTWRITEBYTECODE="1").returncode == 0
    left = sorted(path.name for path in checkout.iterdir() if path.name.startswith("."))
    assert left == [".tallystick"]
    assert [] == list(checkout.glob("chaos.*"))


def test_clean_refuses_while_the_mesh_is_up(checkout: Path) -> None:
    """`--clean` does not pull .venv from under a running mesh."""
    pretend_reached(checkout)
    program = (
        "import os; from services.launcher.home import Home; from pathlib import Path;"
        "from services.launcher.status import *; from services.launcher.processes import identify;"
        "home = Home(Path('.tallystick')); home.prepare(); one = identify(os.getppid());"
        "process = ProcessStatus('order-0', 'order', 0, '127.0.0.1:1', identity=one);"
        "home.status.write_bytes(encode(MeshStatus(one, (process,))))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=checkout, check=True)
    done = bootstrap(checkout, "--clean")
    assert (done.returncode, (checkout / ".venv").exists()) == (1, True)
    assert "make down" in done.stderr
    assert json.loads((checkout / ".tallystick/run/status.json").read_text())["processes"]
