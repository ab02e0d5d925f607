"""What the environment tells the launcher."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.launcher import environment, plan, status
from services.launcher.errors import EtcdUnavailable
from services.launcher.settings import from_environment


def test_several_etcd_endpoints_are_read() -> None:
    """Commas, blanks and a scheme are all the same to people, and so to us."""
    found = from_environment({"TALLYSTICK_ETCD": "http://10.0.0.1:2379/, localhost:1"})
    assert ("10.0.0.1:2379", "localhost:1") == found.etcd


@pytest.mark.parametrize(
    "text", ["nonsense", ":2379", "a:", "a:0", "a:65536", "a:b", f"a:{9:05000}"]
)
def test_nonsense_is_refused_in_one_line(text: str) -> None:
    """It is said before anything is started, and names the variable."""
    with pytest.raises(EtcdUnavailable, match="TALLYSTICK_ETCD") as refused:
        from_environment({"TALLYSTICK_ETCD": text})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"processes": [1]}', b"[" * 100_000])
def test_files_that_are_none_of_ours_are_refused_as_such(tmp_path: Path, content: bytes) -> None:
    """A plan and a status that cannot be understood raise one error, whatever is wrong."""
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(ValueError, match="not a plan"):
        plan.load(tmp_path / "plan.json")
    with pytest.raises(ValueError, match="not a status"):
        status.decode(content)
    assert {} == environment._read_stamp(tmp_path / "none")
    (tmp_path / "plan.json").write_bytes(b"[" * 100_000)
    assert {} == environment._read_stamp(tmp_path / "plan.json")
