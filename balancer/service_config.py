"""gRPC's own service config (JSON) as plain values, for whoever already has one.

The document is the one that gRPC's clients take in every language (grpc/doc/
service_config.md, grpc/service_config/service_config.proto; gRFC A2, A6, A17, A24, A50), and
what they refuse is refused: errors name the field. Fields unknown here are ignored.

Two things differ, for the sake of safety. A `retryPolicy` alone does not make attempts
repeat that a server may have begun; that takes the word of the method's owner, which gRPC has
no field for: `"idempotent": true` beside `"retryPolicy"`, ignored by other clients. A
`hedgingPolicy` is that word by itself, since it is for such methods only. And a document
without `retryThrottling` is throttled by this balancer's defaults rather than not at all.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from balancer.attempt import MAX_ATTEMPTS
from balancer.errors import InvalidConfigError, shown
from balancer.hedging import HedgingPolicy
from balancer.json_fields import Fields, parse_object
from balancer.lb_config import LoadBalancing, read_policy
from balancer.method_config import MethodConfig, MethodConfigs
from balancer.retry import RetryPolicy
from balancer.throttle import MAX_TOKENS_LIMIT, ThrottleConfig

MAX_SERVICE_CONFIG_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """What a service config says; None is what it leaves to the channel.

    `methods`, `throttle` and `load_balancing` are what the channel has otherwise from its own
    configuration: see ChannelConfig and the policies.
    `health_service_name` is the service to ask about (gRFC A17); "" is the server as a whole.
    """

    methods: MethodConfigs = field(default_factory=MethodConfigs)
    throttle: ThrottleConfig | None = None
    load_balancing: LoadBalancing | None = None
    health_service_name: str | None = None


def load_service_config(text: str | bytes, *, policies: Collection[str] = ()) -> ServiceConfig:
    """Reads a service config of at most MAX_SERVICE_CONFIG_BYTES.

    `policies` are names, besides gRPC's, by which it may ask for a policy of the channel's.
    Raises InvalidConfigError, which names the field.
    """
    fields = parse_object(text, max_bytes=MAX_SERVICE_CONFIG_BYTES, what="service config")
    health = fields.child("healthCheckConfig")
    return ServiceConfig(
        methods=_methods(fields),
        throttle=_throttle(fields.child("retryThrottling")),
        load_balancing=_load_balancing(fields, policies),
        health_service_name=None if health is None else health.text("serviceName"),
    )


def _load_balancing(fields: Fields, policies: Collection[str]) -> LoadBalancing | None:
    if "loadBalancingConfig" in fields:
        return read_policy(fields, "loadBalancingConfig", policies)
    # The deprecated field: a name only, in the letters of its enumeration or of the policy.
    name = (fields.text("loadBalancingPolicy") or "").lower()
    if name in ("", "unspecified"):
        return None
    if name not in ("round_robin", "pick_first", *policies):
        raise fields.error("loadBalancingPolicy", f"is not known: {shown(name)}")
    return LoadBalancing(policy=name)


def _throttle(fields: Fields | None) -> ThrottleConfig | None:
    if fields is None:
        return None
    fields.required("maxTokens")
    fields.required("tokenRatio")
    max_tokens = fields.whole("maxTokens", least=1, most=MAX_TOKENS_LIMIT)
    token_ratio = fields.number("tokenRatio")
    try:
        return ThrottleConfig(max_tokens=max_tokens or 0, token_ratio=token_ratio or 0.0)
    except InvalidConfigError as error:
        raise InvalidConfigError(f"{fields.path}: {error}") from error


def _methods(fields: Fields) -> MethodConfigs:
    by_name: dict[str, MethodConfig] = {}
    for entry in fields.children("methodConfig"):
        config = _method(entry)
        for each in entry.children("name"):
            name = _method_name(each)
            if name in by_name:
                raise InvalidConfigError(f"{each.path} is named twice: {shown(name)}")
            by_name[name] = config
    return MethodConfigs(by_name)


def _method_name(fields: Fields) -> str:
    service, method = fields.text("service") or "", fields.text("method") or ""
    if method and not service:
        raise fields.error("method", "has no service")
    if service.startswith("/"):
        raise fields.error("service", f"begins with a slash: {shown(service)}")
    return f"/{service}/{method}" if method else service


def _method(fields: Fields) -> MethodConfig:
    retry, hedging = fields.child("retryPolicy"), fields.child("hedgingPolicy")
    if retry is not None and hedging is not None:
        raise InvalidConfigError(f"{fields.path} has both retryPolicy and hedgingPolicy")
    declared = fields.boolean("idempotent")
    if hedging is not None and declared is False:
        raise fields.error("hedgingPolicy", "is for idempotent methods")
    return MethodConfig(
        # As in gRPC, a timeout of nothing is no timeout.
        timeout_s=fields.duration_s("timeout") or None,
        wait_for_ready=fields.boolean("waitForReady"),
        idempotent=bool(declared) or hedging is not None,
        retry=RetryPolicy() if retry is None else _retry(retry),
        hedging=None if hedging is None else _hedging(hedging),
        max_request_bytes=fields.whole("maxRequestMessageBytes"),
        max_response_bytes=fields.whole("maxResponseMessageBytes"),
    )


def _retry(fields: Fields) -> RetryPolicy:
    codes = fields.codes("retryableStatusCodes")
    if not codes:
        raise fields.error("retryableStatusCodes", "is empty or missing")
    return RetryPolicy(
        max_attempts=_max_attempts(fields),
        initial_backoff_s=_positive(fields, "initialBackoff", fields.duration_s("initialBackoff")),
        max_backoff_s=_positive(fields, "maxBackoff", fields.duration_s("maxBackoff")),
        backoff_multiplier=_positive(
            fields, "backoffMultiplier", fields.number("backoffMultiplier")
        ),
        retryable_codes=codes,
    )


def _hedging(fields: Fields) -> HedgingPolicy:
    return HedgingPolicy(
        max_attempts=_max_attempts(fields),
        hedging_delay_s=fields.duration_s("hedgingDelay") or 0.0,
        non_fatal_codes=fields.codes("nonFatalStatusCodes"),
    )


def _max_attempts(fields: Fields) -> int:
    fields.required("maxAttempts")
    return min(fields.whole("maxAttempts", least=2) or 0, MAX_ATTEMPTS)


def _positive(fields: Fields, name: str, value: float | None) -> float:
    if value is None or value <= 0:
        raise fields.error(name, "is not above 0")
    return value
