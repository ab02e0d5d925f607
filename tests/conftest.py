"""What every test may rely on."""

from __future__ import annotations

import pytest
from hypothesis import settings

# The same examples each time: what a change breaks is the change's. Timings are bench/'s.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
# Others each time, and more of them: `make fuzz`.
settings.register_profile("explore", deadline=None, database=None, max_examples=1000)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def no_mesh_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see none of the settings of whoever runs them."""
    for name in ("TALLYSTICK_HOME", "TALLYSTICK_ETCD", "TALLYSTICK_FAILPOINT", "TALLYSTICK_LOG"):
        monkeypatch.delenv(name, raising=False)
