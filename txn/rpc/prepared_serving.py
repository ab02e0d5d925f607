"""Runs a participant whose branches are prepared by PostgreSQL, on a server of yours.

In a module of its own, since it needs the extra `tallystick[postgres]` where the others do not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from txn.clock import SystemClock
from txn.crash_point import CrashPoint, no_crash
from txn.forgetter import ForgetterConfig
from txn.inquirer import InquiryConfig
from txn.prepared import PreparedParticipant, PreparedResource
from txn.rpc.operation import OperationCodec
from txn.rpc.serving import serving
from txn.store.opening import schema_of
from txn.store.postgres_prepared import PREPARING_CONNECTIONS_MAX, open_prepared_store

M = TypeVar("M", bound=Message)


class ServedPreparedResource(PreparedResource[M], Protocol[M]):
    """A PreparedResource that says what its operations and its tables are."""

    @property
    def operation(self) -> type[M]:
        """The type of its operations."""

    @property
    def schema(self) -> Sequence[str]:
        """Its tables, as SQL scripts, see serve_participant; empty if they are made elsewhere."""


@asynccontextmanager
async def serve_prepared_participant(
    server: grpc.aio.Server,
    name: str,
    resource: ServedPreparedResource[M],
    *,
    dsn: str,
    coordinators: Mapping[str, grpc.aio.Channel],
    connections: int = PREPARING_CONNECTIONS_MAX,
    inquiry: InquiryConfig | None = None,
    forgetting: ForgetterConfig | None = None,
    crash_point: CrashPoint = no_crash,
) -> AsyncIterator[PreparedParticipant[M]]:
    """Serves `resource` inside the block, and yields its participant; as `serve_participant`.

    The barrier, and the tables of the resource, are in the schema `name` of the database that
    `dsn` names; statements find what is in `public`, too. `connections` is how many branches run
    at once. Several processes may serve one schema. Raises what `open_prepared_store` raises.
    """
    async with AsyncExitStack() as stack:
        clock = SystemClock()
        own = schema_of(name, resource.schema) if resource.schema else {}
        store = open_prepared_store(dsn, name, own, clock, connections=connections)
        stack.push_async_callback(store.close)
        participant = PreparedParticipant(
            store=store,
            resource=resource,
            codec=OperationCodec(resource.operation),
            coordinators=frozenset(coordinators),
            clock=clock,
            crash_point=crash_point,
        )
        stack.push_async_callback(participant.close)
        await stack.enter_async_context(
            serving(
                server,
                participant,
                coordinators=coordinators,
                clock=clock,
                inquiry=inquiry,
                forgetting=forgetting,
                crash_point=crash_point,
            )
        )
        yield participant
