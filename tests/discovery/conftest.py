"""A real etcd for each test, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from discovery import EtcdClient
from tests.support.etcd import EtcdProcess


@pytest.fixture
def etcd() -> Iterator[EtcdProcess]:
    """A fresh etcd, running."""
    with EtcdProcess() as process:
        yield process


@pytest_asyncio.fixture
async def client(etcd: EtcdProcess) -> AsyncIterator[EtcdClient]:
    """A client of `etcd`."""
    client = EtcdClient([etcd.endpoint])
    yield client
    await client.close()
