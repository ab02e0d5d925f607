"""What every test may rely on."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# The same examples each time: what a change breaks is the change's. How long one takes says how
# busy the machine is; what hangs is ended by pytest-timeout.
_TIMELESS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
settings.register_profile("repeatable", _TIMELESS, derandomize=True)
# Others each time, and more of them: `make fuzz`.
settings.register_profile("explore", _TIMELESS, max_examples=1000)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def no_mesh_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see none of the settings of whoever runs them."""
    for name in ("TALLYSTICK_HOME", "TALLYSTICK_ETCD", "TALLYSTICK_FAILPOINT", "TALLYSTICK_LOG"):
        monkeypatch.delenv(name, raising=False)
