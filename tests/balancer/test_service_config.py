"""gRPC's service config as this balancer reads it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from balancer.errors import InvalidConfigError
from balancer.hedging import HedgingPolicy
from balancer.lb_config import (
    FailurePercentageParameters,
    LoadBalancing,
    OutlierParameters,
    SuccessRateParameters,
)
from balancer.method_config import MethodConfig
from balancer.retry import RetryPolicy
from balancer.service_config import MAX_SERVICE_CONFIG_BYTES, ServiceConfig, load_service_config
from balancer.throttle import ThrottleConfig

RETRY = {
    "maxAttempts": 4,
    "initialBackoff": ".1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
HEDGING = {"maxAttempts": 3, "hedgingDelay": "0.5s", "nonFatalStatusCodes": ["INTERNAL", 14]}


def load(**document: Any) -> ServiceConfig:
    """That document, read."""
    return load_service_config(json.dumps(document))


def method(**entry: Any) -> MethodConfig:
    """A document with that one entry, which names a method."""
    named = {"name": [{"service": "s", "method": "m"}], **entry}
    return load(methodConfig=[named]).methods.of("/s/m")


def balancing(*policies: dict[str, Any], also: tuple[str, ...] = ()) -> LoadBalancing | None:
    """A document with that list of policies."""
    text = json.dumps({"loadBalancingConfig": policies})
    return load_service_config(text, policies=also).load_balancing


def test_an_empty_document_says_nothing() -> None:
    """What a document leaves out is left to the channel."""
    assert ServiceConfig() == load()
    assert (None, None, None) == (
        load().throttle,
        load().load_balancing,
        load().methods.of("").timeout_s,
    )


def test_a_method() -> None:
    """Each field of a method's entry is read."""
    expected = MethodConfig(
        timeout_s=1.5,
        wait_for_ready=True,
        retry=RetryPolicy(max_attempts=4, initial_backoff_s=0.1, max_backoff_s=1.0),
        max_request_bytes=0,
        max_response_bytes=1024,
    )
    assert expected == method(
        timeout="1.5s",
        waitForReady=True,
        retryPolicy=RETRY,
        maxRequestMessageBytes=0,
        maxResponseMessageBytes="1024",
    )


def test_a_retry_policy_is_not_a_word_on_idempotence() -> None:
    """Only the owner's own field lets attempts repeat that a server may have begun."""
    assert not method(retryPolicy=RETRY).idempotent
    assert method(retryPolicy=RETRY, idempotent=True).idempotent


def test_hedging() -> None:
    """A hedging policy is read, and declares the method idempotent."""
    codes = frozenset({StatusCode.INTERNAL, StatusCode.UNAVAILABLE})
    policy = HedgingPolicy(max_attempts=3, hedging_delay_s=0.5, non_fatal_codes=codes)
    assert MethodConfig(idempotent=True, hedging=policy) == method(hedgingPolicy=HEDGING)


def test_hedging_with_the_least_said() -> None:
    """Without a delay all are sent at once, without codes every failure is fatal."""
    policy = HedgingPolicy(max_attempts=2, hedging_delay_s=0.0, non_fatal_codes=frozenset())
    assert policy == method(hedgingPolicy={"maxAttempts": 2}).hedging


@pytest.mark.parametrize("policy", ["retryPolicy", "hedgingPolicy"])
def test_attempts_above_five_are_five(policy: str) -> None:
    """More attempts than the client allows are as many as it allows."""
    given = {"retryPolicy": RETRY, "hedgingPolicy": HEDGING}[policy] | {"maxAttempts": 1000}
    config = method(**{policy: given})
    assert 5 == (config.hedging or config.retry).max_attempts


