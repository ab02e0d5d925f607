"""How long outcomes are kept, and how often what is over is looked for: from the environment."""

from __future__ import annotations

import math
from collections.abc import Mapping

from services.runtime import CannotStart
from txn.forgetter import ForgetterConfig
from txn.log_keeper import RETENTION_MIN_S, LogKeeperConfig

RETENTION = "TALLYSTICK_IDEMPOTENCY_RETENTION_S"
INTERVAL = "TALLYSTICK_HOUSEKEEPING_INTERVAL_S"


def log_keeper_config(variables: Mapping[str, str]) -> LogKeeperConfig:
    """Of a coordinator. Raises CannotStart."""
    usual = LogKeeperConfig()
    retention_s = _seconds(variables, RETENTION, usual.idempotency_retention_s)
    if retention_s < RETENTION_MIN_S:
        raise CannotStart(f"{RETENTION} is less than {RETENTION_MIN_S:g} s: {retention_s:g}")
    return LogKeeperConfig(
        idempotency_retention_s=retention_s,
        interval_s=_seconds(variables, INTERVAL, usual.interval_s),
    )


def forgetter_config(variables: Mapping[str, str]) -> ForgetterConfig:
    """Of a participant. Raises CannotStart."""
    interval_s = _seconds(variables, INTERVAL, ForgetterConfig().interval_s)
    return ForgetterConfig(interval_s=interval_s, age_min_s=interval_s)


def _seconds(variables: Mapping[str, str], name: str, usual_s: float) -> float:
    text = variables.get(name)
    if not text:
        return usual_s
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise CannotStart(f"{name} is not a positive number of seconds: {text!r}")
    return seconds
