"""Payment passwords: argon2id (RFC 9106), off the event loop, a bounded number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2
from argon2.exceptions import VerificationError

from services.errors import Overloaded
from services.numbers import whole_number
from services.runtime import CannotStart

# One check takes a core and 64 MiB for a tenth of a second: that is its purpose, and
# why only so many may run and wait.
CHECKS_AT_ONCE_MAX = 2
CHECKS_WAITING_MAX = 64

MEMORY = "TALLYSTICK_PASSWORD_MEMORY_KIB"
# Of RFC 9106, 4, the second choice: for machines that have not got 2 GiB for each check.
MEMORY_USUAL_KIB = 65_536
# The least that OWASP's Password Storage Cheat Sheet has, there with 2 passes.
MEMORY_MIN_KIB = 19_456
MEMORY_MAX_KIB = 2_097_152
_PASSES = 3

T = TypeVar("T")


def password_memory_kib(variables: Mapping[str, str]) -> int:
    """What the environment says. Raises CannotStart when it is out of bounds."""
    text = variables.get(MEMORY)
    memory_kib = whole_number(text, MEMORY_MAX_KIB) if text else MEMORY_USUAL_KIB
    if memory_kib is None or memory_kib < MEMORY_MIN_KIB:
        raise CannotStart(f"{MEMORY} is not a number from {MEMORY_MIN_KIB} to {MEMORY_MAX_KIB}")
    return memory_kib


class Passwords:
    """Makes hashes of one cost, and checks those of any."""

    def __init__(self, memory_kib: int = MEMORY_USUAL_KIB) -> None:
        """A new hash, and each check of it, takes `memory_kib` KiB, and time in proportion."""
        # One lane: more would start 48 threads for each hash and be no harder to guess.
        self._hasher = argon2.PasswordHasher(
            time_cost=_PASSES, memory_cost=memory_kib, parallelism=1
        )
        self._threads = ThreadPoolExecutor(CHECKS_AT_ONCE_MAX, thread_name_prefix="password")
        self._waiting = 0
        # Checked when there is no such user, so that the answer takes as long as for one.
        self._nobody = self._hasher.hash("there is no such user")

    async def hash(self, password: str) -> str:
        """The hash to keep. Raises Overloaded."""
        return await self._run(lambda: self._hasher.hash(password))

    async def matches(self, kept: str | None, password: str) -> bool:
        """Whether the password belongs to the hash; never for None. Raises Overloaded."""
        against = self._nobody if kept is None else kept
        verified = await self._run(lambda: self._verify(against, password))
        return verified and kept is not None

    def close(self) -> None:
        """Lets the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, kept: str, password: str) -> bool:
        try:
            return self._hasher.verify(kept, password)
        except VerificationError:
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= CHECKS_WAITING_MAX:
            raise Overloaded("PASSWORD_CHECKS", "too many passwords are being checked: try later")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1
