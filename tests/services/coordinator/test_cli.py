"""The operator's commands against a coordinator on a port: lines, JSON, questions, exit codes."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import grpc
import grpc.aio
import pytest
from tallystick.txn.v1 import coordinator_service_pb2_grpc

from services.coordinator import cli
from services.coordinator.cli import DONE, FAILED, UNREACHABLE, USAGE
from tests.support.ports import free_port
from tests.support.waiting import eventually
from tests.txn.helpers import (
    TWO,
    WAIT_S,
    Gate,
    ManualClock,
    ScriptedTransport,
    coordinator,
    start,
)
from txn.coordinator import Coordinator
from txn.errors import UnknownBranch
from txn.rpc import CoordinatorServicer
from txn.rpc.coordinator import ANONYMOUS_CALLER
from txn.testing import MemoryDecisionLog, MemoryStore

SIGNED = ("--operator", "ann", "--reason", "its host is gone")


class Said(NamedTuple):
    """What a command wrote, and how it ended."""

    code: int
    out: str
    err: str


class Operator:
    """Someone at a terminal."""

    def __init__(
        self,
        engine: Coordinator,
        transport: ScriptedTransport,
        address: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.engine, self.transport, self.address = engine, transport, address
        self._capsys, self._monkeypatch = capsys, monkeypatch

    async def types(self, *arguments: str, answer: str = "") -> Said:
        """Runs a command."""
        self._monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        argv = [*arguments, "--address", self.address]
        code = await asyncio.to_thread(cli.main, argv)
        return Said(code, *self._capsys.readouterr())

    async def sees(self, *arguments: str) -> dict[str, object]:
        """What a command says in JSON."""
        said = await self.types(*arguments, "--json")
        assert said.code == DONE, said.err
        found: dict[str, object] = json.loads(said.out)
        return found

    def begins(self, key: str = "k") -> asyncio.Task[object]:
        """A transaction over two."""
        return asyncio.ensure_future(
            self.engine.execute(
                caller=ANONYMOUS_CALLER, idempotency_key=key, branches=TWO, wait_s=WAIT_S
            )
        )


@pytest.fixture
async def operator(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Operator]:
    """An operator, and an engine that serves."""
    transport = ScriptedTransport()
    log = MemoryDecisionLog(MemoryStore())
    # Nothing is tried again, and nothing grows old.
    engine = coordinator(transport, log, clock=ManualClock())
    await start(engine)
    async with _serving(engine) as address:
        yield Operator(engine, transport, address, capsys, monkeypatch)
    await engine.close(grace_s=0)


@asynccontextmanager
async def _serving(engine: Coordinator) -> AsyncIterator[str]:
    server = grpc.aio.server()
    coordinator_service_pb2_grpc.add_CoordinatorServiceServicer_to_server(
        CoordinatorServicer(engine), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_list_shows_whom_a_transaction_waits_for(operator: Operator) -> None:
    """One line for each branch that is not acknowledged, with what came instead of that."""
    operator.transport.always["commit", "ledger"] = UnknownBranch("never heard of it")
    operator.begins()
    await eventually(lambda: operator.transport.count("commit", "order") == 1)
    await eventually(lambda: any(each.alarmed() for each in operator.engine._active.values()))
    said = await operator.types("list")
    heading, line = said.out.splitlines()
    assert heading.split()[:3] == ["TXN_ID", "AGE", "STATE"]
    name, age, *rest = line.split()
    assert (DONE, "t1.1") == (said.code, name)
    assert ["COMMITTING", "ledger", "COMMIT", "1", "ALARM", "UnknownBranch"] == rest
    assert "0s" == age


async def test_list_shows_what_is_over_when_asked(operator: Operator) -> None:
    """Without --all it is not among what is stuck, and there is nothing else."""
    await operator.begins()
    await operator.begins("k2")
    # An end rides with the next force.
    assert "t1.1" not in (await operator.types("list")).out
    said = await operator.types("list", "--all", "--limit", "1")
    assert ["t1.1", "t1.1", "more:"] == [line.split()[0] for line in said.out.splitlines()[1:]]
    said = await operator.types("list", "--all", "--limit", "9", "--after", "t2.1")
    assert said.out == "nothing\n"


async def test_explain_by_id_and_by_key(operator: Operator) -> None:
    """What stands, then the timeline."""
    await operator.begins()
    # An end rides with the next force.
    await operator.begins("k2")
    said = await operator.types("explain", "t1.1")
    assert DONE == said.code
    lines = said.out.splitlines()
    assert ["transaction  t1.1", "key          k", "state        COMMITTED"] == lines[:3]
    assert "outcome      COMMITTED" == lines[3]
    assert "BEGUN" in lines[6]
    assert said.out == (await operator.types("explain", "--key", "k")).out
    assert "t1.1" == (await operator.sees("explain", "t1.1"))["txn_id"]


async def test_what_is_not_known_is_said(operator: Operator) -> None:
    """A record without a row; and what never was."""
    assert (FAILED, "NOT_FOUND: nothing is known of t9\n") == (
        (said := await operator.types("explain", "t9")).code,
        said.err,
    )
    await operator.types("resolve", "t9", "--outcome", "abort", "--yes", *SIGNED)
    operator.engine._decisions._store.backend.durable["decision"].clear()  # type: ignore[attr-defined]
    said = await operator.types("explain", "t9")
    assert "not known: the log has no outcome of it, or not any more" in said.out
    assert "NONE -> ABORTED_ENDED by ann: its host is gone" in said.out


@pytest.mark.parametrize("answer", ["no\n", "y\n", "", "YES\n"])
async def test_nothing_is_forced_without_a_yes(answer: str, operator: Operator) -> None:
    """Whoever says anything else, or nothing, has changed nothing; what is known was shown."""
    gate = operator.transport.always["prepare", "ledger"] = Gate()
    operator.begins()
    await eventually(gate.reached.is_set)
    said = await operator.types("resolve", "t1.1", "--outcome", "abort", *SIGNED, answer=answer)
    assert (USAGE, "") == (said.code, said.out)
    assert "PREPARE_SENT" in said.err
    assert said.err.endswith(
        "Force ABORT as ann? It cannot be undone. [yes/no]\nnothing was changed\n"
    )
    assert {} == await operator.sees("list", "--audit")


async def test_a_yes_forces_and_is_listed(operator: Operator) -> None:
    """The record is shown, and is in the list of them from then on."""
    gate = operator.transport.always["prepare", "ledger"] = Gate()
    operator.begins()
    await eventually(gate.reached.is_set)
    said = await operator.types("resolve", "t1.1", "--outcome", "abort", *SIGNED, answer="yes\n")
    assert DONE == said.code
    shown = said.out.splitlines()[1].split("  ")
    assert {"t1.1", "NONE", "ABORTED_ENDED", "ann", "its host is gone"} <= {
        each.strip() for each in shown
    }
    assert said.out == (await operator.types("list", "--audit")).out
    said = await operator.types("resolve", "t1.1", "--outcome", "ended", "--yes", *SIGNED)
    assert (FAILED, "") == (said.code, said.out)
    assert said.err.startswith("FORCE_REFUSED: it stands as ABORTED_ENDED")


async def test_there_is_a_reason_and_a_name(operator: Operator) -> None:
    """Neither the command line nor the coordinator takes a force without."""
    with pytest.raises(SystemExit) as usage:
        cli.parser().parse_args(["resolve", "t1.1", "--outcome", "abort"])
    assert USAGE == usage.value.code
    said = await operator.types(
        "resolve", "t1.1", "--outcome", "abort", "--yes", "--reason", " ", "--operator", "ann"
    )
    assert (FAILED, True) == (said.code, "reason: must have 1 to 500" in said.err)


async def test_a_page_has_a_limit(operator: Operator) -> None:
    """One that is too large is a mistake of the command line."""
    for limit in ("0", "1001"):
        said = await operator.types("list", "--limit", limit)
        assert (USAGE, "--limit must be 1 to 1000\n") == (said.code, said.err)


@pytest.mark.parametrize(
    ("command", "open_still"),
    [
        (["list"], False),
        (["explain", "t1.1"], False),
        (["resolve", "t1.1", "--outcome", "abort", "--reason", "why"], False),
        (["resolve", "t1.1", "--outcome", "abort", "--reason", "why", "--yes"], True),
    ],
    ids=["list", "explain", "not-yet-forced", "forced"],
)
async def test_nobody_answers(
    command: list[str], open_still: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether something was forced is not known then, and that is said; the others do nothing."""
    address = f"127.0.0.1:{free_port()}"
    typed = [*command, "--address", address, "--timeout", "5"]
    assert UNREACHABLE == await asyncio.to_thread(cli.main, typed)
    said = capsys.readouterr().err
    assert "UNAVAILABLE" in said
    assert open_still is ("no answer: it may be done all the same" in said)
