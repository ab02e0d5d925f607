"""The participant on PostgreSQL of docs/your_own_participant.md does what the page says."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from tests.docs.pages import ROOT
from tests.support.postgres import PostgresServer

TEXT = (ROOT / "docs" / "your_own_participant.md").read_text(encoding="utf-8")
RUN_TIMEOUT_S = 90.0


async def test_the_program_prints_what_is_on_the_page(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """Line by line, run as a user would, with a database of its own."""
    (code,) = re.findall(
        r"<!-- with a database, in a test -->\n```python\n(.*?)^```$",
        TEXT,
        re.MULTILINE | re.DOTALL,
    )
    program = tmp_path / "program.py"
    program.write_text(code, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(program),
        cwd=tmp_path,
        env={**os.environ, "DSN": postgres_server.database()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await asyncio.wait_for(process.communicate(), RUN_TIMEOUT_S)
    assert process.returncode == 0, errors.decode()
    section = TEXT.partition("## Tables on PostgreSQL: one method")[2]
    assert said.decode() == section.partition("It prints\n\n```\n")[2].partition("```")[0]
