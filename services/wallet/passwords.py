"""Payment passwords: argon2id (RFC 9106), off the event loop, a bounded number at a time."""

from __future__ import annotations

import asyncio
import logging
import operator
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2
from argon2.exceptions import HashingError, VerificationError, VerifyMismatchError
from argon2.low_level import error_to_str

from services.errors import Overloaded
from services.numbers import whole_number
from services.runtime import CannotStart

# One check takes a core and, if nothing else is said, 64 MiB for a tenth of a second: that is its
# purpose, and why only so many may run and wait.
CHECKS_AT_ONCE_MAX = 2
CHECKS_WAITING_MAX = 64

MEMORY_COST = "TALLYSTICK_PASSWORD_MEMORY_KIB"
# Memory and passes of the second choice of RFC 9106, 4: the first one has 2 GiB for each check.
MEMORY_COST_DEFAULT_KIB = 65_536
_TIME_COST = 3
# Of OWASP's minimum configuration in its Password Storage Cheat Sheet, which has 2 passes.
MEMORY_COST_MIN_KIB = 19_456
# A third of a second: with as many as may wait before it the last check is over within half of
# the longest deadline of a call (services.edge.DEADLINE_MAX_S).
MEMORY_COST_MAX_KIB = 131_072
_NO_MEMORY = error_to_str(-22)  # ARGON2_MEMORY_ALLOCATION_ERROR of argon2.h

T = TypeVar("T")

_log = logging.getLogger(__name__)


def memory_cost_kib(variables: Mapping[str, str]) -> int:
    """What the environment says. Raises CannotStart when it is out of bounds."""
    text = variables.get(MEMORY_COST)
    if not text:
        return MEMORY_COST_DEFAULT_KIB
    said = whole_number(text, MEMORY_COST_MAX_KIB)
    if said is None or said < MEMORY_COST_MIN_KIB:
        raise CannotStart(
            f"{MEMORY_COST} is not a number from {MEMORY_COST_MIN_KIB} to {MEMORY_COST_MAX_KIB}"
        )
    return said


class Passwords:
    """Makes hashes of one cost, and checks those of any."""

    def __init__(self, memory_kib: int = MEMORY_COST_DEFAULT_KIB) -> None:
        """A new hash, and each check of it, takes `memory_kib` KiB. Raises CannotStart."""
        self._memory_kib = memory_kib
        # One lane: more would start 48 threads for each hash and be no harder to guess.
        self._hasher = argon2.PasswordHasher(
            time_cost=_TIME_COST, memory_cost=memory_kib, parallelism=1
        )
        try:
            # Checked when there is no such user, so that the answer takes as long as for one,
            # at least for one whose hash is of the same cost.
            self._nobody = self._hasher.hash("there is no such user")
        except HashingError as error:
            raise CannotStart(f"there are no {memory_kib} KiB for a password's hash") from error
        self._threads = ThreadPoolExecutor(CHECKS_AT_ONCE_MAX, thread_name_prefix="password")
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """The hash to keep. Raises Overloaded."""
        return await self._run(lambda: self._hasher.hash(password))

    async def matches(self, kept: str | None, password: str) -> bool:
        """Whether the password belongs to the hash; never for None. Raises Overloaded."""
        against = self._nobody if kept is None else kept
        verified = await self._run(lambda: self._verify(against, password))
        return verified and kept is not None

    def outdated(self, kept: str) -> bool:
        """Whether the hash is easier to guess than those that are made now.

        Not also whether it is harder: where wallets are told different things, while they are
        started again one by one, they would take turns.
        """
        costs = argon2.extract_parameters(kept)
        kept_cost, cost = (costs.memory_cost, costs.time_cost), (self._memory_kib, _TIME_COST)
        return kept_cost != cost and all(map(operator.le, kept_cost, cost))

    @property
    def busy(self) -> bool:
        """Whether anybody is served, or waits."""
        return self._waiting > 0

    def close(self) -> None:
        """Lets the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, kept: str, password: str) -> bool:
        try:
            return self._hasher.verify(kept, password)
        except VerifyMismatchError:
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= CHECKS_WAITING_MAX:
            raise Overloaded("PASSWORD_CHECKS", "too many passwords are being checked: try later")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except (HashingError, VerificationError) as error:
            if str(error) != _NO_MEMORY:
                raise
            # That says nothing of the password.
            _log.warning("there is no memory to check a password")
            raise Overloaded("PASSWORD_CHECKS", "a password cannot be checked now") from error
        finally:
            self._waiting -= 1
