"""Every decoder of ours takes or refuses whatever it is given, and says why in words of its own."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.inputs import inputs
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("balancer", "discovery", "services", "txn")
# Of each; ten times as many in the profile that explores.
EXAMPLES = settings().max_examples * 6 // 10
# What turns somebody else's bytes or text into something: a function that calls one of these
# is a decoder. `decode` and `load` are also what ours are called.
READERS = frozenset(
    {
        "FromString", "IPv6Address", "MergeFromString", "ParseFromString", "Unpack", "decode",
        "from_bytes", "fromisoformat", "fullmatch", "ip_address", "literal_eval", "load", "loads",
        "strptime", "unpack",
    }
)  # fmt: skip
CONVERSIONS = frozenset({"int", "float"})
OURS = "of what this very program wrote or counted"
NO_DECODERS = {
    "balancer/interceptors.py:_Intercepted._call": "of the name of a method that a stub gave",
    "discovery/cli/register.py:_check_welcome": OURS,
    "discovery/etcd3_compat.py:_StubLoader.exec_module": "of the descriptor that the stubs bring",
    "discovery/etcd_client.py:EtcdClient.lease_grant": "of a number in a message that was read",
    "discovery/etcd_client.py:Renewals.renew": "of a number in a message that was read",
    "discovery/registrar.py:Registrar._compare": OURS,
    "discovery/registrar.py:Registrar.register": OURS,
    "services/backup/postgres.py:_run": "of names and values that libpq has read",
    "services/launcher/health.py:check_postgres": OURS,
    "services/launcher/plan.py:_port": OURS,
    "services/launcher/postgres.py:_places": "of the names of directories of the machine",
    "services/launcher/status.py:read": "calls a decoder that is in the list",
    "services/launcher/supervisor.py:_supervise": "calls a decoder that is in the list",
    "services/store.py:own_schema": "of the names of files that are shipped",
    "txn/clock.py:SteadyUtc._passed_us": OURS,
    "txn/forgetter.py:Forgetter.sweep": OURS,
    "txn/log_keeper.py:LogKeeper.sweep": OURS,
    "txn/participant.py:Participant._decoded": "calls a codec: those of ours are in the list",
    "txn/participant_check/subject.py:Subject.read": OURS,
    "txn/participant_check/watched.py:Watched._call": "of what a resource under test returns",
    "txn/participant_check/watched.py:WatchedBatches.prepare_all": (
        "of what a resource under test returns"
    ),
    "txn/prepared.py:PreparedParticipant._decoded": "calls a codec, as Participant._decoded",
    "txn/store/migrate.py:load": "of the names of files that are shipped",
    "txn/store/postgres.py:lock_number": OURS,
    "txn/store/sql_log.py:schema": "of the names of files that are shipped",
    "txn/store/sql_branches.py:schema": "of the names of files that are shipped",
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_what_was_found_once_is_not_found_again(target: Target) -> None:
    """Every seed passes: those that are right, and those that once broke the decoder."""
    for seed in target.seeds:
        target.check(seed)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_input_breaks_a_decoder(target: Target, data: st.DataObject) -> None:
    """It is taken or refused by an error that is named, whose text can be shown."""
    target.check(data.draw(inputs(target)))


def test_every_decoder_is_in_the_list() -> None:
    """The seeds of the targets run each function of ours that reads, but for those named here."""
    reading, run = {*_functions_that_read()}, _functions_run_by_seeds()
    assert set() == reading - run - NO_DECODERS.keys()
    assert set() == NO_DECODERS.keys() - reading, "no such function"
    assert set() == NO_DECODERS.keys() & run, "these are in the list after all"


def _functions_that_read() -> Iterator[str]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for name in _readers(ast.parse(path.read_text(encoding="utf-8")), ()):
                yield f"{path.relative_to(ROOT)}:{name}"


def _readers(node: ast.AST, names: tuple[str, ...], *, within: bool = False) -> Iterator[str]:
    """Functions by their names; what stands within one, or in a class of it, counts as it."""
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        inner = names
        if not within and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = (*names, child.name)
        if within and isinstance(child, ast.Call) and _reads(child):
            yield ".".join(names)
        yield from _readers(child, inner, within=within or is_function)


def _reads(call: ast.Call) -> bool:
    called = getattr(call.func, "attr", None) or getattr(call.func, "id", "")
    return called in READERS or (called in CONVERSIONS and bool(call.args))


def _functions_run_by_seeds() -> set[str]:
    run: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            run.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        for target in TARGETS.values():
            for seed in target.seeds:
                target.check(seed)
    finally:
        sys.setprofile(before)
    return {
        f"{Path(file).relative_to(ROOT)}:{name.partition('.<locals>')[0]}"
        for file, name in run
        if file.startswith(tuple(f"{ROOT / package}/" for package in PACKAGES))
    }
