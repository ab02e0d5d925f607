"""Takes over from coordinators of the same log that are gone; whom, says suspicion.py.

While the registry is away nobody takes over from anybody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from services.coordinator.suspicion import Suspicion
from txn.clock import Clock
from txn.coordinator import Coordinator
from txn.decision_log import Standing
from txn.errors import TxnError

# Between two looks at the others, unless the registry has news; and when somebody was silent.
LOOK_S = 0.5
LOOK_AGAIN_S = 0.25
# How often in a row who is not registered has to be silent.
SILENCES = 2

_log = logging.getLogger(__name__)


class Succession:
    """See the module's docstring. Belongs to one event loop."""

    def __init__(
        self,
        coordinator: Coordinator,
        lives: Callable[[str], Awaitable[bool]],
        *,
        clock: Clock,
        grace_s: float,
    ) -> None:
        """`lives(address)` asks who is there, and raises nothing; `grace_s` as for Suspicion."""
        self._coordinator = coordinator
        self._lives = lives
        self._clock = clock
        self._suspicion = Suspicion(grace_s=grace_s, silences=SILENCES)
        # What was registered when the epochs were looked at.
        self._looked_at: Mapping[str, str] | None = None

    @property
    def wait_s(self) -> float:
        """Until the next look, unless there is news before."""
        return LOOK_AGAIN_S if self._suspicion.any_silent else LOOK_S

    async def look(self, registered: Mapping[str, str] | None) -> int:
        """One look: from how many epochs was taken over.

        `registered` are addresses and when who is there was started; None while the registry
        does not answer.
        """
        if registered is not None and registered != self._looked_at:
            try:
                await self._coordinator.look()
            except TxnError as error:
                _log.warning("the epochs are not known: %r", error)
                return 0
            self._looked_at = registered
        suspects = self._suspicion.suspects(
            self._clock.monotonic(), self._coordinator.others(), registered
        )
        over = 0
        for suspect in await self._silent(suspects):
            try:
                count = await self._coordinator.take_over(suspect.epoch)
            except TxnError as error:
                _log.warning("not taken over from %s: %r", suspect.instance, error)
            else:
                over += count is not None
        return over

    async def _silent(self, suspects: Sequence[Standing]) -> list[Standing]:
        heard = await asyncio.gather(*(self._lives(each.instance) for each in suspects))
        return [
            suspect
            for suspect, answers in zip(suspects, heard, strict=True)
            if self._suspicion.heard(suspect, answers=answers)
        ]
