"""Meshes for integration tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.mesh import Mesh, Shop


@pytest.fixture(scope="session")
async def shared_mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """One mesh for all tests that do not break it."""
    async with Mesh(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh


@pytest.fixture
async def shop(shared_mesh: Mesh) -> Shop:
    """A fresh merchant and a payer with 1,000.00 EUR, on the shared mesh."""
    return await Shop(shared_mesh).open()


@pytest.fixture(scope="module")
async def module_mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """One mesh for the tests of a file that break it."""
    async with Mesh(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh


@pytest.fixture
async def hurt_mesh(module_mesh: Mesh) -> AsyncIterator[Mesh]:
    """A mesh whose processes the test may stop, kill and arm; the next test finds it whole."""
    yield module_mesh
    await asyncio.gather(*(process.heal() for process in module_mesh.processes.values()))
