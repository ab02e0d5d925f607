"""The hash of a call's key, modulo the number of endpoints.

The cheapest way to send equal keys to one endpoint, and all clients that know the same
endpoints agree. But nearly every key moves when one endpoint comes or goes; where that
matters use `ring_hash`. Weights are not respected.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from balancer.hash_key import required_hash_key
from balancer.policies.ring import hash_of
from balancer.policy import HashKey, PickInfo, PickResult, PolicyContext, Subchannel


class Hash:
    """Equal keys to one endpoint; a call without a key goes to any.

    Raises InvalidConfigError if the context has no hash key.
    """

    def __init__(self, context: PolicyContext) -> None:
        self._hash_key = required_hash_key(context, "hash")
        self._rng = context.rng

    def build(self, subchannels: Sequence[Subchannel]) -> HashPicker:
        """A picker over `subchannels`, in the order of their addresses."""
        ordered = sorted(subchannels, key=lambda each: each.endpoint.address)
        return HashPicker(ordered, self._hash_key, self._rng)


class HashPicker:
    """Takes the hash of the key modulo the number of `subchannels`."""

    def __init__(
        self, subchannels: Sequence[Subchannel], hash_key: HashKey, rng: random.Random
    ) -> None:
        self._results = tuple(PickResult(subchannel) for subchannel in subchannels)
        self._hash_key = hash_key
        self._rng = rng

    def pick(self, info: PickInfo) -> PickResult:
        """The same for the same key."""
        key = self._hash_key(info)
        if not key:
            return self._rng.choice(self._results)
        return self._results[hash_of(key) % len(self._results)]
