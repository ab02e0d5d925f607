from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.launcher import mesh, status
from services.launcher.catalogue import Service
from services.launcher.home import Home
from services.launcher.settings import Settings
from services.launcher.status import MeshStatus
from tests.support import ports

WAIT_DEADLINE_S = 30.0
STAND_IN = (
    "{python}", str(Path(__file__).with_name("stand_in.py")), "--service", "{service}",
    "--replica", "{replica}", "--address", "{address}", "--etcd", "{etcd}", "--home", "{home}",
)  # fmt: skip


def free_block() -> int:
    """The first of as many ports in a row as a mesh of these tests has."""
    return ports.free_block(12)


def stand_ins(home: Path, *services: Service, etcd: tuple[str, ...] = ("127.0.0.1:1",)) -> Settings:
    """Settings of a mesh of stand-in services; without an etcd of its own unless asked for."""
    return Settings(
        home=Home(home),
        catalogue=services or (Service("order", free_block(), replicas=2),),
        command=STAND_IN,
        etcd=etcd,
        etcd_port=free_block() if not etcd else 1,
        up_deadline_s=WAIT_DEADLINE_S,
    )


def wait_for(home: Home, condition: Callable[[MeshStatus], bool]) -> MeshStatus:
    """The mesh's status once `condition` holds of it; fails after WAIT_DEADLINE_S."""
    deadline = time.monotonic() + WAIT_DEADLINE_S
    while not condition(found := status.read(home)):
        assert time.monotonic() < deadline, f"still waiting; last seen: {found}"
        time.sleep(0.02)
    return found


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Two replicas of a stand-in service, taken down at the end."""
    known = stand_ins(tmp_path / "home")
    yield known
    mesh.down(known, lambda _: None)
