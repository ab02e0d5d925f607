"""Real processes killed at crash points: some of the cases that `make failpoints` has."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.failpoints.__main__ import main, verdict
from tests.failpoints.checks import Heard, against, at_any_moment
from tests.failpoints.host import COORDINATOR
from tests.failpoints.mesh import HOST, FailMesh, scratch
from tests.failpoints.outside import FAIL, FORCES, KILL, Calls, all_calls
from tests.failpoints.scenarios import SCENARIOS, Play
from tests.failpoints.sweep import Case, Job, Meshes, Passed, cases_of, played, wrong_after
from tests.support.children import Nursery
from tests.support.require import require
from txn import crash_point as at
from txn.crash_point import all_points

AT_ONCE = 4

Plays = dict[str, list[Passed]]


@pytest.fixture(scope="module")
async def meshes() -> AsyncIterator[Meshes]:
    """Where processes come from."""
    with scratch() as home, closing(Nursery(HOST)) as nursery:
        yield Meshes(Path(home), nursery, AT_ONCE)


@pytest.fixture(scope="module")
async def plays(meshes: Meshes) -> Plays:
    """Who comes to which point, in each scenario."""
    found = await asyncio.gather(*(meshes.passed(each) for each in SCENARIOS.values()))
    return dict(zip(SCENARIOS, found, strict=True))


async def _violations(meshes: Meshes, jobs: Sequence[Job]) -> list[str]:
    return [
        f"{result.case}: {result.violations}"
        async for result in meshes.run(jobs)
        if result.violations
    ]


async def test_every_point_is_passed_in_some_scenario(plays: Plays) -> None:
    """A point that is named, and at which nobody is ever killed, would be no point."""
    passed = {point for each in plays.values() for play in each for _, point in play}
    assert all_points() == passed


async def test_who_dies_at_a_point_harms_nobody(meshes: Meshes, plays: Plays) -> None:
    """At each point its process is killed once; everything converges, and adds up."""
    cases: dict[str, Case] = {}
    for name, scenario in SCENARIOS.items():
        for case in cases_of(scenario, plays[name]):
            if case.victim == case.role:
                cases.setdefault(case.point, case)
    assert [] == await _violations(meshes, list(cases.values()))


async def test_a_force_that_is_cut_short_or_fails_harms_nobody(meshes: Meshes) -> None:
    """Each process is killed at each force of a payment, and the disk fails at each."""
    require("strace")
    jobs = [Calls("commit", role, *kind) for kind in FORCES for role in (COORDINATOR, "ledger")]
    assert [] == await _violations(meshes, jobs)


def _strace_with(directory: Path, monkeypatch: pytest.MonkeyPatch, edit: str) -> None:
    """Puts a strace in front, whose arguments sed has edited."""
    program = directory / "strace"
    program.write_text(
        "#!/bin/sh\n"
        'for each in "$@"; do\n'
        "    shift\n"
        f'    set -- "$@" "$(printf %s "$each" | sed \'{edit}\')"\n'
        "done\n"
        f'exec {require("strace")} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=os.pathsep)


@pytest.mark.parametrize(
    ("edit", "fault", "finds"),
    [
        ("s/^inject=.*/trace=fdatasync/", KILL, "strace has hit nothing"),
        # Takes the call away, and has it succeed.
        ("s/error=EIO/retval=0/", FAIL, "ledger has survived it: []"),
    ],
)
async def test_a_fault_that_does_nothing_is_told(
    meshes: Meshes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    edit: str,
    fault: str,
    finds: str,
) -> None:
    """Faults from outside that hit nobody, or harm nobody, do not pass for harmless ones."""
    _strace_with(tmp_path, monkeypatch, edit)
    calls = Calls("commit", "ledger", "fdatasync", fault)
    assert [f"{calls} #1: ['{finds}']"] == await _violations(meshes, [calls])


@pytest.mark.parametrize(
    ("counted", "wanted", "status", "says"),
    [
        ({"cases": 3}, {"a"}, 0, "points=1 cases=3 violations=0\n"),
        ({"cases": 3, "violations": 1}, {"a"}, 1, "points=1 cases=3 violations=1\n"),
        ({"cases": 3}, {"a", "b"}, 1, "nobody comes to b\npoints=1 cases=3 violations=1\n"),
        ({}, {"a"}, 1, "points=1 cases=0 violations=0\n"),
    ],
)
def test_the_exit_status_says_whether_all_is_well(
    capsys: pytest.CaptureFixture[str],
    counted: dict[str, int],
    wanted: set[str],
    status: int,
    says: str,
) -> None:
    """A violation, a point to which nobody came, and a run without any case fail."""
    assert status == verdict(Counter(counted), {"a"}, wanted)
    assert says == capsys.readouterr().out


def test_a_scenario_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt name is told, and nothing is run."""
    with pytest.raises(SystemExit) as refused:
        main(["commit", "comit"])
    assert 2 == refused.value.code
    assert "no such scenario: comit\n" in capsys.readouterr().err


def test_only_the_scenarios_asked_for_are_played_from_outside() -> None:
    """So `make failpoints SCENARIOS=...` is as short as it should be."""
    assert {"commit"} == {each.scenario for each in all_calls(FORCES, ["commit", "recovery"])}


async def test_a_point_to_which_nobody_comes_is_told(meshes: Meshes) -> None:
    """A sweep that kills nobody does not pass for one that has found nothing."""
    case = Case("commit", "ledger", at.DURING_RECOVERY, 1, "ledger")
    assert [f"{case}: ['nobody came to the point']"] == await _violations(meshes, [case])


@pytest.fixture
async def books(meshes: Meshes) -> tuple[FailMesh, Heard]:
    """The books after some payments, when nobody is left, and what was heard of the last one."""
    scenario = SCENARIOS["commit"]
    async with meshes.mesh(scenario) as mesh:
        play = Play(mesh, mesh.watch)
        assert [] == await played(play, scenario) + await wrong_after(play, scenario)
    assert [] == at_any_moment(mesh) + against(mesh, play.heard)
    return mesh, play.heard[-1]


@pytest.mark.parametrize(
    ("book", "tampering", "finds"),
    [
        ("coordinator", "DELETE FROM decision WHERE txn_id = ?", "without a decision"),
        ("ledger", "UPDATE branch SET state = 'ABORTED' WHERE txn_id = ?", "which is committed"),
        ("order", "DELETE FROM branch WHERE txn_id = ?", "FORGOTTEN at order"),
        ("order", "UPDATE trade SET state = 'WAIT_BUYER_PAY' WHERE txn_id = ?", "paid []"),
        (
            "ledger",
            "INSERT INTO journal_entry (txn_id, branch_id, reference, posted_at_us) "
            "SELECT txn_id, 'again', reference, 0 FROM journal_entry WHERE txn_id = ?",
            "posted [",
        ),
    ],
)
async def test_what_is_wrong_is_found(
    books: tuple[FailMesh, Heard], book: str, tampering: str, finds: str
) -> None:
    """A checker that cannot fail would prove nothing."""
    mesh, heard = books
    with closing(sqlite3.connect(mesh.book(book))) as connection:
        assert 1 == connection.execute(tampering, (heard.txn_id,)).rowcount
        connection.commit()
    wrong = at_any_moment(mesh) + against(mesh, [heard])
    assert any(finds in each for each in wrong), wrong


async def test_two_answers_to_one_request_are_found(books: tuple[FailMesh, Heard]) -> None:
    """An outcome that was heard is final."""
    mesh, heard = books
    other = Heard(heard.key, heard.outcome, "another")
    assert "several answers" in against(mesh, [heard, other])[0]
