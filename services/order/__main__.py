"""`python -m services.order`: one replica of the order service."""

from __future__ import annotations

from tallystick.order.v1 import order_service_pb2, order_service_pb2_grpc

from services.ids import new_id
from services.operations import PAY_TRADE
from services.order.payment import PayTradeResource
from services.order.service import OrderServicer
from services.runtime import Runtime, main
from services.store import open_participant


async def setup(runtime: Runtime) -> tuple[str, ...]:
    """OrderService, and the participant "order"."""
    store, participant = await open_participant(runtime, PayTradeResource(runtime.clock), PAY_TRADE)
    order_service_pb2_grpc.add_OrderServiceServicer_to_server(
        OrderServicer(store, runtime.clock, new_id), runtime.server
    )
    service = order_service_pb2.DESCRIPTOR.services_by_name["OrderService"]
    return service.full_name, participant


if __name__ == "__main__":
    main("order", setup)