def test_names() -> None:
    """A method, a service and everything, in the spellings that mean the same."""
    methods = load(
        methodConfig=[
            {"name": [{"service": "a", "method": "m"}, {"service": "b"}], "timeout": "1s"},
            {"name": [{"service": "a", "method": None}], "timeout": "2s"},
            {"name": [{"service": ""}], "timeout": "3s"},
            {"name": [], "timeout": "4s"},
            {"timeout": "5s"},
        ]
    ).methods
    paths = ("/a/m", "/b/x", "/a/x", "/c/x")
    assert [1.0, 1.0, 2.0, 3.0] == [methods.of(path).timeout_s for path in paths]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("1s", 1.0),
        ("1.5s", 1.5),
        (".1s", 0.1),
        ("2.s", None),
        ("0.000000001s", 1e-9),
        ("0s", 0.0),
        ("315576000000s", 315576000000.0),
        ("315576000001s", None),
        ("0.0000000001s", None),
        ("1", None),
        ("s", None),
        (".s", None),
        ("-1s", None),
        ("+1s", None),
        ("1 s", None),
        ("1e3s", None),
        ("1s\n", None),
        ("\u0661s", None),
        (1, None),
    ],
    ids=repr,
)
def test_durations(written: object, expected: float | None) -> None:
    """Seconds with up to nine decimals and an s; no sign, no other unit."""
    policy = HEDGING | {"hedgingDelay": written}
    if expected is None:
        with pytest.raises(InvalidConfigError, match="hedgingDelay"):
            method(hedgingPolicy=policy)
    else:
        hedging = method(hedgingPolicy=policy).hedging
        assert hedging is not None
        assert expected == hedging.hedging_delay_s


def test_a_timeout_of_nothing_is_none() -> None:
    """As in gRPC, zero seconds do not end every call."""
    assert method(timeout="0s").timeout_s is None


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({"name": [{"method": "m"}]}, "method"),
        ({"name": [{"service": "/s"}]}, "service"),
        ({"name": [{"service": 1}]}, "service"),
        ({"name": [{"service": "s"}, {"service": "s", "method": ""}]}, "twice"),
        ({"name": {}}, "name"),
        ({"name": ["s"]}, "name"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": 1}, "timeout"),
        ({"waitForReady": "true"}, "waitForReady"),
        ({"maxRequestMessageBytes": -1}, "maxRequestMessageBytes"),
        ({"maxRequestMessageBytes": 1.5}, "maxRequestMessageBytes"),
        ({"maxResponseMessageBytes": 2**32}, "maxResponseMessageBytes"),
        ({"idempotent": 1}, "idempotent"),
        ({"retryPolicy": RETRY, "hedgingPolicy": HEDGING}, "both"),
        ({"hedgingPolicy": HEDGING, "idempotent": False}, "hedgingPolicy"),
        ({"retryPolicy": []}, "retryPolicy"),
        ({"retryPolicy": {}}, "retryableStatusCodes"),
        *(({"retryPolicy": {k: v for k, v in RETRY.items() if k != name}}, name) for name in RETRY),
        ({"retryPolicy": RETRY | {"maxAttempts": 1}}, "maxAttempts"),
        ({"retryPolicy": RETRY | {"maxAttempts": True}}, "maxAttempts"),
        ({"retryPolicy": RETRY | {"initialBackoff": "0s"}}, "initialBackoff"),
        ({"retryPolicy": RETRY | {"maxBackoff": "-1s"}}, "maxBackoff"),
        ({"retryPolicy": RETRY | {"backoffMultiplier": 0}}, "backoffMultiplier"),
        ({"retryPolicy": RETRY | {"backoffMultiplier": "2x"}}, "backoffMultiplier"),
        ({"retryPolicy": RETRY | {"backoffMultiplier": 10**400}}, "backoffMultiplier"),
        ({"retryPolicy": RETRY | {"retryableStatusCodes": []}}, "retryableStatusCodes"),
        ({"retryPolicy": RETRY | {"retryableStatusCodes": ["OK"]}}, "retryableStatusCodes"),
        ({"retryPolicy": RETRY | {"retryableStatusCodes": ["nope"]}}, "retryableStatusCodes"),
        ({"retryPolicy": RETRY | {"retryableStatusCodes": [17]}}, "retryableStatusCodes"),
        ({"retryPolicy": RETRY | {"retryableStatusCodes": [[]]}}, "retryableStatusCodes"),
        ({"hedgingPolicy": {"hedgingDelay": "1s"}}, "maxAttempts"),
        ({"hedgingPolicy": HEDGING | {"maxAttempts": 1}}, "maxAttempts"),
        ({"hedgingPolicy": HEDGING | {"nonFatalStatusCodes": [0]}}, "nonFatalStatusCodes"),
    ],
    ids=str,
)
def test_wrong_methods(entry: dict[str, Any], field: str) -> None:
    """What gRPC refuses in a method's entry is refused, and the field is named."""
    with pytest.raises(InvalidConfigError, match=field):
        method(**entry)


