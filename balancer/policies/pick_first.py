"""One subchannel for all calls, for as long as it is there.

As gRPC's pick_first, adapted: the pool keeps all endpoints connected, so what is chosen
among is READY and taking another one costs no connection. Once left, an endpoint that
comes back is not returned to. With `shuffle` (gRFC A62, shuffleAddressList) each client
chooses by chance, so that a fleet of them does not pile up on the first address.
"""

from __future__ import annotations

from collections.abc import Sequence

from balancer.policy import PickInfo, PickResult, PolicyContext, Subchannel


class PickFirst:
    """The first by address, or any with `shuffle`; then the same until it goes."""

    def __init__(self, context: PolicyContext, *, shuffle: bool = False) -> None:
        self._rng = context.rng
        self._shuffle = shuffle
        self._current: Subchannel | None = None

    def build(self, subchannels: Sequence[Subchannel]) -> PickFirstPicker:
        """A picker of the present choice, or of a new one if that is not there."""
        for each in subchannels:
            if each is self._current:
                return PickFirstPicker(each)
        self._current = self._rng.choice(subchannels) if self._shuffle else subchannels[0]
        return PickFirstPicker(self._current)


class PickFirstPicker:
    """Always `subchannel`."""

    __slots__ = ("_result",)

    def __init__(self, subchannel: Subchannel) -> None:
        self._result = PickResult(subchannel)

    def pick(self, info: PickInfo) -> PickResult:  # noqa: ARG002 - there is but one
        """The same as ever."""
        return self._result
