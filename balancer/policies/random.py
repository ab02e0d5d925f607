"""Any subchannel, each as likely as the others.

It keeps nothing between calls, so many channels in many processes add up to an even
spread, where synchronised round robins may beat in step.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from balancer.policy import PickInfo, PickResult, PolicyContext, Subchannel


class Random:
    """Independent uniform choices."""

    def __init__(self, context: PolicyContext) -> None:
        self._rng = context.rng

    def build(self, subchannels: Sequence[Subchannel]) -> RandomPicker:
        """A picker over `subchannels`."""
        return RandomPicker(subchannels, self._rng)


class RandomPicker:
    """Throws a die with one side per subchannel."""

    __slots__ = ("_bits", "_count", "_results")

    def __init__(self, subchannels: Sequence[Subchannel], rng: random.Random) -> None:
        self._results = tuple(PickResult(subchannel) for subchannel in subchannels)
        self._count = len(self._results)
        # Half the time that choice() takes, and no endpoint is likelier than another by
        # more than 1 in 2**32 / count.
        self._bits = rng.getrandbits

    def pick(self, info: PickInfo) -> PickResult:  # noqa: ARG002 - chance knows no call
        """Any of them."""
        return self._results[self._bits(32) % self._count]
