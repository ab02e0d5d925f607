"""Histories of the simulator: what holds in all of them, and that the simulator can be trusted."""

from __future__ import annotations

import functools
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.sim import mutants, sweep, world
from tests.sim.__main__ import main
from tests.sim.campaign import SHARE_MIN, Summary, hunt, run_seeds
from tests.sim.past import Remembering
from tests.sim.plan import plan_of
from tests.sim.shrink import shrink
from tests.sim.world import FINAL_S, run
from txn import lane
from txn.errors import Fenced
from txn.model import Decision, RequestKey, TxnId
from txn.state import Outcome
from txn.testing import MemoryDecisionLog, Tables

ROOT = Path(__file__).parents[2]
SEEDS = 500
PART = 50
# Of each process, that it takes when the faults are over already.
LAST_STEPS = 2
KEPT = [
    int(line.split()[0])
    for line in (ROOT / "tests/sim/seeds.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
DIGESTED = "0,30"
_DIGESTS = """
import sys
from tests.sim.plan import plan_of
from tests.sim.world import run
for seed in range(*map(int, sys.argv[1].split(","))):
    print(run(plan_of(seed)).digest())
"""


@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_every_history_keeps_the_invariants(first: int) -> None:
    """I1 to I6 hold whatever order of events and faults a seed draws."""
    summary = run_seeds(range(first, first + PART))
    assert [] == summary.violations
    assert min(summary.shares().values()) >= SHARE_MIN


@pytest.mark.parametrize("name", sweep.PLANS)
def test_every_crash_of_a_payment_is_survived(name: str) -> None:
    """Each process is killed at each of its steps; what becomes of the payment stands."""
    plans = list(sweep.all_plans(name, recovery=False))
    reports = [run(plan) for plan in plans]
    assert [] == [report.violation for report in reports if report.violation is not None]
    crashed = sum(report.crashes for report in reports)
    assert len(plans) - crashed <= 2 * LAST_STEPS * len(sweep.hosts())


@pytest.mark.parametrize("seed", KEPT)
def test_what_was_wrong_once_is_not_wrong_again(seed: int) -> None:
    """Seeds that have shown a defect show none."""
    assert run(plan_of(seed)).violation is None


def _over_if_it_is_there(log: MemoryDecisionLog, tx: Tables) -> None:
    row = tx["epoch"].get(log._epoch)
    if row is not None and row.successor is not None:
        raise Fenced(f"epoch {log._epoch} is over")


# What each has shown: a bug of the engine, planted again, or what the checker did not allow for.
SHOWN: dict[int, tuple[str, Callable[[], AbstractContextManager[object]]]] = {
    9: ("I6", lambda: mutants.planted("claim-aborted-unseen")),
    175: ("I5", lambda: mutants.planted("end-lost-with-its-group")),
    2037: ("I9", lambda: patch.object(MemoryDecisionLog, "_check_epoch", _over_if_it_is_there)),
    41807: ("I2", lambda: patch.object(lane, "_is_pointless", lambda ask: False)),
    67024: ("I5", lambda: patch.object(world, "final_s", lambda _: FINAL_S)),
}


@pytest.mark.parametrize("seed", SHOWN)
def test_a_kept_seed_still_shows_what_it_has_shown(seed: int) -> None:
    """Without its repair each fails; one that no longer does is to be replaced by one that does."""
    assert seed in KEPT
    invariant, unmended = SHOWN[seed]
    with unmended():
        violation = run(plan_of(seed)).violation
    assert violation is not None
    assert invariant == violation.invariant


def digests(hash_seed: str) -> str:
    """What a fresh interpreter says of some histories."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": ".:generated"}
    return subprocess.run(
        [sys.executable, "-c", _DIGESTS, DIGESTED],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_a_seed_is_one_history() -> None:
    """Everything that happens is the same in every process, whatever its hashes are."""
    first, last = map(int, DIGESTED.split(","))
    here = [run(plan_of(seed)).digest() for seed in range(first, last)]
    assert here == digests("1").split() == digests("2").split()
    assert len(set(here)) == len(here)


@pytest.mark.parametrize(
    ("name", "invariant"),
    [
        ("vote-before-force", "I6"),
        ("no-barrier", "I3"),
        ("commit-applied-twice", "I4"),
        ("nobody-inquires", "I5"),
        ("recovery-sends-aborts", "I2"),
        ("unlocked-balance-check", "I1"),
        ("truncated-too-early", "I3"),
        ("truncated-without-its-end", "I5"),
        ("forgets-what-is-not-ended", "I6"),
    ],
)
def test_a_planted_bug_is_found(name: str, invariant: str) -> None:
    """Each invariant has caught something; `make sim-mutants` plants many more."""
    caught = hunt(name, first=0, count=200, outside=False)
    assert invariant == caught.invariant, caught


@functools.cache
def untouched_digest() -> str:
    """Of a history, as it is without a planted bug."""
    return run(plan_of(3)).digest()


@pytest.mark.parametrize("name", mutants.names())
def test_a_planted_bug_is_taken_away_again(name: str) -> None:
    """Nothing that was patched stays so."""
    before = untouched_digest()
    with mutants.planted(name):
        pass
    assert before == run(plan_of(3)).digest()


def test_a_failing_history_is_shrunk() -> None:
    """What is left breaks the same invariant, with less, and replays."""
    with mutants.planted("unlocked-balance-check"):
        caught = hunt("unlocked-balance-check", first=0, count=200, outside=False)
        plan = plan_of(caught.seeds - 1)
        report = run(plan)
        left, shrunk = shrink(plan, report)
        again = run(left.of(plan))
    assert shrunk.violation is not None
    assert "I1" == shrunk.violation.invariant
    assert len(shrunk.plan.wishes) + len(shrunk.plan.faults) < len(plan.wishes) + len(plan.faults)
    assert shrunk.digest() == again.digest()


def test_a_failing_seed_says_how_to_replay_it(capsys: pytest.CaptureFixture[str]) -> None:
    """The line that is printed last is a command, and it shows the same violation."""
    caught = hunt("recovery-sends-aborts", first=0, count=200, outside=False)
    seed = str(caught.seeds - 1)
    assert 1 == main(["--seed", seed, "--mutant", "recovery-sends-aborts"])
    told = capsys.readouterr().out
    assert f"seed {seed}: I2: " in told
    _, _, command = told.strip().splitlines()[-1].partition("python -m tests.sim ")
    assert 1 == main(command.split())
    digest = next(line for line in told.splitlines() if line.startswith("digest "))
    assert digest in capsys.readouterr().out


def test_too_tame_histories_are_complained_about() -> None:
    """A campaign in which nothing goes wrong fails, for it proves nothing."""
    tame = Summary(histories=5_000, committed=5_000, aborted=600, crashed=400)
    complaints = tame.complaints()
    assert "only 8.0% of the histories crashed" in complaints
    assert "never seen: late prepare" in complaints
    assert not any("aborted" in each for each in complaints if each.startswith("only"))


def test_no_histories_are_complained_about(capsys: pytest.CaptureFixture[str]) -> None:
    """A campaign of nothing finds nothing, and fails."""
    assert 1 == main(["--seeds", "0", "--workers", "1"])
    assert "too tame: there was no history" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        ["--sweep", "--seeds", "abc"],
        ["--sweep", "--seeds", "9", "--from", "x"],
        ["--mutant", "no-such-bug"],
        ["--mutants", "lost-abort", "no-such-bug"],
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(
    wrong: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not after half of it."""
    monkeypatch.setattr(sweep, "PLANS", None)
    with pytest.raises(SystemExit):
        main(wrong)
    assert wrong[-1] in capsys.readouterr().err


def test_make_refuses_it_as_early() -> None:
    """All that `make sim` is asked for is read by one command."""
    told = subprocess.run(
        ["make", "-n", "sim", "SEEDS=abc"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    (command,) = [line for line in told.splitlines() if "-m tests.sim" in line]
    assert "--sweep --seeds abc" in command


def test_who_looks_for_nobody_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose parent was killed does not look for minutes on end."""
    gone = multiprocessing.get_context("spawn").Process(target=os.getpid)
    gone.start()
    gone.join()
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: gone)
    with pytest.raises(SystemExit):
        hunt("lost-abort", first=0, count=1, outside=False)


def test_the_sweep_goes_before_the_histories(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alone unless it is said how many; and where it fails nothing comes after it."""
    monkeypatch.setattr(sweep, "all_plans", lambda *_, **__: [plan_of(1)])
    told = {}
    for wanted in (["--sweep"], ["--sweep", "--seeds", "3"]):
        assert 0 == main([*wanted, "--workers", "1"])
        told[len(wanted)] = capsys.readouterr().out
    assert "histories=" not in told[1]
    assert "crash_points=" in told[3]
    assert told[3].endswith("histories=3 violations=0\n")


def test_the_usage_is_short_enough_to_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    """Planted bugs are named by `make sim-mutants`, and not in each usage."""
    with pytest.raises(SystemExit):
        main(["-h"])
    assert "--mutant NAME" in (told := capsys.readouterr().out)
    assert "lost-abort" not in told


def test_a_sweep_without_crash_points_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is nothing to kill, nothing is proved."""
    monkeypatch.setattr(sweep, "PLANS", {})
    assert 1 == main(["--sweep"])
    assert "crash_points=0 violations=0\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    ("count", "names", "broken"),
    [(1, "t", False), (2, "t, u", False), (2, "t, v", True), (3, "t, u", True), (1, "v", True)],
)
def test_an_alarm_is_explained_when_each_that_it_counts_is(
    count: int, names: str, broken: bool
) -> None:
    """One that was truncated is harmless to ask about, and says nothing of another."""
    checker = Remembering(lambda *_: None, lambda _: None, outside=False)
    key = RequestKey("old", "o0", b"")
    for name in (TxnId("t"), TxnId("u")):
        checker._truncated[name] = Decision(name, Outcome.COMMITTED, key, (), 0, ended=True)
    checker.alarm(f"ALARM {count} in doubt are older than the log: {names}")
    assert broken is (checker.violation is not None)
