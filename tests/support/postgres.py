"""A real PostgreSQL for tests: started, stopped at once and started again on the same port."""

from __future__ import annotations

import atexit
import itertools
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import psycopg
import psycopg.conninfo
import pytest

from services.launcher import postgres
from services.launcher.errors import PostgresUnavailable
from tests.support.ports import free_port
from tests.support.require import lacking

START_TIMEOUT_S: Final = 90.0
STOP_TIMEOUT_S: Final = 20.0
CONNECT_TIMEOUT_S: Final = 60
_POLL_EVERY_S = 0.02


class PostgresServer:
    """One server in a directory of its own, on an ephemeral loopback port, which stays its own.

    Every method blocks until what it says is true. As services.launcher starts it.
    """

    def __init__(
        self, directory: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        """It has its data in a directory of its own in `directory`, or where such usually are.

        `settings` are those that differ from services.launcher's.
        """
        self._settings = settings
        try:
            self._programs = postgres.find(None)
        except PostgresUnavailable:
            lacking("postgres")
        self._home = Path(tempfile.mkdtemp(prefix="postgres-test-", dir=directory))
        # Below it root's unprivileged user has its data.
        self._home.chmod(0o711)
        (self._home / "postgres").mkdir(0o711)
        self._data = postgres.data_directory(self._home, self._programs.version)
        passwords = self._home / "passwords"
        postgres.initialise(self._programs, self._data, passwords)
        self._port = free_port()
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        # On a busy machine a server may take long to answer.
        self.dsn = f"{postgres.dsn(self._port, passwords)} connect_timeout={CONNECT_TIMEOUT_S}"
        atexit.register(self.close)

    def schema(self) -> str:
        """The name of a schema that nobody has used yet."""
        return f"test_{next(self._numbers)}"

    def database(self) -> str:
        """How to connect to a database that nobody has used yet."""
        name = f"mesh_{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return psycopg.conninfo.make_conninfo(self.dsn, dbname=name)

    def start(self) -> Self:
        """Starts it and waits until it takes connections."""
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                postgres.command(self._programs, self._data, self._port, self._settings),
                stdout=log,
                stderr=log,
                cwd="/",
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self._home / "log").read_text()[-2000:]
                time.sleep(_POLL_EVERY_S)
            else:
                return self

    def connect(self, **settings: str) -> psycopg.Connection[tuple[object, ...]]:
        """A connection of the test's own, each statement a transaction."""
        return psycopg.connect(self.dsn, autocommit=True, **settings)  # type: ignore[arg-type]

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stops it: SIGQUIT at once, as after a power cut; SIGINT in order."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(STOP_TIMEOUT_S)
            self._process = None

    def close(self) -> None:
        """Ends it and removes its directory. May be called again."""
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)
        atexit.unregister(self.close)


@contextmanager
def running(
    directory: Path | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[PostgresServer]:
    """A server for as long as it is needed; skips the test where there is none to run."""
    server = PostgresServer(directory, settings)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for all tests that do not stop it."""
    with running() as server:
        yield server
