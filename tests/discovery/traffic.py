"""Calls that never pause, over a balanced channel: what users would notice of a fault."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import grpc.aio

import balancer
from discovery import Resolver
from tests.balancer.echo import UNARY_UNARY

_CALL_TIMEOUT_S = 5.0
_PAUSE_S = 0.02


class Traffic:
    """Calls `service` as `resolver` finds it, from entering to leaving; counts outcomes."""

    def __init__(self, service: str, resolver: Resolver) -> None:
        self._target = f"etcd:///{service}"
        self._resolver = resolver
        self._calling: asyncio.Task[None] | None = None
        self.answered: dict[bytes, int] = {}
        self.failures: list[str] = []

    async def __aenter__(self) -> Self:
        self._calling = asyncio.ensure_future(self._call())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._calling is not None
        self._calling.cancel()
        await asyncio.wait({self._calling})

    async def _call(self) -> None:
        async with balancer.channel(self._target, resolver=self._resolver) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(UNARY_UNARY)
            while True:
                try:
                    reply = await call(b"", timeout=_CALL_TIMEOUT_S, wait_for_ready=False)
                except grpc.aio.AioRpcError as error:
                    self.failures.append(f"{error.code().name}: {error.details()}")
                else:
                    self.answered[reply] = self.answered.get(reply, 0) + 1
                await asyncio.sleep(_PAUSE_S)
