"""How transactions are written in a terminal."""

from __future__ import annotations

import pytest
from tallystick.txn.v1 import coordinator_service_pb2 as pb

from services.coordinator.shown import audit_lines, explained_lines, transaction_lines


@pytest.mark.parametrize(
    ("age_ms", "shown"),
    [
        (0, "0s"),
        (59_940, "59s"),
        (61_000, "1m01s"),
        (3_599_000, "59m59s"),
        (7_260_000, "2h01m"),
    ],
)
def test_an_age_is_as_exact_as_it_is_of_use(age_ms: int, shown: str) -> None:
    """Seconds, then minutes and seconds, then hours and minutes."""
    transaction = pb.Transaction(txn_id="t1")
    transaction.age.FromMilliseconds(age_ms)
    (_, line) = transaction_lines([transaction])
    assert shown == line.split()[1]


def test_what_nobody_drives_has_no_age() -> None:
    """Nor has it branches to wait for that are known."""
    (_, line) = transaction_lines([pb.Transaction(txn_id="t1")])
    assert ["t1", "-", "UNSPECIFIED", "-", "-", "-", "-"] == line.split()


def test_no_text_of_others_moves_the_cursor() -> None:
    """Keys, reasons and errors are shown, and not obeyed."""
    explained = pb.ExplainTransactionResponse(
        txn_id="t1",
        transaction=pb.Transaction(idempotency_key="k\x1b[2J", reason="\r"),
        entries=[pb.TimelineEntry(detail="a\nb")],
        gaps=["\x07"],
    )
    record = pb.AuditRecord(reason="a\x1b]0;b")
    listed = pb.Transaction(branches=[pb.TransactionBranch(last_error="\x1b" + "x" * 400)])
    lines = [*explained_lines(explained), *audit_lines([record]), *transaction_lines([listed])]
    assert [] == [line for line in lines if not line.isprintable()]


def test_nothing_is_said_to_be_nothing() -> None:
    """An empty list is no empty screen."""
    assert ["nothing"] == [*transaction_lines([])] == [*audit_lines([])]
