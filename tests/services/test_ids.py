"""New ids."""

from __future__ import annotations

from services.ids import new_id


def test_ids_sort_by_time_and_differ() -> None:
    """32 hexadecimal digits each, ascending as they are made."""
    ids = [new_id() for _ in range(1_000)]
    assert sorted(set(ids)) == ids
    assert all(len(id_) == 32 and int(id_, 16) for id_ in ids)