def test_entries_nobody_is_named_in_are_checked_too() -> None:
    """An entry without names has no effect, but has to be right."""
    with pytest.raises(InvalidConfigError, match=r"methodConfig\[1\]\.timeout"):
        load(methodConfig=[{"name": []}, {"timeout": "soon"}])


def test_throttling() -> None:
    """The bucket's sizes are read; numbers may be written as strings."""
    expected = ThrottleConfig(max_tokens=10, token_ratio=0.25)
    assert expected == load(retryThrottling={"maxTokens": "10", "tokenRatio": "0.25"}).throttle


@pytest.mark.parametrize(
    ("sizes", "field"),
    [
        ({}, "maxTokens"),
        ({"maxTokens": 10}, "tokenRatio"),
        ({"maxTokens": 0, "tokenRatio": 0.1}, "maxTokens"),
        ({"maxTokens": 1001, "tokenRatio": 0.1}, "maxTokens"),
        ({"maxTokens": 10, "tokenRatio": 0}, "token_ratio"),
        ({"maxTokens": 10, "tokenRatio": -1}, "token_ratio"),
        ({"maxTokens": 10, "tokenRatio": "much"}, "tokenRatio"),
    ],
    ids=str,
)
def test_wrong_throttling(sizes: dict[str, Any], field: str) -> None:
    """Sizes that gRPC refuses are refused."""
    with pytest.raises(InvalidConfigError, match=field):
        load(retryThrottling=sizes)


@pytest.mark.parametrize(
    ("given", "policy", "parameters"),
    [
        ({"round_robin": {}}, "round_robin", {}),
        ({"pick_first": {}}, "pick_first", {"shuffle_address_list": False}),
        (
            {"pick_first": {"shuffleAddressList": True}},
            "pick_first",
            {"shuffle_address_list": True},
        ),
        (
            {"weighted_round_robin": {"blackoutPeriod": "1s", "errorUtilizationPenalty": 0.5}},
            "weighted_round_robin",
            {},
        ),
        (
            {"ring_hash_experimental": {}},
            "ring_hash",
            {"min_ring_size": 1024, "max_ring_size": 4096},
        ),
        (
            {
                "ring_hash_experimental": {
                    "minRingSize": 8000,
                    "maxRingSize": 8388608,
                    "requestHashHeader": "User-Id",
                }
            },
            "ring_hash",
            {"min_ring_size": 4096, "max_ring_size": 4096, "request_hash_header": "user-id"},
        ),
        ({"least_request_experimental": {}}, "least_connections", {"choice_count": 2}),
        (
            {"least_request_experimental": {"choiceCount": 99}},
            "least_connections",
            {"choice_count": 10},
        ),
    ],
    ids=str,
)
def test_policies(given: dict[str, Any], policy: str, parameters: dict[str, Any]) -> None:
    """Each of gRPC's policies becomes the one of here, with its parameters and defaults."""
    assert LoadBalancing(policy=policy, parameters=parameters) == balancing(given)


def test_the_first_known_policy_applies() -> None:
    """Policies unknown here are passed over, whatever they are given."""
    found = balancing({"grpclb": 7}, {"round_robin": {}}, {"pick_first": {}})
    assert LoadBalancing(policy="round_robin") == found


def test_a_policy_of_the_channels_own() -> None:
    """A registered policy may be asked for by its name, with plain parameters."""
    expected = LoadBalancing(policy="mine", parameters={"size": 3, "fast": True})
    assert expected == balancing({"mine": {"size": 3, "fast": True}}, also=("mine",))


OUTLIER = "outlier_detection_experimental"
CHILD: list[dict[str, Any]] = [{"round_robin": {}}]


