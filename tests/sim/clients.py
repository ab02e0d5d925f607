"""Clients: they ask, ask again with the same key, go away, come back, and look keys up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

from tests.sim.books import operation
from tests.sim.door import Door
from tests.sim.loop import SimLoop
from tests.sim.network import Network
from tests.sim.oracle import Oracle
from tests.sim.plan import Wish
from txn.coordinator import Coordinator
from txn.errors import (
    IdempotencyConflict,
    InvalidOperation,
    NotFound,
    TxnError,
    UnknownParticipant,
    Unreachable,
)
from txn.model import Branch, BranchId
from txn.state import Outcome
from txn.transaction import Request, Result, View

# What the way takes, beyond the time that the coordinator may wait.
WAY_S = 0.3
_FINAL_ERRORS = (IdempotencyConflict, InvalidOperation, UnknownParticipant)


class Client:
    """One wish, and what comes of it."""

    def __init__(
        self,
        wish: Wish,
        coordinators: Sequence[str],
        *,
        loop: SimLoop,
        network: Network,
        oracle: Oracle,
    ) -> None:
        self.wish = wish
        self._coordinators = coordinators
        self._loop = loop
        self._network = network
        self._oracle = oracle
        self._rng = Random(f"client/{wish}")
        # What it has come to: an outcome, or the error that says there will be none.
        self.outcome: Outcome | TxnError | None = None

    async def run(self) -> None:
        """Asks until it knows, and some more times, or until its patience is over."""
        wish = self.wish
        await asyncio.sleep(max(0.0, wish.at_s - self._loop.now_s))
        until_s = self._loop.now_s + wish.patience_s
        again, attempt = wish.asks_again, 0
        while self._loop.now_s < until_s:
            attempt += 1
            await self._ask(until_s)
            if isinstance(self.outcome, TxnError):
                return
            if self.outcome is not None:
                again -= 1
                if again < 0:
                    return
            await asyncio.sleep(self._rng.uniform(0, min(1.0, 0.05 * 2**attempt)))
            if self._rng.random() < 0.2:
                await self._look_up()

    async def _ask(self, until_s: float) -> None:
        wish = self.wish
        timeout_s = min(wish.wait_s + WAY_S, until_s - self._loop.now_s)
        try:
            result = await self._network.call(
                wish.client,
                self._coordinator(),
                self._execute,
                timeout_s,
                what=wish,
                left=lambda result: self._oracle.reporting(wish, result),
            )
        except _FINAL_ERRORS as error:
            self._oracle.refused(error)
            self.outcome = error
        except TxnError as error:
            self._oracle.refused(error)
        else:
            self._oracle.hears(wish, result)
            if result.outcome is not Outcome.PENDING:
                self.outcome = result.outcome

    def _coordinator(self) -> str:
        """Any of them, each time: as the balancer has it."""
        return self._rng.choice(self._coordinators)

    async def _execute(self, host: Any) -> Result:
        engine: Coordinator | None = host.engine
        if engine is None:
            raise Unreachable("STARTING")
        wish = self.wish
        branches = [
            Branch(BranchId(part.branch_id), part.participant, operation(part.step))
            for part in wish.parts
        ]
        request = Request(wish.caller, wish.key, branches, wish.for_applied)
        if wish.in_batch:
            door: Door = host.door
            return await door.execute(request, wish.wait_s)
        return await engine.execute(
            caller=wish.caller,
            idempotency_key=wish.key,
            branches=branches,
            wait_s=wish.wait_s,
            wait_for_applied=wish.for_applied,
        )

    async def _look_up(self) -> None:
        wish = self.wish

        async def serve(host: Any) -> View | None:
            engine: Coordinator | None = host.engine
            if engine is None:
                raise Unreachable("STARTING")
            try:
                if by_txn_id is not None:
                    return await engine.get(by_txn_id)
                return await engine.get_by_key(wish.caller, wish.key)
            except NotFound:
                return None

        # Only what was heard before the question was asked binds the answer.
        heard = self._oracle.heard.get(wish.name)
        by_txn_id = heard[0].txn_id if heard is not None and self._rng.random() < 0.5 else None
        try:
            view = await self._network.call(
                wish.client, self._coordinator(), serve, WAY_S, what="get"
            )
        except TxnError:
            return
        if heard is not None:
            self._oracle.sees(wish.name, view)
