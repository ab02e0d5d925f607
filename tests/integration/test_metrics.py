"""The numbers of running services, scraped over HTTP as Prometheus would."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.children import ROOT
from tests.support.mesh import SERVICES, Mesh, Shop
from tests.support.waiting import eventually

WITHIN_S = 30.0
PAYMENTS = 3


def page(port: int) -> str:
    """What Prometheus reads."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        text: str = reply.read().decode()
        return text


def scrape(port: int) -> dict[tuple[str, str], float]:
    """Every sample by its name and its labels' values."""
    return {
        (sample.name, "/".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page(port))
        for sample in family.samples
    }


def names(text: str) -> set[str]:
    """The series on a page."""
    return set(re.findall(r"^# TYPE (tallystick_\w+)", text, re.MULTILINE))


def listed() -> set[str]:
    """The series in the documentation's table."""
    table = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `(tallystick_\w+)`", table, re.MULTILINE))


@pytest.fixture
async def told_mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    """A mesh that the test may break."""
    async with Mesh(tmp_path) as mesh:
        yield mesh


@pytest.fixture
def ports(told_mesh: Mesh) -> dict[str, int]:
    """Where the services of a mesh serve their metrics."""
    return {service: told_mesh.processes[f"{service}-0"].metrics_port for service in SERVICES}


async def test_a_running_mesh_tells_what_it_does(told_mesh: Mesh, ports: dict[str, int]) -> None:
    """Payments show in every process, under the names that are documented, and no others."""
    shop = await Shop(told_mesh).open()
    for _ in range(PAYMENTS):
        await shop.pay_until_final(await shop.trade(), within_s=WITHIN_S)
    coordinator, ledger, order, wallet = [
        await asyncio.to_thread(scrape, ports[service])
        for service in ("coordinator", "ledger", "order", "wallet")
    ]
    # One more, that funded the payer.
    assert PAYMENTS + 1 == coordinator["tallystick_txn_decided_total", "committed"]
    for phase in ("prepare", "decide", "apply"):
        assert PAYMENTS + 1 == coordinator["tallystick_txn_phase_duration_seconds_count", phase]
    assert 2 * PAYMENTS == coordinator["tallystick_txn_batch_messages_sum", "order"]
    assert 0 == coordinator["tallystick_txn_active", ""]
    assert 2 * PAYMENTS == order["tallystick_participant_batch_messages_sum", ""]
    for store in (coordinator, ledger, order, wallet):
        assert store["tallystick_store_force_duration_seconds_count", ""] >= 1
        assert store["process_open_fds", ""] > 0
    assert ("tallystick_txn_active", "") not in ledger
    pages = [await asyncio.to_thread(page, port) for port in ports.values()]
    assert listed() == set().union(*map(names, pages))


async def test_what_is_in_doubt_shows_with_its_age(told_mesh: Mesh, ports: dict[str, int]) -> None:
    """A participant whose coordinator is gone says so, and for how long."""
    shop = await Shop(told_mesh).open()
    await told_mesh.restart("coordinator-0", failpoint="before-decision")
    payment = asyncio.ensure_future(shop.pay(await shop.trade(), timeout_s=5))
    assert await told_mesh.processes["coordinator-0"].ended() == -9

    async def in_doubt() -> bool:
        numbers = await asyncio.to_thread(scrape, ports["ledger"])
        return (
            numbers["tallystick_participant_in_doubt", ""] == 1
            and numbers["tallystick_participant_in_doubt_oldest_age_seconds", ""] > 0.5
        )

    await eventually(in_doubt, timeout_s=WITHIN_S, what="a branch in doubt")
    payment.cancel()
    await asyncio.gather(payment, return_exceptions=True)
