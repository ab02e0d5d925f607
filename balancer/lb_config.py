"""`loadBalancingConfig` of gRPC's service config, in the terms of this balancer.

A list of policies in the order of preference: the first that is known here applies, and it
has to be right; if none is known the whole document is invalid (gRFC A24). Two of gRPC's
policies are wrappers, outlier detection (A50) and random subsetting (A68); what they wrap is
the policy, and what they add are parameters of the channel.

| gRPC's name | policy here | parameters |
|---|---|---|
| pick_first (A62) | pick_first | shuffle_address_list |
| round_robin | round_robin | |
| weighted_round_robin (A58) | weighted_round_robin | |
| ring_hash_experimental (A42) | ring_hash | min_ring_size, max_ring_size |
| the same (A76) | | request_hash_header |
| least_request_experimental (A48) | least_connections | choice_count |

The weights of A58 come from load reports, here they are the registry's: its fields are
checked and have no effect. Besides these a list may name any policy that is registered with
the channel, whose parameters are handed to it as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, TypeAlias

from balancer.errors import InvalidConfigError, shown
from balancer.json_fields import Fields

RING_SIZE_LIMIT: Final = 8_388_608
RING_SIZE_CAP: Final = 4_096
"""A larger ring asked for by a service config is made this large (gRFC A42)."""
CHOICE_COUNT_CAP: Final = 10
_MAX_EJECTION_TIME_S: Final = 300.0

ParameterValue: TypeAlias = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessRateParameters:
    """Ejects who succeeds less than the others (gRFC A50). Percentages are 0 to 100."""

    stdev_factor: int = 1_900
    enforcement_percentage: int = 100
    minimum_hosts: int = 5
    request_volume: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePercentageParameters:
    """Ejects who fails more than `threshold` percent (gRFC A50)."""

    threshold: int = 85
    enforcement_percentage: int = 100
    minimum_hosts: int = 5
    request_volume: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierParameters:
    """Outlier detection as a service config asks for it; None is an algorithm not used."""

    interval_s: float = 10.0
    base_ejection_time_s: float = 30.0
    max_ejection_time_s: float = _MAX_EJECTION_TIME_S
    max_ejection_percent: int = 10
    success_rate: SuccessRateParameters | None = None
    failure_percentage: FailurePercentageParameters | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadBalancing:
    """The policy's name here, its parameters by name, and what was wrapped around it.

    `subset_size` is the number of endpoints a client connects to; None is all.
    """

    policy: str
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    outlier: OutlierParameters | None = None
    subset_size: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))


def read_policy(parent: Fields, name: str, known: Collection[str]) -> LoadBalancing:
    """The first policy of the list `name` that is known. Raises InvalidConfigError."""
    names = []
    for entry in parent.children(name):
        if len(entry.names()) != 1:
            raise InvalidConfigError(f"{entry.path} does not name exactly one policy")
        (policy,) = entry.names()
        if policy in _READERS:
            return _READERS[policy](entry.required_child(policy), known)
        if policy in known:
            return LoadBalancing(
                policy=policy, parameters=_as_they_are(entry.required_child(policy))
            )
        names.append(policy)
    raise parent.error(name, f"has no policy that is known here: {shown(names)}")


def _as_they_are(fields: Fields) -> dict[str, ParameterValue]:
    for name, value in fields.values().items():
        if not isinstance(value, bool | int | float | str):
            raise fields.error(shown(name), "is not a plain value")
    return fields.values()


def _pick_first(fields: Fields, _known: Collection[str]) -> LoadBalancing:
    shuffle = fields.boolean("shuffleAddressList") or False
    return LoadBalancing(policy="pick_first", parameters={"shuffle_address_list": shuffle})


def _round_robin(_fields: Fields, _known: Collection[str]) -> LoadBalancing:
    return LoadBalancing(policy="round_robin")


def _weighted_round_robin(fields: Fields, _known: Collection[str]) -> LoadBalancing:
    fields.boolean("enableOobLoadReport")
    for name in (
        "oobReportingPeriod",
        "blackoutPeriod",
        "weightExpirationPeriod",
        "weightUpdatePeriod",
    ):
        fields.duration_s(name)
    if (fields.number("errorUtilizationPenalty") or 0) < 0:
        raise fields.error("errorUtilizationPenalty", "is below 0")
    return LoadBalancing(policy="weighted_round_robin")


def _ring_hash(fields: Fields, _known: Collection[str]) -> LoadBalancing:
    least = fields.whole("minRingSize", least=1, most=RING_SIZE_LIMIT) or 1_024
    most = fields.whole("maxRingSize", least=1, most=RING_SIZE_LIMIT) or RING_SIZE_CAP
    if least > most:
        raise fields.error("maxRingSize", "is below minRingSize")
    parameters: dict[str, ParameterValue] = {
        "min_ring_size": min(least, RING_SIZE_CAP),
        "max_ring_size": min(most, RING_SIZE_CAP),
    }
    header = fields.text("requestHashHeader")
    if header:
        parameters["request_hash_header"] = _hash_header(fields, header)
    return LoadBalancing(policy="ring_hash", parameters=parameters)


def _hash_header(fields: Fields, header: str) -> str:
    if header.endswith("-bin"):
        raise fields.error("requestHashHeader", "is binary")
    return header.lower()


def _least_request(fields: Fields, _known: Collection[str]) -> LoadBalancing:
    choices = fields.whole("choiceCount", least=2) or 2
    parameters = {"choice_count": min(choices, CHOICE_COUNT_CAP)}
    return LoadBalancing(policy="least_connections", parameters=parameters)


def _outlier_detection(fields: Fields, known: Collection[str]) -> LoadBalancing:
    child = read_policy(fields, "childPolicy", known)
    if child.outlier is not None:
        raise fields.error("childPolicy", "is outlier detection within outlier detection")
    base_s = _seconds(fields, "baseEjectionTime", 30.0)
    outlier = OutlierParameters(
        interval_s=_seconds(fields, "interval", 10.0),
        base_ejection_time_s=base_s,
        max_ejection_time_s=_seconds(fields, "maxEjectionTime", max(base_s, _MAX_EJECTION_TIME_S)),
        max_ejection_percent=_percent(fields, "maxEjectionPercent", 10),
        success_rate=_success_rate(fields.child("successRateEjection")),
        failure_percentage=_failure_percentage(fields.child("failurePercentageEjection")),
    )
    return replace(child, outlier=outlier)


def _success_rate(fields: Fields | None) -> SuccessRateParameters | None:
    if fields is None:
        return None
    return SuccessRateParameters(
        stdev_factor=_count(fields, "stdevFactor", 1_900),
        enforcement_percentage=_percent(fields, "enforcementPercentage", 100),
        minimum_hosts=_count(fields, "minimumHosts", 5),
        request_volume=_count(fields, "requestVolume", 100),
    )


def _failure_percentage(fields: Fields | None) -> FailurePercentageParameters | None:
    if fields is None:
        return None
    return FailurePercentageParameters(
        threshold=_percent(fields, "threshold", 85),
        enforcement_percentage=_percent(fields, "enforcementPercentage", 100),
        minimum_hosts=_count(fields, "minimumHosts", 5),
        request_volume=_count(fields, "requestVolume", 50),
    )


def _random_subsetting(fields: Fields, known: Collection[str]) -> LoadBalancing:
    fields.required("subsetSize")
    child = read_policy(fields, "childPolicy", known)
    if child.subset_size is not None:
        raise fields.error("childPolicy", "is subsetting within subsetting")
    return replace(child, subset_size=fields.whole("subsetSize", least=1))


def _seconds(fields: Fields, name: str, default: float) -> float:
    value = fields.duration_s(name)
    return default if value is None else value


def _percent(fields: Fields, name: str, default: int) -> int:
    value = fields.whole(name, most=100)
    return default if value is None else value


def _count(fields: Fields, name: str, default: int) -> int:
    value = fields.whole(name)
    return default if value is None else value


_READERS: Final[Mapping[str, Callable[[Fields, Collection[str]], LoadBalancing]]] = {
    "pick_first": _pick_first,
    "round_robin": _round_robin,
    "weighted_round_robin": _weighted_round_robin,
    "ring_hash_experimental": _ring_hash,
    "least_request_experimental": _least_request,
    "outlier_detection_experimental": _outlier_detection,
    "random_subsetting_experimental": _random_subsetting,
}
