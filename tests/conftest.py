"""What every test may rely on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.postgres import postgres_server as postgres_server

# The same examples each time: what a change breaks is the change's. How long one takes says how
# busy the machine is; what hangs is ended by pytest-timeout.
_TIMELESS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
settings.register_profile("repeatable", _TIMELESS, derandomize=True)
# Others each time, and more of them: `make fuzz`.
settings.register_profile("explore", _TIMELESS, max_examples=1000)
settings.load_profile("repeatable")


# Where tests wait, for etcd, for timeouts, for processes, more than they work.
_WAITING = ("integration", "discovery", "chaos", "launcher", "stores", "failpoints")
# How long the files take that take long, in seconds on two cores: about, and side by side.
_SECONDS = {
    "integration/test_coordinator_partitions.py": 85,
    "discovery/test_cluster.py": 84,
    "sim/test_sim.py": 67,
    "integration/test_takeovers.py": 52,
    "integration/test_backup.py": 37,
    "integration/test_postgres_rows.py": 32,
    "integration/test_participant_rows.py": 30,
    "txn/store/test_prepared.py": 29,
    "discovery/test_etcd_versions.py": 29,
    "integration/test_coordinators.py": 27,
    "integration/test_coordinator_rows.py": 27,
    "balancer/sync/test_parity.py": 26,
    "chaos/test_under_fire.py": 25,
    "integration/test_operators.py": 22,
    "discovery/test_auth.py": 22,
    "failpoints/test_failpoints.py": 22,
    "discovery/test_registrar.py": 22,
    "fuzz/test_decision_log_machine.py": 20,
    "integration/test_any_process.py": 20,
    "bench/test_txn.py": 19,
    "services/wallet/test_passwords.py": 17,
}
_SECONDS_WAITING, _SECONDS_WORKING = 7, 2


def _in_turn(files: Sequence[str], others: int) -> Iterator[tuple[float, str]]:
    """Each file, the longest first, with the share of all their time at which it begins."""
    seconds = {file: _SECONDS.get(file, others) for file in files}
    before, whole = 0, sum(seconds.values())
    for file in sorted(files, key=lambda file: -seconds[file]):
        yield before / whole, file
        before += seconds[file]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits and what works go side by side all the time; and the longest files first.

    Otherwise the machine would have nothing to do at first and too much later; and of a file
    that is begun last all others would wait for the end. Within a file the order stays.
    """
    here = Path(__file__).parent
    file_of = {item: item.path.as_posix().removeprefix(f"{here.as_posix()}/") for item in items}
    files = list(dict.fromkeys(file_of.values()))
    waiting = [file for file in files if file.startswith(_WAITING)]
    working = [file for file in files if not file.startswith(_WAITING)]
    merged = sorted(
        [*_in_turn(waiting, _SECONDS_WAITING), *_in_turn(working, _SECONDS_WORKING)],
        key=lambda each: each[0],
    )
    turns = {file: turn for turn, (_, file) in enumerate(merged)}
    items.sort(key=lambda item: turns[file_of[item]])


@pytest.fixture(autouse=True)
def no_mesh_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see none of the settings of whoever runs them."""
    for name in ("HOME", "ETCD", "FAILPOINT", "LOG", "POSTGRES"):
        monkeypatch.delenv(f"TALLYSTICK_{name}", raising=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of all tests."""
    parser.addoption(
        "--all-stores",
        action="store_true",
        help="run every integration test on PostgreSQL too, not only those of payments",
    )
