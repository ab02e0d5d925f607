from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from services.launcher import cli, mesh, status
from services.launcher.catalogue import CATALOGUE, parse_replicas
from services.launcher.home import Home
from services.launcher.settings import Settings
from tests.launcher.conftest import free_block


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The real services on free ports; the first demo brings them up."""
    settings = Settings(
        home=Home(tmp_path_factory.mktemp("demo")),
        catalogue=tuple(replace(service, port=free_block(), replicas=1) for service in CATALOGUE),
        etcd_port=free_block(),
    )
    yield settings
    mesh.down(settings, lambda _: None)


def test_demo_pays_once_and_is_refused_once(
    known: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo exits 0 twice on the same books, in plain text, and leaves the mesh up."""
    assert cli.main(["demo"], known) == 0
    first = capsys.readouterr().out
    assert cli.main(["demo"], known) == 0
    second = capsys.readouterr().out
    assert status.read(known.home).replicas == parse_replicas("", known.catalogue)
    for printed in (first, second):
        assert "\x1b" not in printed
        assert [] == [line for line in printed.splitlines() if len(line) > 100]
        shown = [word for word in printed.split() if word in ("TRADE_SUCCESS", "WAIT_BUYER_PAY")]
        assert shown == ["TRADE_SUCCESS", "WAIT_BUYER_PAY", "WAIT_BUYER_PAY"]
        assert "INSUFFICIENT_FUNDS" in printed


def test_demo_names_the_step_that_failed(
    known: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a step fails, the demo says which one and where the logs are, and exits 1."""
    monkeypatch.setattr("services.launcher.demo.TOO_MUCH_MINOR", 1)
    assert cli.main(["demo"], known) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "'wallet: alice cannot afford it: INSUFFICIENT_FUNDS'" in said
    assert str(known.home.logs) in said
