from __future__ import annotations

from itertools import pairwise

import pytest

from services.launcher.catalogue import CATALOGUE, check_store, parse_replicas, shown
from services.launcher.errors import ReplicasError


def test_replicas_default_unless_named() -> None:
    """Services that REPLICAS does not name keep their default."""
    counts = parse_replicas("order=3", CATALOGUE)
    assert counts == {"order": 3, "ledger": 2, "wallet": 1, "coordinator": 1}
    assert parse_replicas(shown(counts), CATALOGUE) == counts


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("order=0", "from 1 to 10"),
        ("order=11", "from 1 to 10"),
        ("order", "from 1 to 10"),
        ("order=-1", "from 1 to 10"),
        ("order=²", "from 1 to 10"),
        ("order=" + "9" * 5000, "from 1 to 10"),
        ("coordinator=11", "from 1 to 10"),
        ("nobody=1", "there are order, ledger"),
    ],
)
def test_replicas_that_cannot_be_are_refused(text: str, told: str) -> None:
    """Unknown services and counts out of range are refused with what is allowed."""
    with pytest.raises(ReplicasError, match=told):
        parse_replicas(text, CATALOGUE)


def test_stores() -> None:
    """STORE is one of two, anything else is refused in one line."""
    check_store("sqlite")
    check_store("postgres")
    with pytest.raises(ReplicasError, match="sqlite and postgres"):
        check_store("oracle")


def test_port_blocks_do_not_overlap() -> None:
    """Ten replicas of each service fit before the next service's ports begin."""
    starts = sorted(service.port for service in CATALOGUE)
    assert all(later - earlier >= 10 for earlier, later in pairwise(starts))
