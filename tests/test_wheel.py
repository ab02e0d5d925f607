"""The three libraries as others install them: from the wheel, away from this repository."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = {"balancer", "buf", "discovery", "tallystick", "txn"}
USE = """
import sys
from pathlib import Path
import balancer, discovery, txn, txn.rpc, txn.testing
from tallystick.ledger.v1 import ledger_service_pb2_grpc
from txn.store import sql_branches, sql_log

for module in (balancer, discovery, txn, ledger_service_pb2_grpc):
    assert Path(module.__file__).is_relative_to(sys.argv[1]), module.__file__
assert sql_log.schema()["coordinator"] and sql_branches.schema()["participant"]
print("used")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from this tree."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    (built,) = out.glob("*.whl")
    return built


def test_wheel_ships_the_libraries_and_not_the_application(wheel: Path) -> None:
    """Nothing in the wheel can collide with a user's own `services` or `tests`."""
    with zipfile.ZipFile(wheel) as archive:
        top = {name.partition("/")[0] for name in archive.namelist()}
    assert SHIPPED == {name for name in top if not name.endswith(".dist-info")}


def test_wheel_works_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """What the wheel holds is all that the libraries need of this repository."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path)],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)},
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "used\n", "")
