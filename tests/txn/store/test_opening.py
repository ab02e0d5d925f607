"""What becomes of a process whose store is in doubt."""

from __future__ import annotations

import logging
import os

import pytest

from txn.errors import Fenced
from txn.store.opening import EXIT_FENCED, EXIT_STORE_IN_DOUBT, die_in_doubt


class Ended(BaseException):
    """The process would have ended here."""


@pytest.mark.parametrize(
    ("error", "code"),
    [(OSError("EIO"), EXIT_STORE_IN_DOUBT), (Fenced("epoch 7 is over"), EXIT_FENCED)],
    ids=["in-doubt", "fenced"],
)
def test_a_process_that_may_not_go_on_ends_at_once_and_says_why(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No cleaning up, which might answer somebody; the code is one that a supervisor knows."""

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended) as ended:
        die_in_doubt(error)
    assert (code,) == ended.value.args
    (record,) = caplog.records
    assert logging.CRITICAL == record.levelno
    assert str(error) in record.getMessage()
