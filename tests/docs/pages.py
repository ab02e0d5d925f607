"""The documentation as data: its pages, and the blocks in them that are marked to be run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

_BLOCK = re.compile(
    r"<!-- run(?P<twice> twice)?(?:, prints (?P<prints>[^\n]*?))? -->\n"
    r"```(?P<language>python|sh)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_MARK = re.compile(r"^<!-- run", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """One block of code that the page promises to work as printed."""

    name: str
    language: str
    code: str
    prints: str
    twice: bool


def blocks(page: Path) -> list[Block]:
    """The marked blocks of a page, named by file and line."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(
            f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}",
            match["language"],
            match["code"],
            match["prints"] or "",
            match["twice"] is not None,
        )
        for match in _BLOCK.finditer(text)
    ]
    assert len(found) == len(_MARK.findall(text)), f"{page.name} has a mark without a block"
    return found


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    section = page.read_text(encoding="utf-8").partition(f"# {heading}\n")[2]
    assert section, f"{page.name} has no heading {heading!r}"
    lines = section[section.index("\n|") + 1 :].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def quoted(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)
