"""What tools see of a running service: reflection, health, channelz, through buf and grpcurl."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.support.mesh import ROOT, Mesh
from tests.support.require import require

SHOWN = {
    "order": {"tallystick.order.v1.OrderService", "tallystick.txn.v1.ParticipantService"},
    "ledger": {"tallystick.ledger.v1.LedgerService", "tallystick.txn.v1.ParticipantService"},
    "wallet": {"tallystick.wallet.v1.WalletService"},
    "coordinator": {"tallystick.txn.v1.CoordinatorService"},
}
ALWAYS = {
    "grpc.health.v1.Health",
    "grpc.channelz.v1.Channelz",
    "grpc.reflection.v1alpha.ServerReflection",
}


async def _run(program: Path, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        str(program),
        *arguments,
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, err.decode()
    return out.decode()


def _buf() -> Path:
    return Path(sys.executable).with_name("buf")


async def _buf_curl(url: str, body: str = "{}") -> dict[str, object]:
    reply: dict[str, object] = json.loads(
        await _run(
            _buf(), "curl", "--http2-prior-knowledge", "--protocol", "grpc", "--data", body, url
        )
    )
    return reply


@pytest.mark.parametrize("service", SHOWN)
async def test_buf_curl_lists_the_services(shared_mesh: Mesh, service: str) -> None:
    """Reflection names each service, health, channelz and reflection itself."""
    address = shared_mesh.processes[f"{service}-0"].address
    listed = await _run(
        _buf(), "curl", "--http2-prior-knowledge", "--protocol", "grpc", "--list-services",
        f"http://{address}",
    )  # fmt: skip
    assert SHOWN[service] | ALWAYS == set(listed.split())


async def test_buf_curl_reads_the_trial_balance(shared_mesh: Mesh) -> None:
    """A method can be called with nothing but reflection."""
    address = shared_mesh.processes["ledger-0"].address
    reply = await _buf_curl(f"http://{address}/tallystick.ledger.v1.LedgerService/GetTrialBalance")
    assert reply["balanced"] is True


@pytest.mark.parametrize("name", ["", "tallystick.ledger.v1.LedgerService"])
async def test_health_answers_for_the_server_and_for_each_service(
    shared_mesh: Mesh, name: str
) -> None:
    """The health service says SERVING for "" and for full service names."""
    address = shared_mesh.processes["ledger-0"].address
    reply = await _buf_curl(
        f"http://{address}/grpc.health.v1.Health/Check", json.dumps({"service": name})
    )
    assert reply == {"status": "SERVING"}


async def test_grpcurl_lists_and_describes(shared_mesh: Mesh) -> None:
    """The real grpcurl lists the services and describes a method, comments aside."""
    grpcurl = require("grpcurl")
    address = shared_mesh.processes["ledger-0"].address
    listed = await _run(grpcurl, "-plaintext", address, "list")
    described = await _run(
        grpcurl, "-plaintext", address, "describe", "tallystick.ledger.v1.LedgerService"
    )
    assert SHOWN["ledger"] | ALWAYS == set(listed.split())
    assert "rpc GetTrialBalance" in described
