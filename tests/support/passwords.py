"""What wallets are told by tests: to check a password should not be all that a machine does."""

from __future__ import annotations

from services.wallet.passwords import MEMORY_COST, MEMORY_COST_MIN_KIB

CHEAP_PASSWORDS = {MEMORY_COST: f"{MEMORY_COST_MIN_KIB}"}
