import logging

import pytest

from discovery.tasks import spawn
from tests.support.waiting import eventually


async def test_a_defect_is_logged_and_not_silent(caplog: pytest.LogCaptureFixture) -> None:
    """A background task that ends with an exception says so, by name."""

    async def fails() -> None:
        raise KeyError("defect")

    with caplog.at_level(logging.ERROR, "discovery"):
        task = spawn(fails(), "worker")
        await eventually(lambda: task.done() and caplog.messages)

    assert caplog.messages == ["worker failed, which is a defect"]
