"""Calls to the echo service, typed, and who answered them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc.aio

from tests.balancer.echo import STREAM_STREAM, STREAM_UNARY, UNARY_STREAM, UNARY_UNARY
from tests.balancer.waiting import POLL_S, TIMEOUT_S


def unary_unary(channel: grpc.aio.Channel) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
    """One request, one response."""
    return channel.unary_unary(UNARY_UNARY)


def unary_stream(channel: grpc.aio.Channel) -> grpc.aio.UnaryStreamMultiCallable[bytes, bytes]:
    """One request, three responses."""
    return channel.unary_stream(UNARY_STREAM)


def stream_unary(channel: grpc.aio.Channel) -> grpc.aio.StreamUnaryMultiCallable[bytes, bytes]:
    """The requests joined into one response."""
    return channel.stream_unary(STREAM_UNARY)


def stream_stream(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamMultiCallable[bytes, bytes]:
    """A response per request."""
    return channel.stream_stream(STREAM_STREAM)


def call(channel: grpc.aio.Channel, message: bytes = b"x", **options: Any) -> Any:
    """A unary call under way."""
    return unary_unary(channel)(message, **options)


async def served_by(channel: grpc.aio.Channel, calls: int) -> dict[str, int]:
    """How many of so many calls each server answered."""
    responses = [await unary_unary(channel)(b"x") for _ in range(calls)]
    return dict(Counter(response.partition(b":")[0].decode() for response in responses))


async def only(channel: grpc.aio.Channel, *names: str) -> None:
    """Returns when the calls are spread over exactly these servers."""
    async with asyncio.timeout(TIMEOUT_S):
        while set(await served_by(channel, 6)) != set(names):  # noqa: ASYNC110 - it is by calls that one sees it
            await asyncio.sleep(POLL_S)
