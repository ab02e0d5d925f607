"""Ids of transactions ascend, whatever the wall clock does."""

from __future__ import annotations

import pytest

from txn import ids


def test_ids_ascend() -> None:
    """Each is above the one that it follows, and of one length."""
    made = [""]
    for _ in range(1_000):
        made.append(ids.new_id_after(made[-1]))
    assert sorted(set(made)) == made
    assert {32} == {len(each) for each in made[1:]}


def test_ids_follow_those_of_a_log_that_was_begun_with_others() -> None:
    """An id that is a UUIDv7, with the name of its log or without, is below those made now."""
    for newest in ("019ab8f3c1d27d1e8a5b3c4d5e6f7081", "019ab8f3c1d27d1e8a5b3c4d5e6f7081-0123"):
        assert newest < ids.new_id_after(newest)


def test_a_clock_that_was_set_back_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows is above the newest, and two that follow it differ."""
    newest = ids.new_id_after("")
    monkeypatch.setattr("txn.ids.time.time_ns", lambda: 0)
    after = {ids.new_id_after(newest) for _ in range(100)}
    assert min(after) > newest
    assert 100 == len(after)
