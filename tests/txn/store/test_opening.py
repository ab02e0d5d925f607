"""What becomes of a process whose store is in doubt."""

from __future__ import annotations

import logging
import os

import pytest

from txn.store.opening import EXIT_STORE_IN_DOUBT, die_in_doubt


class Ended(BaseException):
    """The process would have ended here."""


def test_a_process_in_doubt_ends_at_once_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No cleaning up, which might answer somebody; the code is one that a supervisor knows."""

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended) as ended:
        die_in_doubt(OSError("EIO"))
    assert (EXIT_STORE_IN_DOUBT,) == ended.value.args
    (record,) = caplog.records
    assert logging.CRITICAL == record.levelno
    assert "EIO" in record.getMessage()