def test_outlier_detection_by_default() -> None:
    """It wraps a policy; what is not said is as gRFC A50 has it, and no algorithm is on."""
    expected = LoadBalancing(policy="round_robin", outlier=OutlierParameters())
    assert expected == balancing({OUTLIER: {"childPolicy": CHILD}})


def test_outlier_detection() -> None:
    """Every field of it is read."""
    expected = OutlierParameters(
        interval_s=1.0,
        base_ejection_time_s=400.0,
        max_ejection_time_s=400.0,
        max_ejection_percent=0,
        success_rate=SuccessRateParameters(
            stdev_factor=1, enforcement_percentage=0, minimum_hosts=0, request_volume=4
        ),
        failure_percentage=FailurePercentageParameters(threshold=0),
    )
    found = balancing(
        {
            OUTLIER: {
                "interval": "1s",
                "baseEjectionTime": "400s",
                "maxEjectionPercent": 0,
                "successRateEjection": {
                    "stdevFactor": 1,
                    "enforcementPercentage": 0,
                    "minimumHosts": 0,
                    "requestVolume": 4,
                },
                "failurePercentageEjection": {"threshold": 0},
                "childPolicy": CHILD,
            }
        }
    )
    assert found is not None
    assert expected == found.outlier


def test_subsetting() -> None:
    """Random subsetting gives the number of endpoints, within or around outlier detection."""
    subset = {"subsetSize": 5, "childPolicy": [{OUTLIER: {"childPolicy": CHILD}}]}
    found = balancing({"random_subsetting_experimental": subset})
    assert LoadBalancing(policy="round_robin", outlier=OutlierParameters(), subset_size=5) == found


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "exactly one"),
        ({"round_robin": {}, "pick_first": {}}, "exactly one"),
        ({"round_robin": None}, "exactly one"),
        ({"round_robin": 1}, "round_robin"),
        ({"unheard_of": {}}, "unheard_of"),
        ({"mine": {"nested": {}}}, "nested"),
        ({"pick_first": {"shuffleAddressList": 1}}, "shuffleAddressList"),
        ({"weighted_round_robin": {"weightUpdatePeriod": 1}}, "weightUpdatePeriod"),
        ({"weighted_round_robin": {"errorUtilizationPenalty": -1}}, "errorUtilizationPenalty"),
        ({"ring_hash_experimental": {"minRingSize": 0}}, "minRingSize"),
        ({"ring_hash_experimental": {"maxRingSize": 8388609}}, "maxRingSize"),
        ({"ring_hash_experimental": {"maxRingSize": 1000}}, "maxRingSize"),
        ({"ring_hash_experimental": {"requestHashHeader": "x-bin"}}, "requestHashHeader"),
        ({"least_request_experimental": {"choiceCount": 1}}, "choiceCount"),
        ({OUTLIER: {}}, "childPolicy"),
        ({OUTLIER: {"childPolicy": [{OUTLIER: {"childPolicy": CHILD}}]}}, "childPolicy"),
        ({OUTLIER: {"childPolicy": CHILD, "interval": "-1s"}}, "interval"),
        ({OUTLIER: {"childPolicy": CHILD, "maxEjectionPercent": 101}}, "maxEjectionPercent"),
        (
            {OUTLIER: {"childPolicy": CHILD, "successRateEjection": {"minimumHosts": -1}}},
            "successRateEjection.minimumHosts",
        ),
        (
            {OUTLIER: {"childPolicy": CHILD, "failurePercentageEjection": {"threshold": 101}}},
            "failurePercentageEjection.threshold",
        ),
        ({"random_subsetting_experimental": {"childPolicy": CHILD}}, "subsetSize"),
        (
            {"random_subsetting_experimental": {"childPolicy": CHILD, "subsetSize": 0}},
            "subsetSize",
        ),
    ],
    ids=str,
)
def test_wrong_policies(given: dict[str, Any], field: str) -> None:
    """What gRPC refuses in a policy is refused, and the field is named."""
    with pytest.raises(InvalidConfigError, match=field):
        balancing(given, {"round_robin": {}} if field != "unheard_of" else given, also=("mine",))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ROUND_ROBIN", LoadBalancing(policy="round_robin")),
        ("pick_first", LoadBalancing(policy="pick_first")),
        ("UNSPECIFIED", None),
    ],
)
def test_the_deprecated_name(name: str, expected: LoadBalancing | None) -> None:
    """The older field is understood where the newer one is not given."""
    assert expected == load(loadBalancingPolicy=name).load_balancing
    both = load(loadBalancingPolicy=name, loadBalancingConfig=CHILD)
    assert LoadBalancing(policy="round_robin") == both.load_balancing


