"""Meshes for integration tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

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


@pytest.fixture
async def own_mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    """A mesh that the test may break."""
    async with Mesh(tmp_path) as mesh:
        yield mesh
