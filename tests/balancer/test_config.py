"""The limits of a channel."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from balancer import BalancerError, ChannelConfig, InvalidConfigError


@pytest.mark.parametrize(
    "wrong",
    [
        {"default_timeout_s": 0},
        {"default_timeout_s": float("nan")},
        {"max_queued_calls": -1},
        {"max_subchannels": 0},
        {"drain_grace_s": -1},
        {"connect_timeout_s": 0},
        {"initial_backoff_s": 0},
        {"max_backoff_s": 0},
        {"initial_backoff_s": 3.0, "max_backoff_s": 2.0},
        {"keepalive_time_s": -5},
        {"keepalive_timeout_s": 0},
        {"max_message_bytes": 0},
    ],
    ids=str,
)
def test_impossible_limits(wrong: dict[str, Any]) -> None:
    """A limit that cannot be is refused by its name."""
    with pytest.raises(InvalidConfigError, match=next(iter(wrong))):
        ChannelConfig(**wrong)


def test_the_defaults_are_possible_and_frozen() -> None:
    """The defaults are valid and cannot be changed under way."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        ChannelConfig().default_timeout_s = 1.0  # type: ignore[misc]


def test_seconds_become_milliseconds() -> None:
    """Times are handed to gRPC in milliseconds."""
    options = dict(ChannelConfig(max_backoff_s=1.5, initial_backoff_s=0.0001).grpc_options())
    assert 1500 == options["grpc.max_reconnect_backoff_ms"]
    assert 1 == options["grpc.initial_reconnect_backoff_ms"]


def test_own_options_win() -> None:
    """A channel argument of the user's replaces ours."""
    config = ChannelConfig(options=(("grpc.max_send_message_length", 5),))
    assert [5] == [v for k, v in config.grpc_options() if k == "grpc.max_send_message_length"]


def test_errors_are_value_errors() -> None:
    """What is wrong with a set-up is a ValueError."""
    assert issubclass(BalancerError, ValueError)
