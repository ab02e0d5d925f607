"""What check_policy finds beyond single picks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from balancer.policies.pick_first import PickFirstPicker
from balancer.policy import Subchannel
from balancer.testing import check_policy


class _Hoarding:
    """A policy that keeps a note of every subchannel it has ever seen."""

    def __init__(self) -> None:
        self._seen: set[Subchannel] = set()

    def build(self, subchannels: Sequence[Subchannel]) -> PickFirstPicker:
        self._seen.update(subchannels)
        return PickFirstPicker(subchannels[0])


def test_a_policy_has_to_forget() -> None:
    """A policy that still holds subchannels which are gone does not pass."""
    with pytest.raises(AssertionError, match="still holds subchannels that are gone"):
        check_policy(_Hoarding())
