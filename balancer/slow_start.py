"""A new endpoint gets its share little by little, so that it can warm up.

Caches are cold, pools empty and nothing is compiled yet: a server that gets its full
share at once answers slowly or not at all. As in Envoy's slow start, an endpoint that
became READY less than a window ago gets

    max(min_weight, (age / window) ** (1 / aggression))

of the calls that its policy would give it. This works around any policy: a pick of an
endpoint that is warming up is accepted by chance, else there is another pick. Where a
policy has no second choice for a call (ring_hash, pick_first), the first one stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from balancer.errors import InvalidConfigError
from balancer.policy import Picker, PickInfo, PickResult, Policy, PolicyContext, Subchannel

MAX_PICKS: Final = 8
PEER_SHARE: Final = 0.99
"""Whose share never falls below this part of the oldest one's is not held back at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowStartConfig:
    """How endpoints warm up.

    `window_s` is the time from READY to a full share. With an `aggression` of 1 the share
    grows evenly, above 1 faster at first. `min_weight` is the share at the start, above 0
    to 1: with nothing an endpoint would never warm up.

    Raises InvalidConfigError.
    """

    window_s: float = 30.0
    aggression: float = 1.0
    min_weight: float = 0.1

    def __post_init__(self) -> None:
        for name, largest in (
            ("window_s", math.inf),
            ("aggression", math.inf),
            ("min_weight", 1.0),
        ):
            value = getattr(self, name)
            if not 0 < value <= largest or value == math.inf:
                raise InvalidConfigError(f"{name} is not above 0 or too large: {value}")

    def factor(self, age_s: float) -> float:
        """The part of its share that an endpoint gets which has been READY for `age_s`."""
        if age_s >= self.window_s:
            return 1.0
        part = max(0.0, age_s) / self.window_s
        return max(self.min_weight, math.pow(part, 1 / self.aggression))

    def least_share(self, younger_s: float) -> float:
        """The least part that one gets of the share of another, by how much younger it is.

        While the younger is held at `min_weight` it falls behind; from the end of that on,
        at `begin_s`, it catches up.
        """
        begin_s = self.window_s * math.pow(self.min_weight, self.aggression)
        if not begin_s:
            return 1.0 if younger_s <= 0 else 0.0
        return math.pow(1 + max(0.0, younger_s) / begin_s, -1 / self.aggression)


class Ramp:
    """Since when each endpoint is READY, and what follows for its share."""

    def __init__(self, config: SlowStartConfig, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._ready_since: dict[Subchannel, float] = {}
        self._oldest = 0.0

    def update(self, ready: Collection[Subchannel]) -> None:
        """These, at least one, are READY now: those not known start, others are forgotten."""
        now, known = self._clock(), self._ready_since
        ready_since = {each: known.get(each, now) for each in ready}
        self._oldest = min(ready_since.values())
        self._ready_since = ready_since

    def is_warming(self, subchannel: Subchannel) -> bool:
        """Whether `subchannel` is READY for less than the window."""
        since = self._ready_since.get(subchannel)
        return since is not None and self._clock() - since < self._config.window_s

    def is_held_back(self, subchannel: Subchannel) -> bool:
        """Whether `subchannel` warms up and is noticeably younger than the oldest."""
        if not self.is_warming(subchannel):
            return False
        younger_s = self._ready_since[subchannel] - self._oldest
        return self._config.least_share(younger_s) < PEER_SHARE

    def factor(self, subchannel: Subchannel) -> float:
        """The part of its share that `subchannel` gets, above 0 to 1.

        Relative to the oldest: where all are new, holding back helps nobody.
        """
        since, now = self._ready_since.get(subchannel), self._clock()
        if since is None:
            return 1.0
        return self._config.factor(now - since) / self._config.factor(now - self._oldest)


class SlowStartPicker:
    """Picks as `inner` does, but of the `subchannels` that warm up not every time."""

    __slots__ = ("_held_back", "_inner", "_ramp", "_random")

    def __init__(
        self, inner: Picker, subchannels: Sequence[Subchannel], ramp: Ramp, rng: Random
    ) -> None:
        self._inner = inner
        self._held_back = frozenset(each for each in subchannels if ramp.is_held_back(each))
        self._ramp = ramp
        self._random = rng.random

    def pick(self, info: PickInfo) -> PickResult:
        """A pick of `inner`, the last of MAX_PICKS if none is accepted."""
        result = self._inner.pick(info)
        for _ in range(MAX_PICKS - 1):
            if self._accepts(result.subchannel):
                break
            if result.on_done is not None:
                result.on_done(None)
            result = self._inner.pick(info)
        return result

    def _accepts(self, subchannel: Subchannel) -> bool:
        if subchannel not in self._held_back:
            return True
        if not self._ramp.is_warming(subchannel):
            # Nothing may bring a new picker for a long time.
            self._held_back -= {subchannel}
            return True
        return self._random() < self._ramp.factor(subchannel)


class SlowStart:
    """Any policy, with endpoints that warm up."""

    def __init__(self, inner: Policy, config: SlowStartConfig, context: PolicyContext) -> None:
        self._inner = inner
        self._ramp = Ramp(config, context.clock)
        self._rng = context.rng

    def build(self, subchannels: Sequence[Subchannel]) -> Picker:
        """The inner policy's picker, wrapped while any of `subchannels` is held back."""
        self._ramp.update(subchannels)
        picker = self._inner.build(subchannels)
        if not any(map(self._ramp.is_held_back, subchannels)):
            return picker
        return SlowStartPicker(picker, subchannels, self._ramp, self._rng)
