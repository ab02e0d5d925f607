"""Calls stay in the client's own zone as long as it has its share of the capacity.

The aim is that of Envoy's zone-aware routing: as much as possible stays local while every
endpoint gets about the same load. Envoy reads the share of traffic that comes from a zone
from the registry of its own cluster; a client library has none, so the traffic is taken to
be spread evenly over the zones unless `traffic_share` says otherwise.

Let t be that share and c the share of the usable capacity that is local. A fraction
min(1, c / t) of the calls is meant for local endpoints: with c >= t nothing leaves; when
half of the zone's share is missing, half of the calls go elsewhere. What spills goes to
everyone, the local ones included, and so in part comes back; the probability that is
computed is smaller by just that part.

With fewer than `min_local_endpoints` usable ones the zone is not preferred at all, so that
its last endpoints are not taken for a zone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from balancer.errors import InvalidConfigError
from balancer.policy import Picker, PickInfo, PickResult, Subchannel
from discovery.endpoint import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneConfig:
    """`zone` is the client's own; "" prefers none.

    `min_local_endpoints` must be usable for it to be preferred. `traffic_share`, above 0 and
    at most 1, is the part of all clients' calls that comes from this zone; None takes the
    zones to be alike.

    Raises InvalidConfigError.
    """

    zone: str = ""
    min_local_endpoints: int = 1
    traffic_share: float | None = None

    def __post_init__(self) -> None:
        if not self.min_local_endpoints > 0:
            raise InvalidConfigError(
                f"min_local_endpoints is not above 0: {self.min_local_endpoints}"
            )
        if self.traffic_share is not None and not 0 < self.traffic_share <= 1:
            raise InvalidConfigError(f"traffic_share is not in (0, 1]: {self.traffic_share}")


class ZoneSplit(NamedTuple):
    """The usable subchannels of the own zone, all usable ones, and how often to stay."""

    local: tuple[Subchannel, ...]
    everyone: tuple[Subchannel, ...]
    stay_local_probability: float


def split(
    usable: Sequence[Subchannel], known: Collection[Endpoint], config: ZoneConfig
) -> ZoneSplit:
    """Divides `usable`, given all endpoints `known`, usable or not.

    Capacity is measured by weight. Zones are counted among `known`: one that fails as a
    whole still sends its traffic.
    """
    everyone = tuple(usable)
    local = tuple([each for each in everyone if each.endpoint.zone == config.zone])
    if not config.zone or len(local) < config.min_local_endpoints:
        return ZoneSplit(local, everyone, 0.0)
    traffic_share = config.traffic_share or 1 / len({each.zone for each in known} | {config.zone})
    return ZoneSplit(local, everyone, _stay(_weight(local) / _weight(everyone), traffic_share))


def zone_picker(
    zones: ZoneSplit, build: Callable[[Sequence[Subchannel]], Picker], rng: random.Random
) -> Picker:
    """A picker over `zones`, made of what `build` makes of each group; at least one is usable."""
    if zones.stay_local_probability >= 1:
        return build(zones.local)
    if zones.stay_local_probability <= 0:
        return build(zones.everyone)
    return ZonePicker(build(zones.local), build(zones.everyone), zones.stay_local_probability, rng)


class ZonePicker:
    """Asks the local picker with `stay_local_probability`, else that over everyone."""

    def __init__(
        self,
        local: Picker,
        everyone: Picker,
        stay_local_probability: float,
        rng: random.Random,
    ) -> None:
        self._local = local
        self._everyone = everyone
        self._stay_local_probability = stay_local_probability
        self._random = rng.random

    def pick(self, info: PickInfo) -> PickResult:
        """Where that picker sends the call."""
        if self._random() < self._stay_local_probability:
            return self._local.pick(info)
        return self._everyone.pick(info)


def _stay(local_share: float, traffic_share: float) -> float:
    if local_share >= traffic_share:
        return 1.0
    meant_for_local = local_share / traffic_share
    return (meant_for_local - local_share) / (1 - local_share)


def _weight(subchannels: Sequence[Subchannel]) -> int:
    return sum(each.endpoint.weight for each in subchannels)
