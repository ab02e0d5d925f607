"""Up and down: one mesh per home, whatever was left behind by the one before."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from services import books_place
from services.launcher import plan as plans
from services.launcher import processes, status
from services.launcher.catalogue import parse_replicas, shown
from services.launcher.errors import MeshDiffers, StartFailed, StopFailed
from services.launcher.home import Home, explained, locked, write_atomically
from services.launcher.settings import (
    ETCD_DRAIN_S,
    SERVICE_DRAIN_S,
    STOP_DEADLINE_S,
    Settings,
)
from services.launcher.status import MeshStatus, ProcessStatus, State

STATUS_POLL_S = 0.05
STARTS_FAILED_MAX = 5
LOG_LINES_SHOWN = 5
LOG_TAIL_BYTES = 16 * 1024

Tell = Callable[[str], None]


def up(settings: Settings, replicas: str | None, tell: Tell) -> MeshStatus:
    """Brings the mesh up, or finds it up, and returns when everything serves.

    `replicas` is "order=2 ledger=3", or None for the default (and for whatever is up
    already). Raises LauncherError; what was started then goes on trying.
    """
    home = settings.home
    wanted = parse_replicas(replicas or "", settings.catalogue)
    home.prepare()
    with locked(home.command_lock, wait=True):
        current = status.read(home)
        if current.supervisor is None:
            _clear_orphans(home, current, tell)
            _start(settings, wanted, tell)
        elif replicas and current.replicas != wanted:
            raise MeshDiffers(
                f"the mesh is up with {shown(current.replicas)}:"
                f" run `make down` and then `make up REPLICAS={shown(wanted)!r}`"
            )
        elif current.store != settings.store:
            raise MeshDiffers(
                f"the mesh is up with its books on {current.store}: run `make down` first"
            )
        else:
            tell(f"the mesh is up already (supervisor {current.supervisor.pid})")
        return _wait_serving(settings, tell)


def down(settings: Settings, tell: Tell) -> None:
    """Takes the mesh down, with or without its supervisor; raises StopFailed, HomeError."""
    home = settings.home
    if not home.run.is_dir():
        tell("nothing is up")
        return
    with locked(home.command_lock, wait=True):
        current = status.read(home)
        if current.supervisor:
            started = time.monotonic()
            processes.stop([current.supervisor], STOP_DEADLINE_S)
            left = status.read(home)  # none, unless the supervisor had to be killed
            _clear_orphans(home, left, tell)
            count = len(current.processes)
            tell(f"stopped {count} processes in {time.monotonic() - started:.1f} s")
        elif current.processes:
            _clear_orphans(home, current, tell)
        else:
            tell("nothing is up")


def _clear_orphans(home: Home, orphans: MeshStatus, tell: Tell) -> None:
    """Ends what a dead supervisor left: services first, since they deregister, then the rest."""
    if not orphans.processes:
        return
    tell(f"the supervisor is gone and left {len(orphans.processes)} processes: stopping them")
    services = [p.identity for p in orphans.processes if p.identity and not p.is_foundation]
    below = [p.identity for p in orphans.processes if p.identity and p.is_foundation]
    left = processes.stop(services, SERVICE_DRAIN_S) + processes.stop(below, ETCD_DRAIN_S)
    if left:
        pids = " ".join(str(one.pid) for one in left)
        raise StopFailed(f"these processes do not end: {pids}; `kill -9` them and try again")
    with explained(home.status):
        home.status.unlink(missing_ok=True)


def _start(settings: Settings, wanted: dict[str, int], tell: Tell) -> None:
    home = settings.home
    plan = plans.make(settings, wanted, tell)
    tell(f"starting {shown(wanted)}")
    with explained(home.path):
        books_place.note(home.path, plan.store)
        write_atomically(home.plan, plans.encode(plan))
        home.status.unlink(missing_ok=True)
        with home.log("supervisor").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.launcher.supervisor", str(home.path)],
                cwd=settings.repository,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    while not status.read(home).supervisor:
        if process.poll() is not None:
            raise StartFailed(_with_log("the supervisor did not start", home.log("supervisor")))
        time.sleep(STATUS_POLL_S)


def _wait_serving(settings: Settings, tell: Tell) -> MeshStatus:
    started = time.monotonic()
    told: set[str] = set()
    while True:
        current = status.read(settings.home)
        _tell_serving(current.processes, told, time.monotonic() - started, tell)
        if current.serving:
            return current
        if current.supervisor is None:
            log = settings.home.log("supervisor")
            raise StartFailed(_with_log("the supervisor ended while the mesh came up", log))
        late = time.monotonic() - started > settings.up_deadline_s
        _give_up_if_hopeless(settings, current, late=late)
        time.sleep(STATUS_POLL_S)


def _tell_serving(
    found: Iterable[ProcessStatus], told: set[str], elapsed_s: float, tell: Tell
) -> None:
    for process in found:
        if process.state is State.SERVING and process.name not in told:
            told.add(process.name)
            tell(f"  {process.name:<14} {process.address:<17} SERVING  {elapsed_s:4.1f} s")


def _give_up_if_hopeless(settings: Settings, current: MeshStatus, *, late: bool) -> None:
    for process in current.processes:
        if process.state is State.SERVING:
            continue
        if late or process.failures >= STARTS_FAILED_MAX:
            why = "does not start" if process.failures else f"is {process.state}"
            raise StartFailed(
                _with_log(
                    f"{process.name} {why}; the supervisor keeps trying (`make ps`, `make logs`)."
                    " Other settings count after `make down`",
                    settings.home.log(process.name),
                )
            )


def _with_log(message: str, path: Path) -> str:
    """The message, and below it the end of the log that should explain it."""
    return "\n".join([message, f"the end of {path}:", *tail(path, LOG_LINES_SHOWN)])


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log, at most LOG_TAIL_BYTES of them; none when there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return text.splitlines()[-lines:]
