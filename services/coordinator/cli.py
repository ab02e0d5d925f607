"""`python -m services.coordinator list|explain|resolve`: what operators ask, and force.

Exit codes: 0 done; 1 refused, or not there; 2 the command line makes no sense, or nobody said
yes; 3 no answer: nothing is known.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from tallystick.txn.v1 import coordinator_service_pb2 as pb
from tallystick.txn.v1 import coordinator_service_pb2_grpc

import balancer
from discovery import EtcdClient, EtcdResolver, EtcdResolverConfig
from discovery.cli.text import printable
from discovery.etcd_config import config_from
from services.connections import CHANNEL_CONFIG
from services.coordinator.shown import audit_lines, explained_lines, transaction_lines
from txn.rpc import reason_of

COMMANDS: Final = ("list", "explain", "resolve")
DEFAULT_ADDRESS: Final = "127.0.0.1:50091"
TIMEOUT_S: Final = 10.0
ROWS_SHOWN_MAX: Final = 1_000
DONE, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3

Stub: TypeAlias = "coordinator_service_pb2_grpc.CoordinatorServiceAsyncStub"
# The lines to show, and what JSON shows instead.
Shown: TypeAlias = tuple[Sequence[str], Message]
_RESOLUTIONS = {
    "commit": pb.RESOLUTION_COMMIT,
    "abort": pb.RESOLUTION_ABORT,
    "ended": pb.RESOLUTION_ENDED,
}
# With which a coordinator turns everybody away, before it does anything.
_NOTHING_DONE = "SHUTTING_DOWN"
_UNANSWERED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def main(argv: Sequence[str]) -> int:
    """Runs one command; returns its exit code."""
    # gRPC's core writes lines of its own to stderr.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    options = parser().parse_args(argv)
    try:
        return asyncio.run(_run(options))
    except grpc.aio.AioRpcError as error:
        return _failed(error)
    except ValueError as error:
        sys.stderr.write(f"{printable(str(error))}\n")
        return USAGE


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="python -m services.coordinator", allow_abbrev=False)
    commands = root.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--json", action="store_true", help="JSON, with the names of the protos")
    common.add_argument("--address", help=f"the coordinator; without --etcd {DEFAULT_ADDRESS}")
    common.add_argument(
        "--etcd",
        default=os.environ.get("TALLYSTICK_ETCD", ""),
        help="HOST:PORT[,HOST:PORT...] of the registry that knows it",
    )
    common.add_argument("--timeout", type=float, default=TIMEOUT_S, help="seconds for one answer")

    listing = commands.add_parser("list", parents=[common], help="what is not over, and why")
    listing.add_argument("--all", action="store_true", help="what is over too")
    listing.add_argument("--audit", action="store_true", help="what operators have forced instead")
    listing.add_argument("--limit", type=int, default=100, help="rows of a page")
    listing.add_argument("--after", default="", help="what the page before says that comes next")

    explaining = commands.add_parser("explain", parents=[common], help="what became of one")
    named = explaining.add_mutually_exclusive_group(required=True)
    named.add_argument("txn_id", nargs="?", metavar="TXN_ID")
    named.add_argument("--key", help="the idempotency key that it was asked for with")

    forcing = commands.add_parser("resolve", parents=[common], help="decide one by force")
    forcing.add_argument("txn_id", metavar="TXN_ID")
    forcing.add_argument("--outcome", required=True, choices=sorted(_RESOLUTIONS))
    forcing.add_argument("--operator", default=_user(), help="who does so; by default %(default)s")
    forcing.add_argument("--reason", required=True, help="and why: it is kept for ever")
    forcing.add_argument("--yes", action="store_true", help="do not ask")
    return root


def _user() -> str:
    with contextlib.suppress(KeyError, OSError):
        return getpass.getuser()
    return ""


async def _run(options: argparse.Namespace) -> int:
    command: Callable[[Stub, argparse.Namespace], Awaitable[Shown | None]] = {
        "list": _list_audit if "audit" in options and options.audit else _list,
        "explain": _explain,
        "resolve": _resolve,
    }[options.command]
    async with _coordinator(options) as stub:
        shown = await command(stub, options)
    if shown is None:
        return USAGE
    lines, message = shown
    if options.json:
        as_dict = MessageToDict(message, preserving_proto_field_name=True)
        lines = [json.dumps(as_dict, indent=2, ensure_ascii=True)]
    for line in lines:
        print(line)  # noqa: T201 - a command
    return DONE


@asynccontextmanager
async def _coordinator(options: argparse.Namespace) -> AsyncIterator[Stub]:
    """A stub to the coordinator: at its address, or as the registry knows it."""
    if options.address or not options.etcd:
        async with grpc.aio.insecure_channel(options.address or DEFAULT_ADDRESS) as channel:
            yield coordinator_service_pb2_grpc.CoordinatorServiceStub(channel)
        return
    async with contextlib.AsyncExitStack() as stack:
        client = EtcdClient(options.etcd.split(","), config=config_from(os.environ))
        stack.push_async_callback(client.close)
        resolver = EtcdResolver(client, config=EtcdResolverConfig(accept_loopback=True))
        stack.push_async_callback(resolver.close)
        balanced = balancer.channel("coordinator", resolver=resolver, config=CHANNEL_CONFIG)
        stack.push_async_callback(balanced.close)
        yield coordinator_service_pb2_grpc.CoordinatorServiceStub(balanced)


async def _list(stub: Stub, options: argparse.Namespace) -> Shown:
    request = pb.ListTransactionsRequest(
        page_size=_rows(options), page_token=options.after, unfinished_only=not options.all
    )
    response = await stub.ListTransactions(request, timeout=options.timeout)
    lines = transaction_lines(response.transactions, every_branch=options.all)
    return [*lines, *_more(response.next_page_token)], response


async def _list_audit(stub: Stub, options: argparse.Namespace) -> Shown:
    request = pb.ListAuditRecordsRequest(page_size=_rows(options), page_token=options.after)
    response = await stub.ListAuditRecords(request, timeout=options.timeout)
    return [*audit_lines(response.records), *_more(response.next_page_token)], response


def _rows(options: argparse.Namespace) -> int:
    if not 1 <= options.limit <= ROWS_SHOWN_MAX:
        raise ValueError(f"--limit must be 1 to {ROWS_SHOWN_MAX}")
    limit: int = options.limit
    return limit


def _more(token: str) -> Sequence[str]:
    return [f"more: --after {token}"] if token else []


async def _explain(stub: Stub, options: argparse.Namespace) -> Shown:
    request = pb.ExplainTransactionRequest(txn_id=options.txn_id or "")
    if options.key is not None:
        request = pb.ExplainTransactionRequest(idempotency_key=options.key)
    response = await stub.ExplainTransaction(request, timeout=options.timeout)
    return explained_lines(response), response


async def _resolve(stub: Stub, options: argparse.Namespace) -> Shown | None:
    if not options.yes and not await _agreed(stub, options):
        return None
    request = pb.ResolveTransactionRequest(
        txn_id=options.txn_id,
        resolution=_RESOLUTIONS[options.outcome],
        operator=options.operator,
        reason=options.reason,
    )
    try:
        response = await stub.ResolveTransaction(request, timeout=options.timeout)
    except grpc.aio.AioRpcError as error:
        if error.code() in _UNANSWERED and reason_of(error) != _NOTHING_DONE:
            sys.stderr.write("no answer: it may be done all the same, see explain\n")
        raise
    return audit_lines([response.record]), response


async def _agreed(stub: Stub, options: argparse.Namespace) -> bool:
    """Shows what is known of it first; whoever does not say yes has changed nothing."""
    shown, _ = await _explain(stub, argparse.Namespace(**{**vars(options), "key": None}))
    meant = f"{options.outcome.upper()} as {options.operator}"
    question = f"Force {meant}? It cannot be undone. [yes/no]"
    for line in (*shown, "", printable(question)):
        sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
    answer = await asyncio.to_thread(sys.stdin.readline)
    if answer.strip() == "yes":
        return True
    sys.stderr.write("nothing was changed\n")
    return False


def _failed(error: grpc.aio.AioRpcError) -> int:
    code, reason = error.code(), reason_of(error)
    says = f"{reason or code.name}: {error.details() or ''}"
    sys.stderr.write(f"{printable(says)}\n")
    if code in _UNANSWERED:
        return UNREACHABLE
    return FAILED
