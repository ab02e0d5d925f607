"""Which planted bugs are offered: those that a real process has when it has them."""

from __future__ import annotations

from contextlib import ExitStack
from types import ModuleType

import pytest

from tests.chaos.__main__ import main
from tests.sim import mutants

SIMULATED_MODULES = ("txn.testing", "tests.")


@pytest.mark.parametrize("name", mutants.names_for_processes())
def test_what_is_offered_patches_what_services_run(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A patch of the simulator's stores would leave a mesh without a bug, and prove nothing."""
    where: list[str] = []

    def note(stack: ExitStack, target: object, attribute: str, value: object) -> None:
        module = target.__name__ if isinstance(target, ModuleType) else target.__module__
        where.append(module)

    monkeypatch.setattr(mutants, "swap", note)
    with mutants.planted(name):
        assert where
    assert [] == [each for each in where if each.startswith(SIMULATED_MODULES)]


@pytest.mark.parametrize("name", ["no-such-bug", "unlocked-balance-check", "vote-before-force"])
def test_a_bug_that_no_process_can_have_is_refused(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything starts."""
    with pytest.raises(SystemExit):
        main(["--mutant", name])
    assert "invalid choice" in capsys.readouterr().err


def test_a_bank_without_clients_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is started."""
    with pytest.raises(SystemExit):
        main(["--clients", "0"])
    assert "--clients: there has to be one at least" in capsys.readouterr().err
