"""Setting a channel up, generated stubs on it, and taking it down."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc import ChannelConnectivity, StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from tallystick.ledger.v1 import ledger_service_pb2 as ledger
from tallystick.ledger.v1 import ledger_service_pb2_grpc as ledger_grpc

import balancer
from balancer import ChannelConfig, MissingResolverError, PolicyContext, UnknownPolicyError
from balancer.policies import RoundRobin
from discovery.target import InvalidTargetError
from discovery.testing import FakeResolver
from tests.balancer.calls import call
from tests.balancer.echo import HANG, EchoServer
from tests.support.waiting import eventually


async def test_errors_of_set_up() -> None:
    """What is wrong is said before anything is opened, the target first."""
    with pytest.raises(InvalidTargetError):
        balancer.channel("http://ledger", policy="nope")
    with pytest.raises(UnknownPolicyError):
        balancer.channel("ledger", policy="nope")
    with pytest.raises(MissingResolverError, match="etcd:///tallystick/ledger needs a resolver"):
        balancer.channel("ledger")


def test_no_running_loop() -> None:
    """A channel belongs to a running event loop and is not made without one."""
    with pytest.raises(RuntimeError, match="running event loop"):
        balancer.channel("static:///127.0.0.1:1")


async def test_a_bare_name_is_a_service_of_the_registry(server: EchoServer) -> None:
    """A bare name is looked up in the project's own namespace."""
    resolver = FakeResolver()
    resolver.set("tallystick/echo", [server.address])
    async with balancer.channel("echo", resolver=resolver) as channel:
        await channel.channel_ready()
        assert "<BalancedChannel etcd:///tallystick/echo READY>" == repr(channel)


async def test_a_policy_of_ones_own(server: EchoServer) -> None:
    """A policy may be given as an object."""
    policy = RoundRobin(PolicyContext(rng=random.Random(1)))
    async with balancer.channel(f"static:///{server.address}", policy=policy) as channel:
        assert b"server:x" == await call(channel)


class _Ledger(ledger_grpc.LedgerServiceServicer):
    async def GetAccount(  # noqa: N802 - the method's name
        self, request: ledger.GetAccountRequest, context: Any
    ) -> ledger.GetAccountResponse:
        if not request.account_id:
            await context.abort(StatusCode.NOT_FOUND, "no such account")
        return ledger.GetAccountResponse(account=ledger.Account(account_id=request.account_id))


async def test_generated_stubs() -> None:
    """The stubs that protoc makes take the channel as it is."""
    server = grpc.aio.server()
    ledger_grpc.add_LedgerServiceServicer_to_server(_Ledger(), server)  # type: ignore[abstract]
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with balancer.channel(f"static:///127.0.0.1:{port}") as channel:
        stub: Any = ledger_grpc.LedgerServiceStub(channel)
        for _ in range(2):
            response = await stub.GetAccount(ledger.GetAccountRequest(account_id="alice"))
            assert "alice" == response.account.account_id
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.GetAccount(ledger.GetAccountRequest())
        assert (StatusCode.NOT_FOUND, "no such account") == (
            raised.value.code(),
            raised.value.details(),
        )
        health: Any = health_pb2_grpc.HealthStub(channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        assert serving == (await health.Check(health_pb2.HealthCheckRequest())).status
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert serving == (await watch.read()).status
        watch.cancel()
    await server.stop(None)


async def test_message_limits(server: EchoServer) -> None:
    """A message over the limit fails with RESOURCE_EXHAUSTED."""
    config = ChannelConfig(max_message_bytes=1000)
    async with balancer.channel(f"static:///{server.address}", config=config) as channel:
        assert StatusCode.RESOURCE_EXHAUSTED is await call(channel, b"x" * 2000).code()
        assert StatusCode.OK is await call(channel, b"x" * 500).code()


async def test_credentials() -> None:
    """Connections are made with the credentials given."""
    local = grpc.LocalConnectionType.LOCAL_TCP
    server = EchoServer()
    await server.start(grpc.local_server_credentials(local))
    target = f"static:///{server.address}"
    credentials = grpc.local_channel_credentials(local)
    async with balancer.channel(target, credentials=credentials) as channel:
        assert b"server:x" == await call(channel)
    await server.stop()


async def test_close_is_final_and_repeatable(server: EchoServer) -> None:
    """A closed channel is SHUTDOWN, takes no calls, and may be closed again."""
    channel = balancer.channel(f"static:///{server.address}")
    await channel.close()
    await channel.close(grace=1)
    assert ChannelConnectivity.SHUTDOWN is channel.get_state(try_to_connect=True)
    with pytest.raises(grpc.aio.UsageError, match="closed"):
        call(channel, b"x")
    with pytest.raises(grpc.aio.UsageError, match="closed"):
        await channel.channel_ready()


async def test_close_does_not_wait_for_the_drain(server: EchoServer) -> None:
    """Closing bounds what removed endpoints are still finishing."""
    resolver = FakeResolver()
    resolver.set("tallystick/echo", [server.address])
    channel = balancer.channel("echo", resolver=resolver)
    hanging = call(channel, HANG)
    await eventually(lambda: server.hanging == 1)
    resolver.set("tallystick/echo", [])
    await eventually(lambda: channel.get_state() is ChannelConnectivity.TRANSIENT_FAILURE)
    assert not hanging.done()
    async with asyncio.timeout(10):
        await channel.close()
    assert StatusCode.CANCELLED is await hanging.code()


async def test_close_interrupted_can_be_completed(server: EchoServer) -> None:
    """A close that is cancelled while it waits is completed by the next one."""
    channel = balancer.channel(f"static:///{server.address}")
    hanging = call(channel, HANG)
    await eventually(lambda: server.hanging == 1)
    closing = asyncio.ensure_future(channel.close(grace=30))
    await asyncio.sleep(0.01)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    async with asyncio.timeout(10):
        await channel.close()
    assert StatusCode.CANCELLED is await hanging.code()


async def test_a_closed_channel_hears_no_more_of_the_registry(server: EchoServer) -> None:
    """News that arrive after the close open no connection."""
    resolver = FakeResolver()
    channel = balancer.channel("echo", resolver=resolver)
    resolver.set("tallystick/echo", [server.address])
    await channel.close()
    await asyncio.sleep(0)
    assert {} == channel._pool._subchannels


async def test_a_closed_channel_is_freed(server: EchoServer) -> None:
    """Nothing keeps a closed channel alive."""
    channel = balancer.channel(f"static:///{server.address}")
    await call(channel)
    await channel.close()
    reference = weakref.ref(channel._pool)
    del channel
    await asyncio.sleep(0)
    gc.collect()
    assert reference() is None
