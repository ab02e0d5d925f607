"""Waits on conditions, with a deadline and never for a fixed time."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

TIMEOUT_S = 10.0
POLL_S = 0.005


async def reaches(
    channel: grpc.aio.Channel, state: grpc.ChannelConnectivity, timeout_s: float = TIMEOUT_S
) -> None:
    """Returns when `channel` is in `state`."""
    async with asyncio.timeout(timeout_s):
        while (seen := channel.get_state()) is not state:
            await channel.wait_for_state_change(seen)
