"""What every test may rely on."""

from __future__ import annotations

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


# Those whose tests wait most, and longest first. They are begun first, so that the others run
# meanwhile: of a file that is begun last all others would wait for the end.
_LONG = (
    "tests/integration/test_takeovers",
    "tests/integration/test_coordinator_partitions",
    "tests/integration/test_backup",
    "tests/discovery/test_cluster",
    "tests/integration/test_postgres_rows",
    "tests/integration/test_any_process",
    "tests/chaos/test_under_fire",
    "tests/integration",
    "tests/txn/store/test_p",
    "tests/chaos",
    "tests/launcher",
    "tests/stores",
    "tests/failpoints",
    "tests/sim",
    "tests/discovery",
)


def _turn(nodeid: str) -> int:
    return next((place for place, each in enumerate(_LONG) if nodeid.startswith(each)), len(_LONG))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long goes first; otherwise the order stays."""
    items.sort(key=lambda item: _turn(item.nodeid))


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
