"""What the environment says of how long things are kept."""

from __future__ import annotations

import pytest

from services.housekeeping import INTERVAL, RETENTION, forgetter_config, log_keeper_config
from services.runtime import CannotStart
from txn.forgetter import ForgetterConfig
from txn.log_keeper import LogKeeperConfig


def test_the_usual_is_a_week() -> None:
    """Nobody has to set anything; an empty variable is as none."""
    assert LogKeeperConfig() == log_keeper_config({}) == log_keeper_config({RETENTION: ""})
    assert 7 * 24 * 3_600.0 == log_keeper_config({}).idempotency_retention_s
    assert ForgetterConfig() == forgetter_config({})


def test_what_is_set_is_taken() -> None:
    """Seconds, with a fraction if need be."""
    variables = {RETENTION: "3600.5", INTERVAL: "0.25"}
    log, branches = log_keeper_config(variables), forgetter_config(variables)
    assert (3600.5, 0.25) == (log.idempotency_retention_s, log.interval_s)
    assert 0.25 == branches.interval_s


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "a week"])
@pytest.mark.parametrize("name", [RETENTION, INTERVAL])
def test_nonsense_is_refused_by_name(name: str, text: str) -> None:
    """A process that would forget at once, or never, does not start."""
    with pytest.raises(CannotStart, match=name):
        log_keeper_config({name: text})


def test_a_retention_that_is_too_short_is_refused_by_name() -> None:
    """What may still be under way would find its key forgotten."""
    with pytest.raises(CannotStart, match=f"{RETENTION} is less than 3600 s: 3599"):
        log_keeper_config({RETENTION: "3599"})
