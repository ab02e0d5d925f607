"""How a service starts, refuses to start, and stops."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from tallystick.wallet.v1 import wallet_service_pb2

from services.runtime import EXIT_CANNOT_START
from tests.support.books import books_agree
from tests.support.children import ROOT
from tests.support.mesh import SERVICES, Mesh, ServiceProcess, Shop
from tests.support.ports import free_port
from tests.support.waiting import eventually


def _start(service: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"services.{service}", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


async def test_second_coordinator_over_another_log_is_refused(
    shared_mesh: Mesh, tmp_path: Path
) -> None:
    """Two logs would mean two effects for one key, so those in the registry are asked first."""
    second = ServiceProcess("coordinator", 0, shared_mesh.etcd.endpoint, tmp_path)
    second.launch()
    assert await second.ended() == EXIT_CANNOT_START
    first = shared_mesh.processes["coordinator-0"].address
    assert f"registered at {first}: it decides in another log" in second.log
    registered = shared_mesh.etcd.entries("tallystick/coordinator/")
    assert [f"tallystick/coordinator/{first}"] == list(registered)


@pytest.mark.parametrize("address", ["0.0.0.0:50051", "10.0.0.7:50051", "[::]:50051", "a:1"])
def test_address_that_is_not_loopback_is_refused(address: str, tmp_path: Path) -> None:
    """Until callers are authenticated nothing listens beyond this machine."""
    arguments = ("--address", address, "--etcd", "127.0.0.1:1", "--home", str(tmp_path))
    process = _start("ledger", *arguments)
    assert process.returncode == EXIT_CANNOT_START
    assert "not a loopback address" in process.stderr
    assert "Traceback" not in process.stderr


def test_start_without_a_registry_is_refused(tmp_path: Path) -> None:
    """A service that is told of no etcd says what is missing."""
    address = f"127.0.0.1:{free_port()}"
    process = _start("ledger", "--address", address, "--home", str(tmp_path))
    assert process.returncode == EXIT_CANNOT_START
    assert "TALLYSTICK_ETCD" in process.stderr


async def test_taken_port_is_an_error(shared_mesh: Mesh, tmp_path: Path) -> None:
    """Two services never share a port without knowing."""
    address = shared_mesh.processes["order-0"].address
    arguments = ("--address", address, "--etcd", "127.0.0.1:1", "--home", str(tmp_path))
    process = await asyncio.to_thread(_start, "ledger", *arguments)
    assert process.returncode == EXIT_CANNOT_START
    assert f"{address} is taken" in process.stderr


async def test_a_mesh_that_does_not_start_leaves_nothing_running(tmp_path: Path) -> None:
    """A test whose mesh has one broken service ends those that did start, and their etcd."""
    mesh = Mesh(tmp_path)
    mesh.book("ledger").mkdir(parents=True)
    with pytest.raises(RuntimeError, match="ledger ended"):
        async with mesh:
            pass
    assert len(mesh.processes) == len(SERVICES)
    for process in mesh.processes.values():
        assert process.has_ended
    assert not mesh.etcd.running


async def test_service_starts_before_its_registry(hurt_mesh: Mesh) -> None:
    """A service started while etcd is down serves, and registers once etcd is there."""
    address = hurt_mesh.processes["ledger-0"].address
    key = f"tallystick/ledger/{address}"
    await hurt_mesh.processes["ledger-0"].terminate()
    assert key not in hurt_mesh.etcd.entries("tallystick/")
    hurt_mesh.etcd.kill9()
    hurt_mesh.processes["ledger-0"].launch()
    await hurt_mesh.processes["ledger-0"].serving()
    hurt_mesh.etcd.start()

    async def registered() -> bool:
        return key in hurt_mesh.etcd.entries("tallystick/")

    await eventually(registered, timeout_s=15, what="registration")


async def test_sigterm_lets_payments_in_flight_finish(hurt_mesh: Mesh) -> None:
    """Every service stopped in order under load exits 0, and no payment is left half done."""
    shop = await Shop(hurt_mesh).open()
    trades = [await shop.trade() for _ in range(6)]
    payments = [asyncio.ensure_future(shop.pay(trade)) for trade in trades]
    await asyncio.wait(payments, return_when=asyncio.FIRST_COMPLETED)
    codes = [await process.terminate() for process in reversed(hurt_mesh.processes.values())]
    results = await asyncio.gather(*payments, return_exceptions=True)

    assert [0] * len(codes) == codes
    assert hurt_mesh.etcd.entries("tallystick/") == {}
    for process in hurt_mesh.processes.values():
        process.launch()
    await asyncio.gather(*(process.serving() for process in hurt_mesh.processes.values()))
    await books_agree(hurt_mesh)
    for trade, result in zip(trades, results, strict=True):
        if isinstance(result, wallet_service_pb2.ConfirmPaymentResponse):
            assert await shop.state_of(trade) == "TRADE_SUCCESS"
