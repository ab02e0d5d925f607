"""The commands and programs of the documentation work as printed, against a real mesh."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, Block, blocks
from tests.support.mesh import Mesh
from tests.support.require import require

RUN_TIMEOUT_S = 60.0
BLOCKS = [block for page in PAGES for block in blocks(page)]
# Where `make up` puts a process, and which process of the harness stands for it.
DEFAULTS = {
    "50051": "order-0",
    "50061": "ledger-0",
    "50062": "ledger-0",
    "50071": "wallet-0",
    "50091": "coordinator-0",
}
_DEFAULT_ADDRESS = re.compile(r"127\.0\.0\.1:(2379|50\d{3})")


@pytest.fixture(scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """One mesh for all examples."""
    async with Mesh(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh


def _on(mesh: Mesh, code: str) -> str:
    """The code with the addresses of this mesh in place of the default ones."""

    def address(match: re.Match[str]) -> str:
        port = match[1]
        return mesh.etcd.endpoint if port == "2379" else mesh.processes[DEFAULTS[port]].address

    return _DEFAULT_ADDRESS.sub(address, code)


async def _run(*command: str, cwd: Path = ROOT) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), RUN_TIMEOUT_S)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def _run_block(block: Block, code: str, scratch: Path) -> str:
    if block.language == "python":
        program = scratch / "example.py"
        program.write_text(code, encoding="utf-8")
        return await _run(sys.executable, str(program), cwd=scratch)
    lines = code.replace("\\\n", "").splitlines()
    return "".join([await _run(*_command(line)) for line in lines])


def _command(line: str) -> list[str]:
    program, *arguments = shlex.split(line)
    if program == "grpcurl":
        return [str(require(program)), *arguments]
    assert program.startswith(".venv/bin/"), f"{program} is neither set up nor asked for"
    return [str(Path(sys.executable).with_name(Path(program).name)), *arguments]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
async def test_example_works_as_printed(block: Block, mesh: Mesh, tmp_path: Path) -> None:
    """It ends well and prints what the page says; where the page says so, the same twice."""
    code = _on(mesh, block.code)
    printed = await _run_block(block, code, tmp_path)
    assert printed.strip()
    assert block.prints in printed
    if block.twice:
        assert printed == await _run_block(block, code, tmp_path)


def test_there_are_examples() -> None:
    """The README shows both ways from a shell, and Python; none of it goes unnoticed."""
    languages = [block.language for block in BLOCKS if block.name.startswith("README.md")]
    assert languages.count("sh") >= 2
    assert languages.count("python") >= 5
