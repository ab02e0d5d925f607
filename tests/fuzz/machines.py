"""What the state machines share: coroutines one step at a time, and how much is tried."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine

T = TypeVar("T")

STEPS = 25
MEMORY = Path("/dev/shm")


def tried(examples: int) -> settings:
    """So many histories in the tests, and ten times as many where hypothesis explores."""
    return settings(
        max_examples=settings().max_examples * examples // 100,
        stateful_step_count=STEPS,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


class AsyncMachine(RuleBasedStateMachine):
    """A machine with a loop and a directory of its own."""

    def __init__(self) -> None:
        super().__init__()
        # A factory, so that the loop of the other tests stays the current one.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._stack = AsyncExitStack()
        # In memory where there is such: what is tried is not the disk.
        self._directory = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)

    @property
    def directory(self) -> Path:
        """Gone after the last step."""
        return Path(self._directory.name)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` to its end."""
        return self._runner.run(work)

    def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enters `context`; it is left after the last step."""
        return self.run(self._stack.enter_async_context(context))

    def leave(self) -> None:
        """Leaves what was entered."""
        self.run(self._stack.aclose())

    def teardown(self) -> None:
        """Ends everything that the machine has opened."""
        try:
            self.leave()
        finally:
            self._runner.close()
            self._directory.cleanup()
