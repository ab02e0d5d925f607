"""New ids."""

from __future__ import annotations

import pytest

from services import ids as module
from services.ids import new_id, new_id_after


def test_ids_sort_by_time_and_differ() -> None:
    """32 hexadecimal digits each, ascending as they are made."""
    ids = [new_id() for _ in range(1_000)]
    assert sorted(set(ids)) == ids
    assert all(len(id_) == 32 and int(id_, 16) for id_ in ids)


def test_an_id_after_nothing_is_a_new_id() -> None:
    """The first of all follows none."""
    before, made = new_id(), new_id_after("")
    assert (True, 32) == (made > before, len(made))


def test_an_id_after_an_older_one_is_a_new_id() -> None:
    """While the clock goes forward it is the clock that says what comes next."""
    older = new_id()
    between = new_id()
    assert between < new_id_after(older)


@pytest.mark.parametrize("suffix", ["", "-0123456789abcdef"])
def test_ids_ascend_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """However far: each is above the one before, and of the same shape."""
    ids = [new_id()]
    # 1970, as a machine without a battery believes.
    monkeypatch.setattr(module, "new_id", lambda: f"{1:032x}")
    for _ in range(1_000):
        ids.append(new_id_after(ids[-1] + suffix))
    assert sorted(set(ids)) == ids
    assert all(len(id_) == 32 and int(id_, 16) for id_ in ids)


def test_two_starts_after_the_same_id_never_make_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one coordinator has prepared and not decided is not named again by the next one."""
    newest = new_id()
    monkeypatch.setattr(module, "new_id", lambda: f"{1:032x}")
    assert 1_000 == len({new_id_after(newest) for _ in range(1_000)})
