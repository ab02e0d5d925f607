"""How many forced writes and how many messages a transaction takes, counted from outside.

The method stands in `bench.txn`.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final

import grpc.aio
from tallystick.txn.v1 import participant_service_pb2 as pb

from bench import stocking, wal
from bench.forces import Strace
from bench.paying import Figure, Run, Side
from bench.payments import PARTICIPANTS, Series
from bench.rig import SERVICES, Rig
from discovery import NAMESPACE, Endpoint, EtcdClient, Registrar

PARTICIPANT_SERVICE: Final = "tallystick.txn.v1.ParticipantService"
UNARY_METHODS: Final = ("Prepare", "Commit", "Abort")
WARM_UP: Final = 5
_REGISTERED_TIMEOUT_S: Final = 20.0


async def forces_per_txn_alone(run: Run, side: Side, rig: Rig) -> Figure:
    """Forces of one transaction after the other."""
    return await _forces_alone(run, side, rig, run.sizes.uniform)


async def forces_one_phase(run: Run, side: Side, rig: Rig) -> Figure:
    """The same for one with a single branch."""
    await side.send("unary", run.sizes.single, WARM_UP, 1)
    return await _forces_alone(run, side, rig, run.sizes.single)


async def _forces_alone(run: Run, side: Side, rig: Rig, series: Series) -> Figure:
    count = run.sizes.alone
    strace = _strace(run, rig)
    figures = await side.send("unary", series, count, 1)
    return _figure(strace.stop(), count, figures)


async def forces_per_txn_512(run: Run, side: Side, rig: Rig) -> Figure:
    """Forces of a transaction under load, with no tracer on any thread that forces nothing."""
    looking = _strace(run, rig)
    await side.send("unary", run.sizes.uniform, WARM_UP, 1)
    looking.stop()
    strace = Strace(sorted(looking.threads), run.scratch / "strace.out", threads_only=True)
    figures = await side.stream(run.sizes, run.sizes.uniform)
    forces, details = _figure(strace.stop(), run.sizes.stream, figures)
    return forces, details | {"untraced": await _commits(run, side)}


async def _commits(run: Run, side: Side) -> dict[str, float]:
    """The same from the logs themselves, of transactions that nobody traces."""
    stores = [stocking.book(side.home, name) for name in SERVICES]
    for store in stores:
        wal.empty(store)
    figures = await side.send("stream", run.sizes.uniform, run.sizes.logged, run.sizes.in_flight)
    commits = {f"{store.name}-wal": wal.commits(store) / run.sizes.logged for store in stores}
    return commits | {"commits": sum(commits.values()), "rate": round(figures["rate"])}


def _strace(run: Run, rig: Rig) -> Strace:
    if shutil.which("strace") is None:
        raise SystemExit("strace is needed to count forces: install it")
    pids = [process.pid for process in rig.processes.values()]
    return Strace(pids, run.scratch / "strace.out")


def _figure(forces: Counter[str], count: int, figures: dict[str, float]) -> Figure:
    of_one = {name: number / count for name, number in sorted(forces.items())}
    of_logs = sum(number for name, number in of_one.items() if name.endswith("-wal"))
    return round(of_logs, 4), {"by_file": of_one, "rate_while_traced": round(figures["rate"])}


class _Between:
    """Stands in a participant's place before its coordinator, hands everything on and counts it."""

    def __init__(self, participant: str, counted: Counter[str]) -> None:
        self._channel = grpc.aio.insecure_channel(participant)
        self._counted = counted
        self._server = grpc.aio.server()
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(name)) for name in UNARY_METHODS
        }
        handlers["Exchange"] = grpc.stream_stream_rpc_method_handler(
            self._exchange,
            request_deserializer=pb.ExchangeRequest.FromString,
            response_serializer=pb.ExchangeResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(PARTICIPANT_SERVICE, handlers),)
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def start(self) -> None:
        """Serves."""
        await self._server.start()

    async def close(self) -> None:
        """Ends it."""
        await self._server.stop(None)
        await self._channel.close()

    def _unary(self, name: str) -> Any:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            f"/{PARTICIPANT_SERVICE}/{name}"
        )

        async def hand_on(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            self._counted["messages"] += 2
            self._counted["entries"] += 2
            answer: bytes = await method(request, timeout=context.time_remaining())
            return answer

        return hand_on

    async def _exchange(
        self,
        requests: AsyncIterator[pb.ExchangeRequest],
        context: grpc.aio.ServicerContext[pb.ExchangeRequest, pb.ExchangeResponse],
    ) -> AsyncIterator[pb.ExchangeResponse]:
        async def counted() -> AsyncIterator[pb.ExchangeRequest]:
            async for request in requests:
                self._counted["messages"] += 1
                self._counted["entries"] += len(request.verbs)
                self._counted["forgettable"] += len(request.forgettable_txn_ids)
                yield request

        call = self._channel.stream_stream(
            f"/{PARTICIPANT_SERVICE}/Exchange",
            request_serializer=pb.ExchangeRequest.SerializeToString,
            response_deserializer=pb.ExchangeResponse.FromString,
        )(counted(), timeout=context.time_remaining())
        async for response in call:
            self._counted["messages"] += 1
            self._counted["entries"] += len(response.votes)
            yield response


async def messages_alone(run: Run) -> Figure:
    """Messages between the coordinator and its participants, both ways, of a lone transaction."""
    return await _messages(run, run.sizes.uniform)


async def messages_one_phase(run: Run) -> Figure:
    """The same for one with a single branch."""
    return await _messages(run, run.sizes.single)


async def _messages(run: Run, series: Series) -> Figure:
    count = run.sizes.alone
    home = run.scratch / f"messages-{series.name}"
    side = Side(client=run.client, home=home, stocked={series: WARM_UP + count})
    stocking.stock(home, side.stocked)
    counted: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        # Two registries: the coordinator finds those in between, not the participants.
        served = await stack.enter_async_context(Rig(home, PARTICIPANTS))
        front = Rig(home, ())
        await stack.enter_async_context(front)
        client = EtcdClient([front.etcd.endpoint])
        stack.push_async_callback(client.close)
        registrar = Registrar(client)
        stack.push_async_callback(registrar.close)
        for name in PARTICIPANTS:
            between = _Between(served.processes[name].address, counted)
            stack.push_async_callback(between.close)
            await between.start()
            endpoint = Endpoint(between.address, id=f"{name}-between")
            registration = await registrar.register(f"{NAMESPACE}/{name}", endpoint)
            await asyncio.wait_for(registration.registered.wait(), _REGISTERED_TIMEOUT_S)
        await front.launch("coordinator")
        side.address = front.address
        await side.send("unary", series, WARM_UP, 1)
        counted.clear()
        await side.send("unary", series, count, 1)
        of_one = {name: number / count for name, number in sorted(counted.items())}
        await front.stop()
    side.check()
    return of_one["messages"], of_one
