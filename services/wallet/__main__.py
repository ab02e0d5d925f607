"""`python -m services.wallet`: the wallet."""

from __future__ import annotations

import os
from functools import partial

from tallystick.wallet.v1 import wallet_service_pb2, wallet_service_pb2_grpc

from services.runtime import Runtime, main
from services.store import open_store, own_schema
from services.wallet.passwords import Passwords, memory_cost_kib
from services.wallet.service import WalletServicer


async def setup(runtime: Runtime) -> tuple[str, ...]:
    """WalletService over its store, and channels to those it calls."""
    passwords = Passwords(memory_cost_kib(os.environ))

    async def close_passwords() -> None:
        passwords.close()

    runtime.on_stop(close_passwords)
    servicer = WalletServicer(
        await open_store(runtime, partial(own_schema, "wallet")),
        runtime.clock,
        passwords,
        order=runtime.channel("order"),
        ledger=runtime.channel("ledger"),
        coordinator=runtime.channel("coordinator"),
    )
    wallet_service_pb2_grpc.add_WalletServiceServicer_to_server(servicer, runtime.server)
    return (wallet_service_pb2.DESCRIPTOR.services_by_name["WalletService"].full_name,)


if __name__ == "__main__":
    main("wallet", setup)
