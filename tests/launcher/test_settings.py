"""What the environment tells the launcher."""

from __future__ import annotations

import pytest

from services.launcher.errors import EtcdUnavailable
from services.launcher.settings import from_environment


def test_several_etcd_endpoints_are_read() -> None:
    """Commas, blanks and a scheme are all the same to people, and so to us."""
    found = from_environment({"TALLYSTICK_ETCD": "http://10.0.0.1:2379/, localhost:1"})
    assert ("10.0.0.1:2379", "localhost:1") == found.etcd


@pytest.mark.parametrize("text", ["nonsense", ":2379", "a:", "a:0", "a:65536", "a:b"])
def test_nonsense_is_refused_in_one_line(text: str) -> None:
    """It is said before anything is started, and names the variable."""
    with pytest.raises(EtcdUnavailable, match="TALLYSTICK_ETCD") as refused:
        from_environment({"TALLYSTICK_ETCD": text})
    assert "\n" not in str(refused.value)
