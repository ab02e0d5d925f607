"""What balancer reads: service configs, answers about health, what servers say in trailers."""

from __future__ import annotations

import json
import random

import grpc
from grpc_health.v1 import health_pb2
from tallystick.txn.v1 import coordinator_service_pb2

from balancer.attempt import pushback
from balancer.errors import InvalidConfigError
from balancer.hash_key import from_field, from_metadata
from balancer.health_wire import MalformedReplyError, ServingStatus, decode_response
from balancer.policies import ring_hash as ring_hash  # registers the policies
from balancer.policy import PickInfo, PolicyContext, policy_named
from balancer.service_config import load_service_config
from balancer.service_setup import BUILT_IN, from_service_config
from balancer.testing import FakeSubchannel
from discovery import Endpoint
from tests.fuzz.target import Feed, Target, message_in

OWN_POLICIES = sorted(BUILT_IN)
DOCUMENT = json.dumps(
    {
        "loadBalancingConfig": [
            {"unknown": {}},
            {
                "outlier_detection_experimental": {
                    "interval": "1s",
                    "successRateEjection": {"stdevFactor": 1900},
                    "failurePercentageEjection": {"threshold": "85"},
                    "childPolicy": [
                        {
                            "random_subsetting_experimental": {
                                "subsetSize": 3,
                                "childPolicy": [
                                    {
                                        "ring_hash_experimental": {
                                            "minRingSize": 8,
                                            "requestHashHeader": "x-key",
                                        }
                                    }
                                ],
                            }
                        }
                    ],
                }
            },
        ],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
        "healthCheckConfig": {"serviceName": "a.B"},
        "methodConfig": [
            {
                "name": [{"service": "a.B", "method": "C"}, {}],
                "timeout": "1.5s",
                "waitForReady": True,
                "idempotent": True,
                "maxRequestMessageBytes": 1024,
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE", 14],
                },
            }
        ],
    }
).encode()
HEDGING = (
    b'{"methodConfig":[{"name":[{"service":"a"}],"hedgingPolicy":{"maxAttempts":2,'
    b'"hedgingDelay":"0.1s","nonFatalStatusCodes":[14]}}],"loadBalancingPolicy":"ROUND_ROBIN"}'
)
BY_OUR_NAME = tuple(
    json.dumps({"loadBalancingConfig": [{name: {}}]}).encode() for name in OWN_POLICIES
)
WITH_PARAMETERS = b'{"loadBalancingConfig":[{"ring_hash":{"virtual_nodes":10,"load_bound":1.5}}]}'
CONFIG_WORDS = (
    b"null", b"true", b"1e999", b"-1", b'"\\ud800"', b"9" * 40, b"[]", b"{}", b'"0s"',
    b'"-1s"', b'"1e3"', b'"315576000001s"', b'"shuffleAddressList"', b'"hedgingPolicy"',
    b'"pick_first"', b'"least_request_experimental"', b'"choiceCount"', b'"maxRingSize"',
    b'"weighted_round_robin"', b'"blackoutPeriod"', b'"virtual_nodes"', b'"max_points"',
    b'"load_bound"', b'"maxEjectionTime"', b'"baseEjectionTime"', b'"maxEjectionPercent"',
    b'"minimumHosts"', b'"requestVolume"', b'"enforcementPercentage"', b'"OK"', b"0.5",
)  # fmt: skip

_INFO = PickInfo("/a.B/C", (("x-key", "v"),), coordinator_service_pb2.ExecuteRequest())


def _config(data: bytes) -> None:
    config = load_service_config(data, policies=OWN_POLICIES)
    method = config.methods.of("/a.B/C")
    assert method.timeout_s is None or method.timeout_s > 0
    # A name that gRPC cannot be asked about would break every call, long after the start.
    (config.health_service_name or "").encode()
    for name in config.methods.by_name:
        name.encode()


def _setup(data: bytes) -> None:
    """A document that is taken gives a channel that can be used."""
    context = PolicyContext(rng=random.Random(0), clock=lambda: 0.0, hash_key=None)
    policy, config = from_service_config(data, rng=context.rng)
    sizes = config.methods.sizes_json()
    assert sizes is None or json.loads(sizes)
    if isinstance(policy, str):
        context = PolicyContext(rng=context.rng, clock=context.clock, hash_key=config.hash_key)
        policy = policy_named(policy, context)
    subchannels = [FakeSubchannel(Endpoint(f"10.0.0.{n}:1", weight=n)) for n in (1, 2)]
    picker = policy.build(subchannels)
    for _ in range(3):
        result = picker.pick(_INFO)
        assert result.subchannel in subchannels
        if result.on_done is not None:
            result.on_done(grpc.StatusCode.UNAVAILABLE)


def _health(data: bytes) -> None:
    """What we take protobuf takes too, and reads as we do."""
    status = decode_response(data)
    read = health_pb2.HealthCheckResponse.FromString(data).status
    assert status == (read if read in ServingStatus.__members__.values() else 0)


def _pushback(data: bytes) -> None:
    feed = Feed(data)
    text = [feed.some(20).decode("latin-1") for _ in range(feed.number(3))]
    trailers = [("grpc-retry-pushback-ms", each) for each in text]
    asked = pushback(trailers)
    assert asked is None or asked == "never" or 0 <= asked <= 2**31 / 1000


def _hash_key(data: bytes) -> None:
    feed = Feed(data)
    of_metadata, name = feed.number(2), feed.some(60).decode("utf-8", "surrogateescape")
    key = from_metadata(name) if of_metadata else from_field(name)
    request = message_in(coordinator_service_pb2.ExecuteRequest, feed.rest())
    found = key(PickInfo("/a.B/C", ((name, "v"),), request))
    assert found is None or isinstance(found, bytes)


TARGETS = (
    Target("service-config", _config, (InvalidConfigError,), (DOCUMENT, HEDGING), CONFIG_WORDS),
    Target(
        "service-setup",
        _setup,
        (InvalidConfigError,),
        (DOCUMENT, HEDGING, *BY_OUR_NAME, WITH_PARAMETERS),
        CONFIG_WORDS,
    ),
    Target(
        "health-reply",
        _health,
        (MalformedReplyError,),
        (
            b"",
            b"\x08\x01",
            b"\x08\x02\x12\x01a",
            b"\x0d\0\0\0\0",
            b"\x08" + b"\xff" * 9 + b"\x01",
            b"\xe2\xbf\xff\xf93\0",
        ),
    ),
    Target("pushback", _pushback, (), (b"\1\2" + b"10", b"\1\1-", b"\2\1" + b"1\1" + b"1")),
    Target(
        "hash-key",
        _hash_key,
        (InvalidConfigError,),
        (
            b"\1\5x-key",
            b"\0\x0fidempotency_key\n\1k",
            b"\0\x08wait_for",
            b"\0\x08branches",
            b"\0\3a.b",
        ),
    ),
)
