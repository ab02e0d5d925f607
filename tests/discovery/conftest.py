"""A real etcd for each test, alone or as a cluster, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from discovery import EtcdClient
from tests.discovery.party import Party
from tests.support.certificates import Authority
from tests.support.etcd import EtcdOptions, EtcdProcess
from tests.support.etcd_cluster import EtcdCluster

StartEtcd = Callable[[EtcdOptions], EtcdProcess]
StartParty = Callable[..., Party]


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


@pytest.fixture
def start_etcd() -> Iterator[StartEtcd]:
    """Starts an etcd with options, and ends it afterwards."""
    with ExitStack() as started:
        yield lambda options: started.enter_context(EtcdProcess(options))


@pytest.fixture
def cluster() -> Iterator[EtcdCluster]:
    """A fresh cluster, running."""
    with EtcdCluster() as cluster:
        yield cluster


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Who issues this test's certificates."""
    return Authority(tmp_path)


@pytest_asyncio.fixture
async def party() -> AsyncIterator[StartParty]:
    """Makes a Party of what it is given, and closes it afterwards."""
    async with AsyncExitStack() as made:

        def make(*args: Any, **kwargs: Any) -> Party:
            one = Party(*args, **kwargs)
            made.push_async_callback(one.close)
            return one

        yield make
