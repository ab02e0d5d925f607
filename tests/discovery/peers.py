"""What others use on the same etcd: `etcdctl`, and the Go program in `tests/discovery/go`."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.etcd import EtcdProcess
from tests.support.require import require

TIMEOUT_S = 30.0
_CALLS = 8


def etcdctl(etcd: EtcdProcess, *arguments: str, stdin: str = "") -> str:
    """Runs `etcdctl`; returns what it printed."""
    command = [str(require("etcdctl")), f"--endpoints={etcd.endpoint}", *arguments]
    return _run(command, stdin)


def naming_peer(etcd: EtcdProcess, service: str, command: str, stdin: str = "") -> str:
    """Runs one command of the Go program; returns what it printed."""
    return _run([*_go_program(etcd), command, service], stdin)


@asynccontextmanager
async def go_client(
    etcd: EtcdProcess, service: str
) -> AsyncIterator[Callable[[], Awaitable[set[str]]]]:
    """A Go client of `service`; yields what makes some calls and says who answered."""
    process = await asyncio.create_subprocess_exec(
        *_go_program(etcd),
        *("call", service),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    requests, answers = process.stdin, process.stdout

    async def peers_of_calls() -> set[str]:
        requests.write(f"{_CALLS}\n".encode())
        async with asyncio.timeout(TIMEOUT_S):
            answer: dict[str, Any] = json.loads(await answers.readline())
        if answer["errors"]:
            pytest.fail(f"calls failed: {answer['errors']}")
        return set(answer["peers"])

    try:
        yield peers_of_calls
    finally:
        process.kill()
        await process.wait()


def _go_program(etcd: EtcdProcess) -> list[str]:
    program = require("tallystick-naming-peer", name="naming-peer")
    return [str(program), f"-etcd={etcd.endpoint}"]


def _run(command: list[str], stdin: str) -> str:
    # Version 2 of the API, the default of etcdctl up to 3.3, knows no leases.
    environment = os.environ | {"ETCDCTL_API": "3"}
    ended = subprocess.run(
        command,
        input=stdin.encode(),
        capture_output=True,
        env=environment,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.decode()
