"""What the launcher is told to start: the shipped services, between links of ours."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from services.launcher import plan as plans
from services.launcher import ports, status
from services.launcher.catalogue import CATALOGUE
from services.launcher.errors import StartFailed
from tests.chaos.clocks import Clocks
from tests.chaos.faults import CLIENT, ETCD
from tests.chaos.rig import Rig
from tests.chaos.waiting import until

UP_DEADLINE_S = 3.0


def test_every_process_registers_and_uses_links(tmp_path: Path) -> None:
    """Nobody is told another's own address, nor etcd's."""
    rig = Rig(tmp_path, clocks=None, clients=3)
    counts = {service.name: service.replicas for service in CATALOGUE}
    plan = plans.make(rig.settings, counts, lambda _: None)
    services = [each for each in plan.processes if each.service != ETCD]
    advertised = [each.command[each.command.index("--advertise") + 1] for each in services]
    etcd = [each.command[each.command.index("--etcd") + 1] for each in services]
    own = [each.address for each in plan.processes]
    assert len(services) == len({*advertised}) == len({*etcd})
    assert not {*own} & {*advertised, *etcd}
    assert counts | {ETCD: 1, CLIENT: 3} == rig.cast


def test_clocks_and_bugs_are_in_the_environment_of_services_only(tmp_path: Path) -> None:
    """Each process has a clock of its own; without clocks and bugs the services run as they are."""
    plain = Rig(tmp_path, clocks=None, clients=1).settings
    assert "tests.chaos.runner" not in plain.service_command("order", 0, "a:1", "e:1")
    rig = Rig(tmp_path, clocks=Clocks("/lib/x.so", tmp_path / "c"), clients=1, mutant="lost-abort")
    commands = [rig.settings.service_command("order", n, f"a:{n}", "e:1") for n in range(2)]
    for number, command in enumerate(commands):
        assert "env" == command[0]
        assert f"FAKETIME_TIMESTAMP_FILE={tmp_path}/c/order-{number}" in command
        assert "TALLYSTICK_CHAOS_MUTANT=lost-abort" in command
        assert "tests.chaos.runner" in command


def _never_up(home: Path) -> Rig:
    """One whose services do not serve, with an etcd that does."""
    rig = Rig(home, clocks=None, clients=1)
    waiting = ("{python}", "-c", "import signal; signal.pause()")
    rig.settings = replace(
        rig.settings,
        catalogue=rig.settings.catalogue[:1],
        command=waiting,
        up_deadline_s=UP_DEADLINE_S,
    )
    return rig


def _nothing_is_left(rig: Rig) -> bool:
    found = status.read(rig.settings.home)
    link = int(rig.network.to_etcd("probe", rig.etcd).rpartition(":")[2])
    return found.supervisor is None and not found.processes and ports.is_free(link)


async def test_a_mesh_that_does_not_get_up_is_taken_down(tmp_path: Path) -> None:
    """The error goes on, and neither processes nor links stay."""
    rig = _never_up(tmp_path)
    with pytest.raises(StartFailed):
        await rig.__aenter__()
    assert _nothing_is_left(rig)


async def test_whoever_is_told_to_end_while_the_mesh_comes_up_leaves_nothing(
    tmp_path: Path,
) -> None:
    """The thread that starts it has ended by then, too, and starts nothing more."""
    rig = _never_up(tmp_path)
    opening = asyncio.ensure_future(rig.__aenter__())
    assert await until(lambda: bool(rig.processes()), 60.0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert _nothing_is_left(rig)
