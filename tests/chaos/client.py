"""`python -m tests.chaos.client`: some of the bank's clients, in one process that may be killed.

Whoever comes after it finds in its journal what it had asked for and heard no end of, and
asks again under the same keys. Once there is a file named `stop` nothing new is asked for, and
the process ends when everything is answered. (A signal could come before it is listened to.)
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import uvloop

from tests.chaos.history import (
    FINAL,
    Attempt,
    Heard,
    History,
    Kind,
    Read,
    Request,
    asks,
    hears,
    reads,
)
from tests.chaos.money import draw, other_body
from tests.chaos.paying import Payer, stop_file, until_true
from tests.chaos.waiting import until

ATTEMPT_TIMEOUT_S = (2.0, 8.0)
# A password takes a while of a core, and some wait for it.
WALLET_TIMEOUT_S = (8.0, 20.0)
AGAIN_FIRST_S, AGAIN_MAX_S = 0.05, 1.0
# Of each process.
WALLET_CLIENTS = 1
AGAIN_SHARE, CLASH_SHARE, READ_SHARE, RIVAL_SHARE = 0.05, 0.1, 0.1, 0.05


class Journal:
    """The file that outlives its writers. A line is there once `write` returns."""

    def __init__(self, path: Path, history: History) -> None:
        """What is there already, and all that is written, goes into `history`."""
        self.history = history
        if path.exists():
            for line in filter(None, path.read_text().splitlines()):
                self.history.add(line)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        # Ends a line that a kill may have torn.
        self._write("\n")

    def attempt(self, request: Request, *, clash: bool = False) -> Attempt:
        """Writes that something is about to be asked."""
        number = len(self.history.attempts.get(request.key, ()))
        attempt = Attempt(number, request, time.monotonic(), clash)
        self._add(asks(attempt))
        return attempt

    def heard(self, attempt: Attempt) -> None:
        """Writes what came of it."""
        attempt.heard_s = time.monotonic()
        self._add(hears(attempt))

    def read(self, read: Read) -> None:
        """Writes what was seen."""
        self._add(reads(read))

    def _add(self, line: str) -> None:
        self.history.add(line)
        self._write(line)

    def _write(self, line: str) -> None:
        os.write(self._file, line.encode())


class Clients:
    """The clients of this process, who share its connections and its journal."""

    def __init__(self, name: str, payer: Payer, journal: Journal, options: argparse.Namespace):
        self._name = name
        self._payer = payer
        self._journal = journal
        self._seed: int = options.seed
        self._think_s: float = options.think_s
        self.stopping = asyncio.Event()

    async def run(self, count: int) -> None:
        """Returns when nothing is open after `stopping` is set."""
        open_keys: dict[int, list[Request]] = {number: [] for number in range(count)}
        for key in self._journal.history.open_keys():
            open_keys[_client_of(key)].append(self._journal.history.requests[key])
        async with asyncio.TaskGroup() as all_of_them:
            for number, left in open_keys.items():
                all_of_them.create_task(self._client(number, left))

    async def _client(self, number: int, left: list[Request]) -> None:
        for request in left:
            await self._settle(request, random.Random(f"{self._seed} again {request.key}"))
        prefix = f"{self._name}.{number}."
        mine = [key for key in self._journal.history.requests if key.startswith(prefix)]
        sequence = max((int(key.split(".")[2]) for key in mine), default=0)
        while not self.stopping.is_set():
            sequence += 1
            key = f"{prefix}{sequence}"
            rng = random.Random(f"{self._seed} {key}")
            await self._pay(draw(rng, key, wallet=number < WALLET_CLIENTS), rng)
            await until_true(self.stopping, rng.uniform(0, 2 * self._think_s))

    async def _pay(self, request: Request, rng: random.Random) -> None:
        if request.kind not in (Kind.WALLET, Kind.PAYMENT):
            return await self._settle(request, rng)
        while (trade_no := await self._payer.trade(request)) is None:
            if await until_true(self.stopping, AGAIN_MAX_S * rng.random()):
                return None
        request = replace(request, trade_no=trade_no)
        payers = [self._settle(request, rng)]
        if rng.random() < RIVAL_SHARE:
            rival = replace(request, key=f"{request.key}.r", kind=Kind.PAYMENT, user_id="")
            payers.append(self._settle(rival, rng))
        await asyncio.gather(*payers)
        return None

    async def _settle(self, request: Request, rng: random.Random) -> None:
        """Asks until the answer is final, and then, sometimes, some more."""
        again_s = AGAIN_FIRST_S
        while (heard := await self._ask(request, rng)) not in FINAL:
            await asyncio.sleep(rng.uniform(0, again_s))
            again_s = min(2 * again_s, AGAIN_MAX_S)
        if rng.random() < AGAIN_SHARE:
            await self._ask(request, rng)
        if rng.random() < CLASH_SHARE and request.kind is not Kind.WALLET:
            await self._ask(other_body(request), rng, clash=True)
        if rng.random() < READ_SHARE and request.trade_no and heard is Heard.COMMITTED:
            state = await self._payer.state_of(request.trade_no)
            if state is not None:
                self._journal.read(Read(request.key, request.trade_no, state))

    async def _ask(self, request: Request, rng: random.Random, *, clash: bool = False) -> Heard:
        attempt = self._journal.attempt(request, clash=clash)
        bounds_s = WALLET_TIMEOUT_S if request.kind is Kind.WALLET else ATTEMPT_TIMEOUT_S
        answer = await self._payer.ask(request, rng.uniform(*bounds_s))
        attempt.heard, attempt.txn_id, attempt.why = answer
        self._journal.heard(attempt)
        return attempt.heard


def _client_of(key: str) -> int:
    return int(key.split(".")[1])


async def _main(options: argparse.Namespace) -> None:
    journal = Journal(options.journal, History())
    payer = Payer(options.home, options.etcd)
    clients = Clients(f"client-{options.number}", payer, journal, options)
    looking = asyncio.ensure_future(_look_for_the_end(options.home, clients))
    await clients.run(options.clients)
    looking.cancel()
    await payer.close()


async def _look_for_the_end(home: Path, clients: Clients) -> None:
    await until(stop_file(home).exists)
    clients.stopping.set()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.client", description=__doc__)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--etcd", required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--think-s", type=float, required=True, help="between two payments")
    return parser


if __name__ == "__main__":
    uvloop.run(_main(_parser().parse_args()))