def test_an_unknown_deprecated_name() -> None:
    """A policy that is not known is refused in the older field, too."""
    with pytest.raises(InvalidConfigError, match="loadBalancingPolicy"):
        load(loadBalancingPolicy="best")


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, None), ({"serviceName": ""}, ""), ({"serviceName": "pkg.Service"}, "pkg.Service")],
    ids=str,
)
def test_health(given: dict[str, Any], expected: str | None) -> None:
    """The service whose health is asked for; an empty name is not none."""
    assert expected == load(healthCheckConfig=given).health_service_name


@pytest.mark.parametrize(
    "document",
    [
        {"healthCheckConfig": {"serviceName": "\ud800"}},
        {"methodConfig": [{"name": [{"service": "\ud800"}]}]},
    ],
    ids=str,
)
def test_text_that_cannot_be_sent_is_refused(document: dict[str, Any]) -> None:
    """Half of a surrogate pair would break the calls, long after the start."""
    with pytest.raises(InvalidConfigError, match="UTF-8"):
        load(**document)


@pytest.mark.parametrize(
    "document",
    [
        {"loadBalancingPolicy": "a\nb" * 1000},
        {"loadBalancingConfig": [{"a\nb" * 1000: {}}]},
        {"methodConfig": [{"name": [{"service": "/\n" * 1000}]}]},
        {"methodConfig": [{"name": [{"service": "a\n" * 1000}] * 2}]},
        {"methodConfig": [{"name": [{"service": "a\n/"}]}]},
    ],
    ids=lambda document: str(document)[:60],
)
def test_what_is_quoted_of_a_document_is_short_and_on_one_line(document: dict[str, Any]) -> None:
    """Errors go to logs, and whoever wrote the document shall write nothing else there."""
    with pytest.raises(InvalidConfigError) as refused:
        load(**document)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500


def test_unknown_fields_are_ignored() -> None:
    """A newer document still loads."""
    found = load_service_config(
        b'{"connectionScaling": {}, "methodConfig": [{"name": [{}], "new": 1, "timeout": "1s"}]}'
    )
    assert 1.0 == found.methods.of("/any/Method").timeout_s


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "not an object"),
        ('{"a": NaN}', "not JSON"),
        ('{"methodConfig": [], "methodConfig": []}', "twice"),
        (b"\xff", "UTF-8"),
        ('"\ud800"', "UTF-8"),
        ("[" * 200_000, "not JSON"),
        (" " * (MAX_SERVICE_CONFIG_BYTES + 1), "longer"),
        ('{"a": ' + "9" * 5_000 + "}", "not JSON"),
    ],
    ids=["empty", "open", "list", "nan", "twice", "bytes", "surrogate", "deep", "long", "digits"],
)
def test_what_is_no_document(text: str | bytes, expected: str) -> None:
    """What is not one JSON object of a bearable size is refused as such."""
    with pytest.raises(InvalidConfigError, match=expected):
        load_service_config(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*RETRY, *HEDGING, "name", "retryPolicy", "hedgingPolicy", "timeout"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
SECTIONS = st.sampled_from(
    ["methodConfig", "retryThrottling", "loadBalancingConfig", "healthCheckConfig"]
)


@given(section=SECTIONS, value=JSON)
def test_anything_is_read_or_refused(section: str, value: object) -> None:
    """No document causes any other error than the one that says it is wrong."""
    listed = section in ("methodConfig", "loadBalancingConfig")
    with contextlib.suppress(InvalidConfigError):
        load(**{section: [value] if listed else value})
