"""How housekeeping gives way."""

from __future__ import annotations

import asyncio

import pytest
from tallystick.txn.v1 import coordinator_service_pb2 as pb

from tests.txn.helpers import ManualClock, turns
from txn.config import QUESTION_ITEMS_MAX
from txn.forgetter import ForgetterConfig
from txn.inquirer import InquiryConfig
from txn.log_keeper import LogKeeperConfig
from txn.restraint import Restraint
from txn.rpc.numbered_stream import STREAM_MAX_AGE_S
from txn.rpc.status import violations_of


@pytest.mark.parametrize(
    ("took_s", "rest_s"), [(0.0, 0.5), (0.1, 0.5), (0.125, 0.5), (0.25, 1.0), (10.0, 40.0)]
)
async def test_a_rest_is_in_proportion_to_the_step_before(took_s: float, rest_s: float) -> None:
    """A fifth of the time at most is for steps, and a rest is never shorter than the pause."""
    clock = ManualClock()
    restraint = Restraint(clock, pause_s=0.5, busy_share_max=0.2)
    for _ in range(2):
        await clock.advance(took_s)
        resting = asyncio.ensure_future(restraint.rest())
        await turns()
        assert [pytest.approx(rest_s)] == clock.sleeps
        await clock.advance(rest_s)
        await resting


@pytest.mark.parametrize("kind", [LogKeeperConfig, ForgetterConfig])
@pytest.mark.parametrize(
    "wrong",
    [
        {"busy_share_max": 0.0},
        {"busy_share_max": 1.1},
        {"rows_per_step": 0},
        {"pause_s": 0.0},
        {"interval_s": -1.0},
    ],
    ids=str,
)
def test_nonsense_is_refused(
    kind: type[LogKeeperConfig | ForgetterConfig], wrong: dict[str, float]
) -> None:
    """Limits that would stop it, or let it take everything."""
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
        kind(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "field", "good", "bad"),
    [
        (ForgetterConfig, "rows_per_step", QUESTION_ITEMS_MAX, QUESTION_ITEMS_MAX + 1),
        (InquiryConfig, "batch_size_max", QUESTION_ITEMS_MAX, QUESTION_ITEMS_MAX + 1),
        (InquiryConfig, "batch_size_max", 1, 0),
        (InquiryConfig, "interval_s", 0.001, 0.0),
        (InquiryConfig, "timeout_s", 0.001, 0.0),
        (InquiryConfig, "jitter_s", 0.0, -0.1),
        (ForgetterConfig, "timeout_s", 0.001, 0.0),
        (ForgetterConfig, "age_min_s", 0.0, -0.1),
        (LogKeeperConfig, "idempotency_retention_s", STREAM_MAX_AGE_S, STREAM_MAX_AGE_S - 1),
    ],
)
def test_limits_are_named_where_they_are_broken(
    kind: type[LogKeeperConfig | ForgetterConfig | InquiryConfig],
    field: str,
    good: float,
    bad: float,
) -> None:
    """No question has more than its message takes; nothing outlives its key on the way."""
    assert good == getattr(kind(**{field: good}), field)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"{field}.* (must be|not negative)"):
        kind(**{field: bad})  # type: ignore[arg-type]


def test_a_question_has_as_many_items_as_its_message_takes() -> None:
    """The limit is that of the protos."""
    most = ["t1"] * QUESTION_ITEMS_MAX
    one = pb.InquireRequest(txn_id="t1", branch_id="a")
    for full, more in (
        (pb.FilterEndedRequest(txn_ids=most), pb.FilterEndedRequest(txn_ids=[*most, "t1"])),
        (
            pb.BatchInquireRequest(inquiries=[one] * len(most)),
            pb.BatchInquireRequest(inquiries=[one] * (len(most) + 1)),
        ),
    ):
        assert [] == violations_of(full)
        assert ["repeated.max_items"] == [each.rule for each in violations_of(more)]
