"""Meshes for integration tests, on both kinds of stores."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from tests.support.coordinators import launched
from tests.support.mesh import Mesh, Shop, new_mesh
from tests.support.postgres import PostgresServer

# What is always run on both; all of it is with --all-stores.
ON_BOTH = ("test_payments",)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Whatever has a mesh has it on each store that is to be tested."""
    if "postgres" not in metafunc.fixturenames:
        return
    both = metafunc.config.getoption("all_stores") or metafunc.module.__name__.endswith(ON_BOTH)
    stores = ["sqlite", "postgres"] if both else ["sqlite"]
    only = metafunc.definition.get_closest_marker("only_on")
    metafunc.parametrize(
        "postgres",
        [each for each in stores if only is None or each in only.args],
        indirect=True,
        scope="session",
    )


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> PostgresServer | None:
    """Where the meshes of a test have their books: None for SQLite files."""
    if request.param == "sqlite":
        return None
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server


@pytest.fixture(scope="session")
async def shared_mesh(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer | None
) -> AsyncIterator[Mesh]:
    """One mesh for all tests that do not break it."""
    async with new_mesh(tmp_path_factory.mktemp("mesh"), postgres) as mesh:
        yield mesh


@pytest.fixture
async def shop(shared_mesh: Mesh) -> Shop:
    """A fresh merchant and a payer with 1,000.00 EUR, on the shared mesh."""
    return await Shop(shared_mesh).open()


@pytest.fixture(scope="module")
async def module_mesh(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer | None
) -> AsyncIterator[Mesh]:
    """One mesh for the tests of a file that break it."""
    async with new_mesh(tmp_path_factory.mktemp("mesh"), postgres) as mesh:
        yield mesh


@pytest.fixture
async def hurt_mesh(module_mesh: Mesh) -> AsyncIterator[Mesh]:
    """A mesh whose processes the test may stop, kill and arm; the next test finds it whole."""
    yield module_mesh
    await asyncio.gather(*(process.heal() for process in module_mesh.processes.values()))


@pytest.fixture
async def pair(hurt_mesh: Mesh) -> AsyncIterator[Mesh]:
    """A mesh with two coordinators, of which the test may hurt either."""
    second = hurt_mesh.replica("coordinator", 1)
    hurt_mesh.processes["coordinator-1"] = second
    try:
        await launched(hurt_mesh, second)
        yield hurt_mesh
    finally:
        del hurt_mesh.processes["coordinator-1"]
        if not second.has_ended:
            second.send(signal.SIGCONT)
            await second.terminate()
