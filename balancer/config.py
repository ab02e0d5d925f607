"""The limits of a channel, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from balancer.breaker import BreakerConfig
from balancer.eligibility import EligibilityConfig
from balancer.errors import InvalidConfigError
from balancer.health import HealthConfig
from balancer.method_config import MethodConfigs
from balancer.outlier import OutlierConfig
from balancer.policy import HashKey
from balancer.slow_start import SlowStartConfig
from balancer.subsetting import SubsetConfig
from balancer.throttle import ThrottleConfig
from balancer.zones import ZoneConfig

ChannelOptions = tuple[tuple[str, int | str | bytes], ...]

_MIB = 1024 * 1024
_NO_METHODS = MethodConfigs()
_THROTTLE = ThrottleConfig()
_ELIGIBILITY = EligibilityConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConfig:
    """Limits of one BalancedChannel; every default is meant to be kept.

    `default_timeout_s` is the deadline of unary calls made without one; a stream may
    mean to live for ever, so streams get none.
    `lazy` channels connect at the first call, or when asked to by `get_state`; others at once.
    Whatever was connected once is kept connected.
    `max_queued_calls` may wait for a connection at a time; the next one fails with
    RESOURCE_EXHAUSTED.
    `max_subchannels` endpoints are connected to at most, the first by address.
    `linger_s` is how long the connection to an endpoint that left the registry undrained is
    kept unused, in case the registry was wrong and it returns.
    `drain_grace_s` is how long calls in flight may still take on an endpoint that is
    gone from the registry.
    `connect_timeout_s` bounds one connection attempt; between attempts the back-off
    grows from `initial_backoff_s` to `max_backoff_s` (grpc/doc/connection-backoff.md).
    `keepalive_time_s` is the silence after which a connection with calls is pinged, again and
    again, `keepalive_timeout_s` the time the answer may take, and also the time sent data may
    stay unacknowledged (gRFC A18); then its calls end with UNAVAILABLE. gRPC Core pings once a
    second at most. Stock servers answer pings more frequent than every
    5 minutes with GOAWAY (gRFC A8): lower it only together with theirs.
    `max_message_bytes` holds for requests and responses.
    `health` asks each endpoint whether it serves, `breaker` leaves alone who fails time after
    time, `outlier` who does worse than the others, and `eligibility` says when too many are
    left out; `slow_start` gives those just connected less at first. `zones` prefers one's
    own zone, `subset` uses some endpoints of a large fleet only. `hash_key` finds what
    `ring_hash` and `hash` go by. What is None is off.
    `methods` says what holds for which methods: deadlines, retries, hedging. `throttle` bounds
    the retries and hedges of the whole channel.
    `options` are further gRPC channel arguments and win over all of the above.

    Raises InvalidConfigError.
    """

    default_timeout_s: float = 30.0
    lazy: bool = False
    max_queued_calls: int = 1_000
    max_subchannels: int = 1_024
    linger_s: float = 10.0
    drain_grace_s: float = 30.0
    connect_timeout_s: float = 5.0
    initial_backoff_s: float = 0.1
    max_backoff_s: float = 2.0
    keepalive_time_s: float = 300.0
    keepalive_timeout_s: float = 20.0
    max_message_bytes: int = 4 * _MIB
    health: HealthConfig | None = None
    breaker: BreakerConfig | None = None
    outlier: OutlierConfig | None = None
    eligibility: EligibilityConfig = _ELIGIBILITY
    slow_start: SlowStartConfig | None = None
    zones: ZoneConfig | None = None
    subset: SubsetConfig | None = None
    hash_key: HashKey | None = None
    methods: MethodConfigs = _NO_METHODS
    throttle: ThrottleConfig = _THROTTLE
    options: ChannelOptions = ()

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise InvalidConfigError(f"{name} is not above 0: {getattr(self, name)}")
        for name in ("max_queued_calls", "linger_s", "drain_grace_s"):
            if not getattr(self, name) >= 0:
                raise InvalidConfigError(f"{name} is below 0: {getattr(self, name)}")
        if self.initial_backoff_s > self.max_backoff_s:
            raise InvalidConfigError("initial_backoff_s is above max_backoff_s")

    def grpc_options(self) -> list[tuple[str, int | str | bytes]]:
        """The channel arguments of a connection to one endpoint."""
        arguments: dict[str, int | str | bytes] = {
            # Nothing is shared with other channels to the same address: ours closes when
            # we say so, and its back-off is its own.
            "grpc.use_local_subchannel_pool": 1,
            # Endpoints are inside the mesh; a proxy from the environment is not.
            "grpc.enable_http_proxy": 0,
            "grpc.initial_reconnect_backoff_ms": _milliseconds(self.initial_backoff_s),
            "grpc.max_reconnect_backoff_ms": _milliseconds(self.max_backoff_s),
            # In gRPC Core this argument is the time one attempt may take.
            "grpc.min_reconnect_backoff_ms": _milliseconds(self.connect_timeout_s),
            "grpc.keepalive_time_ms": _milliseconds(self.keepalive_time_s),
            "grpc.keepalive_timeout_ms": _milliseconds(self.keepalive_timeout_s),
            # gRPC Core heeds this one instead, which is a minute unless it is set (grpc#39239),
            "grpc.http2.ping_timeout_ms": _milliseconds(self.keepalive_timeout_s),
            # and after two pings of a silent call it would ping once a minute: gRFC A8 knows no
            # such limit.
            "grpc.http2.max_pings_without_data": 0,
            "grpc.max_receive_message_length": self.max_message_bytes,
            "grpc.max_send_message_length": self.max_message_bytes,
        }
        sizes = self.methods.sizes_json()
        if sizes is not None:
            arguments["grpc.service_config"] = sizes
        return list((arguments | dict(self.options)).items())


_POSITIVE = (
    "default_timeout_s",
    "max_subchannels",
    "connect_timeout_s",
    "initial_backoff_s",
    "max_backoff_s",
    "keepalive_time_s",
    "keepalive_timeout_s",
    "max_message_bytes",
)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
