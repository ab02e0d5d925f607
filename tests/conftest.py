"""What every test may rely on."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_mesh_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see none of the settings of whoever runs them."""
    for name in ("TALLYSTICK_HOME", "TALLYSTICK_ETCD", "TALLYSTICK_FAILPOINT", "TALLYSTICK_LOG"):
        monkeypatch.delenv(name, raising=False)
