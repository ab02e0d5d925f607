from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from services import books_place
from services.launcher import cli, mesh, ports, processes, status
from services.launcher.catalogue import Service
from services.launcher.errors import HomeError, MeshDiffers, StartFailed
from services.launcher.processes import Identity
from services.launcher.settings import Settings
from services.launcher.status import MeshStatus, ProcessStatus, State
from tests.launcher.conftest import free_block, stand_ins, wait_for


def quietly(_: str) -> None:
    """Tells nobody."""


def pids(found: MeshStatus) -> dict[str, int]:
    """Pid by process name."""
    return {p.name: p.identity.pid for p in found.processes if p.identity}


def addresses(found: MeshStatus) -> dict[str, str]:
    """Address by process name."""
    return {p.name: p.address for p in found.processes}


def test_up_ps_down_with_an_etcd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`up` starts etcd and services, `ps --json` lists them in the fixed shape, `down` ends all."""
    known = stand_ins(tmp_path, Service("order", free_block()), etcd=())
    assert cli.main(["up"], known) == 0
    found = status.read(known.home)
    capsys.readouterr()
    assert cli.main(["ps", "--json"], known) == 0
    shown = json.loads(capsys.readouterr().out)
    assert found.supervisor is not None
    assert shown == {
        "supervisor": {"pid": found.supervisor.pid},
        "processes": [
            {
                "name": name,
                "service": name[:-2],
                "replica": 0,
                "pid": pids(found)[name],
                "address": addresses(found)[name],
                "state": "SERVING",
                "restarts": 0,
            }
            for name in ("etcd-0", "order-0")
        ],
    }
    assert cli.main(["down"], known) == 0
    assert [processes.identify(pid) for pid in pids(found).values()] == [None, None]
    capsys.readouterr()
    assert cli.main(["ps", "--json"], known) == 0
    assert json.loads(capsys.readouterr().out) == {"supervisor": None, "processes": []}


def test_ps_shows_a_plain_table(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """`ps` prints a line per process, without colours when it is not a terminal."""
    mesh.up(settings, None, quietly)
    assert cli.main(["ps"], settings) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert [line.split()[:2] for line in printed.splitlines()[1:3]] == [
        ["order-0", "SERVING"],
        ["order-1", "SERVING"],
    ]


def test_second_up_finds_the_first(settings: Settings) -> None:
    """`up` on a mesh that is up starts nothing; with other replicas it says what to do."""
    first = mesh.up(settings, "order=2", quietly)
    told: list[str] = []
    second = mesh.up(settings, "order=2", told.append)
    assert pids(second) == pids(first)
    assert "up already" in told[0]
    assert pids(mesh.up(settings, None, quietly)) == pids(first)
    with pytest.raises(MeshDiffers, match="make down"):
        mesh.up(settings, "order=1", quietly)


def test_killed_child_is_restarted_on_its_port(settings: Settings) -> None:
    """A process killed with SIGKILL comes back at the same address, and the restart is counted."""
    before = mesh.up(settings, None, quietly)
    os.kill(pids(before)["order-1"], signal.SIGKILL)
    after = wait_for(settings.home, lambda s: s.serving and s.processes[1].restarts == 1)
    assert addresses(after) == addresses(before)
    assert pids(after)["order-1"] != pids(before)["order-1"]
    assert pids(after)["order-0"] == pids(before)["order-0"]


def test_services_outlive_their_supervisor_and_up_starts_anew(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """After kill -9 of the supervisor services work on; `ps` says so; `up` replaces all."""
    before = mesh.up(settings, None, quietly)
    assert before.supervisor is not None
    processes.send(before.supervisor, signal.SIGKILL)
    orphaned = wait_for(settings.home, lambda s: s.supervisor is None)
    assert [p.state for p in orphaned.processes] == [State.ORPHANED] * 2
    assert [ports.is_free(int(a.split(":")[1])) for a in addresses(before).values()] == [False] * 2
    cli.main(["ps"], settings)
    assert "supervisor is gone" in capsys.readouterr().out
    after = mesh.up(settings, None, quietly)
    assert [processes.identify(pid) for pid in pids(before).values()] == [None, None]
    assert addresses(after) == addresses(before)


def test_down_ends_orphans(settings: Settings) -> None:
    """`down` also takes down what a killed supervisor left."""
    before = mesh.up(settings, None, quietly)
    assert before.supervisor is not None
    processes.send(before.supervisor, signal.SIGKILL)
    wait_for(settings.home, lambda s: s.supervisor is None)
    told: list[str] = []
    mesh.down(settings, told.append)
    assert "left 2 processes" in told[0]
    assert [processes.identify(pid) for pid in pids(before).values()] == [None, None]


def test_foreign_process_is_never_touched(settings: Settings) -> None:
    """A status file naming a pid that somebody else has now is stale: nobody is signalled."""
    settings.home.prepare()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as foreign:
        stale = ProcessStatus(
            "order-0", "order", 0, "127.0.0.1:1", identity=Identity(foreign.pid, "another birth")
        )
        written = MeshStatus(Identity(foreign.pid, "another birth"), (stale,))
        settings.home.status.write_bytes(status.encode(written))
        told: list[str] = []
        mesh.down(settings, told.append)
        assert told == ["nothing is up"]
        assert foreign.poll() is None
        foreign.communicate(b"\n")


def test_busy_port_is_skipped_with_a_line(settings: Settings) -> None:
    """A process whose default port is taken gets the next free one beyond the block."""
    default = settings.catalogue[0].port
    told: list[str] = []
    with socket.create_server((ports.HOST, default)):
        found = mesh.up(settings, None, told.append)
    port = int(addresses(found)["order-0"].split(":")[1])
    assert port >= default + ports.BLOCK_PORTS
    assert f"port {default} is busy: order-0 gets {port}" in told


def test_up_notes_where_the_books_are(tmp_path: Path) -> None:
    """Also when they were somewhere else before: of what is there besides nobody takes a backup."""
    books_place.note(tmp_path, books_place.POSTGRES)
    known = stand_ins(tmp_path)
    mesh.up(known, None, quietly)
    mesh.down(known, quietly)
    assert books_place.noted(tmp_path) == books_place.SQLITE


def test_up_names_what_does_not_start_and_shows_its_log(tmp_path: Path) -> None:
    """When a service keeps ending, `up` fails early with its name and the end of its log."""
    known = stand_ins(tmp_path, Service("broken", free_block()))
    with pytest.raises(StartFailed) as failure:
        mesh.up(known, None, quietly)
    mesh.down(known, quietly)
    lines = str(failure.value).splitlines()
    assert lines[0].startswith("broken-0 does not start")
    assert lines[-1] == "this one never starts"


def test_caller_is_not_held_by_what_it_started(settings: Settings) -> None:
    """`make up | cat` returns: no process of the mesh keeps the caller's output open."""
    program = (
        "import pickle, sys; from services.launcher import mesh;"
        "mesh.up(pickle.load(sys.stdin.buffer), None, print)"
    )
    import pickle

    done = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps(settings),
        capture_output=True,
        check=True,
        cwd=settings.repository,
        timeout=60,
    )
    assert b"order-0" in done.stdout
    assert status.read(settings.home).serving


def test_unusable_home_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A state directory that cannot be made is told in one line that names TALLYSTICK_HOME."""
    (tmp_path / "file").write_text("")
    known = stand_ins(tmp_path / "file" / "home")
    assert cli.main(["up"], known) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "TALLYSTICK_HOME" in said
    with pytest.raises(HomeError):
        known.home.prepare()


def test_unusable_etcd_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An $ETCD that is not etcd is refused before anything is started."""
    known = replace(stand_ins(tmp_path, etcd=()), etcd_binary="/bin/true")
    assert cli.main(["up"], known) == 1
    assert capsys.readouterr().err == "tallystick: /bin/true is not etcd: set ETCD to one\n"
    assert status.read(known.home) == MeshStatus()
